//! An HTTP service that answers questions about documents, each prefilled once. Answers are streamed; a client that
//! goes away ends its answer.
//!
//! ```sh
//! cargo run --release --package service -- MODEL first.txt second.txt
//! curl --no-buffer --data "What was decided?" http://127.0.0.1:3000/first.txt
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use burn::tensor::Device;
use burn_apb::LanguageModel;
use burn_apb::apb::DocumentSession;

type Documents = Arc<HashMap<String, Mutex<DocumentSession>>>;
type Refused = (StatusCode, String);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("usage: service MODEL FILE..")?;
    let service = service(&model, arguments)?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, service).await?)
}

/// Prefills the files and serves each under its name.
fn service(model: &str, files: impl Iterator<Item = String>) -> Result<Router, Box<dyn Error>> {
    let model = LanguageModel::load(model, &Device::flex())?;
    let mut documents = HashMap::new();
    for file in files {
        let document = model.prefill(&std::fs::read_to_string(&file)?).run()?;
        let name = file.rsplit('/').next().unwrap_or_default().to_string();
        documents.insert(name, Mutex::new(document));
    }
    let answers = Router::new().route("/{document}", post(answer));
    Ok(answers.with_state(Arc::new(documents)))
}

async fn answer(
    State(documents): State<Documents>,
    Path(name): Path<String>,
    question: String,
) -> Result<Body, Refused> {
    let absent = || {
        (
            StatusCode::NOT_FOUND,
            format!("there is no document `{name}`"),
        )
    };
    let document = documents.get(&name).ok_or_else(absent)?;
    // Held while a fork is made, not while it answers.
    let mut document = document.lock().unwrap_or_else(PoisonError::into_inner);
    let pieces = document.ask(question).max_tokens(256).async_stream();
    Ok(Body::from_stream(pieces.map_err(refused)?))
}

fn refused(error: impl Error) -> Refused {
    (StatusCode::BAD_REQUEST, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;
    use tower::ServiceExt;

    #[tokio::test]
    async fn two_documents_are_asked_at_once() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let model = format!("{root}/tests/fixtures/models/llama-gqa");
        let files = ["LICENSE-MIT", "examples/data/README.md"].map(|file| format!("{root}/{file}"));
        let service = service(&model, files.into_iter()).unwrap();
        let ask = |name: &str, question: &str| {
            let request = Request::post(name).body(Body::from(question.to_string()));
            let service = service.clone();
            async move {
                let response = service.oneshot(request.unwrap()).await.unwrap();
                let status = response.status();
                let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await;
                (status, bytes.unwrap())
            }
        };
        let (first, second, again, absent, empty) = tokio::join!(
            ask("/LICENSE-MIT", "Who may use it?"),
            ask("/README.md", "Who may use it?"),
            ask("/LICENSE-MIT", "Who may use it?"),
            ask("/LICENSE-BSD", "Who may use it?"),
            ask("/LICENSE-MIT", " "),
        );
        assert_eq!(first.0, StatusCode::OK);
        assert!(!first.1.is_empty());
        assert_eq!(first, again);
        assert_ne!(first.1, second.1);
        assert_eq!(absent.0, StatusCode::NOT_FOUND);
        assert_eq!(empty.0, StatusCode::BAD_REQUEST);
    }
}
