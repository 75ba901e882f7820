//! One question about a text file.
//!
//! ```sh
//! cargo run --release --example answer -- MODEL FILE "question"
//! ```

use burn::tensor::Device;
use burn_apb::LanguageModel;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [model, file, question] = [1, 2, 3].map(|n| std::env::args().nth(n).unwrap_or_default());
    let model = LanguageModel::load(model, &Device::flex())?;
    let text = std::fs::read_to_string(file)?;
    println!("{}", model.prefill(&text).run()?.ask(question).run()?.text);
    Ok(())
}
