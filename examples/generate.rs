//! Answers a question about a text file, streaming the answer.
//!
//! ```sh
//! cargo run --release --example generate -- MODEL_DIR FILE "question"
//! ```

use std::error::Error;
use std::io::Write;
use std::ops::ControlFlow;

use burn::tensor::Device;
use burn_apb::LanguageModel;
use burn_apb::apb::{AnswerOptions, Observer, answer_with};

/// Prints the answer while it is generated.
struct Stdout;

impl Observer for Stdout {
    fn text(&mut self, text: &str) -> ControlFlow<()> {
        print!("{text}");
        match std::io::stdout().flush() {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, file, question] = &args[..] else {
        return Err("usage: generate MODEL_DIR FILE QUESTION".into());
    };
    let model = LanguageModel::load(folder, &Device::flex())?;
    let document = std::fs::read_to_string(file)?;
    let options = AnswerOptions::default();
    let answer = answer_with(&model, &document, question, &options, &mut Stdout)?;
    println!();
    eprintln!(
        "{} document tokens at {:.0} tok/s",
        answer.document_tokens,
        answer.prefill_tokens_per_second()
    );
    Ok(())
}
