//! An answer that is one of several choices, whatever the model would rather say.
//!
//! ```sh
//! cargo run --release --example constrained_output -- MODEL FILE "question" yes no
//! ```

use std::error::Error;

use burn::tensor::Device;
use burn_apb::prelude::*;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, file, question, choices @ ..] = &arguments[..] else {
        return Err("usage: constrained_output MODEL FILE QUESTION CHOICE..".into());
    };
    println!("{}", choose(model, file, question, choices)?);
    Ok(())
}

/// The choice that the model finds likeliest, token by token.
pub fn choose(
    model: &str,
    file: &str,
    question: &str,
    choices: &[String],
) -> Result<String, Box<dyn Error>> {
    let model = LanguageModel::load(model, &Device::flex())?;
    let text = std::fs::read_to_string(file)?;
    let mut document = model.prefill(&text).run()?;

    let tokenizer = &model.text.tokenizer;
    let encoded = choices.iter().map(|choice| tokenizer.encode(choice, false));
    let choices: Vec<Vec<u32>> = encoded.collect::<Result<_, _>>()?;
    let ends: Vec<u32> = model.text.stop_tokens.iter().map(|stop| stop.id).collect();
    let longest = choices.iter().map(Vec::len).max().unwrap_or_default();
    let allowed = AllowTokens::from_fn(move |so_far| {
        let rest = choices
            .iter()
            .filter_map(|choice| choice.strip_prefix(so_far));
        let next: Vec<u32> = rest.filter_map(|rest| rest.first().copied()).collect();
        if next.is_empty() { ends.clone() } else { next }
    });
    let question = document.ask(question).processor(allowed);
    Ok(question.max_tokens(longest + 1).run()?.text)
}
