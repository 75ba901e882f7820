//! Prints progress, then the answer while it is generated; Enter cancels either.
//!
//! ```sh
//! cargo run --release --example stream_and_cancel -- MODEL FILE "question"
//! ```

use std::error::Error;
use std::io::Write;

use burn::tensor::Device;
use burn_apb::prelude::*;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, file, question] = &arguments[..] else {
        return Err("usage: stream_and_cancel MODEL FILE QUESTION".into());
    };
    let token = CancelToken::new();
    let enter = token.clone();
    std::thread::spawn(move || {
        let pressed = std::io::stdin().read_line(&mut String::new());
        if pressed.is_ok_and(|bytes| bytes > 0) {
            enter.cancel();
        }
    });
    stream(model, file, question, &token, &mut std::io::stdout())
}

/// Writes the answer piece by piece.
pub fn stream(
    model: &str,
    file: &str,
    question: &str,
    token: &CancelToken,
    out: &mut dyn Write,
) -> Result<(), Box<dyn Error>> {
    let model = LanguageModel::load(model, &Device::flex())?;
    let text = std::fs::read_to_string(file)?;
    let prefill = model.prefill(&text).cancel(token);
    let mut document = prefill.progress(|done| eprint!("\r{done} ")).run()?;
    eprintln!();
    let mut answer = document.ask(question).cancel(token).stream()?;
    for piece in answer.by_ref() {
        write!(out, "{}", piece?)?;
        out.flush()?;
    }
    writeln!(out)?;
    if let Some(reply) = answer.reply() {
        let completion = &reply.completion;
        let rate = completion.decode_tokens_per_second().unwrap_or_default();
        eprintln!(
            "{}, {rate:.1} tokens a second",
            completion.stop_reason.name()
        );
    }
    Ok(())
}
