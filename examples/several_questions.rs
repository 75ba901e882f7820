//! One document, prefilled once by APB over four ranks: several questions, two threads with a fork each, and
//! the document kept on disk.
//!
//! ```sh
//! cargo run --release --example several_questions -- MODEL FILE "first question" "second question"
//! ```

use std::error::Error;

use burn::tensor::Device;
use burn_apb::prelude::*;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, file, questions @ ..] = &arguments[..] else {
        return Err("usage: several_questions MODEL FILE QUESTION..".into());
    };
    for answer in answers(model, file, questions)? {
        println!("{answer}");
    }
    Ok(())
}

/// The answers to the questions, which are the same however they are asked.
pub fn answers(
    model: &str,
    file: &str,
    questions: &[String],
) -> Result<Vec<String>, Box<dyn Error>> {
    let model = LanguageModel::load(model, &Device::flex())?;
    let text = std::fs::read_to_string(file)?;
    let apb = PrefillConfig::new(Method::Apb, 4);
    let hint = questions.join(" ");
    let mut document = model.prefill(&text).method(apb).hint(hint).run()?;

    // One after another.
    let mut answers = Vec::new();
    for question in questions {
        answers.push(document.ask(question).max_tokens(32).run()?.text);
    }

    // At once: a fork owns its questions and shares the document.
    let mut threads = Vec::new();
    for question in questions {
        let (mut fork, question) = (document.fork()?, question.clone());
        threads.push(std::thread::spawn(move || {
            let reply = fork.ask(question).max_tokens(32).run();
            reply.map(|reply| reply.text)
        }));
    }
    for (thread, expected) in threads.into_iter().zip(&answers) {
        let found = thread.join().map_err(|_| "a thread panicked")??;
        if found != *expected {
            return Err(format!("a fork answered `{found}`, not `{expected}`").into());
        }
    }

    // Later: the prefilled document on disk.
    let folder = tempfile::tempdir()?;
    document.save(folder.path())?;
    let mut opened = model.open_session(folder.path())?;
    for (question, expected) in questions.iter().zip(&answers) {
        let found = opened.ask(question).max_tokens(32).run()?.text;
        if found != *expected {
            return Err(format!("the saved document answered `{found}`, not `{expected}`").into());
        }
    }
    Ok(answers)
}
