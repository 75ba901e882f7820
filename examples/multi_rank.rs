//! Ranks as processes from Rust: every process runs this program and drives some of the ranks.
//!
//! ```sh
//! cargo build --release --features mpi --example multi_rank
//! mpirun -n 4 target/release/examples/multi_rank MODEL_DIR report.txt "What was decided?"
//! ```
//!
//! Started alone it answers with as many ranks in its own process.

use burn::tensor::Device;
use burn_apb::prelude::*;

/// All ranks, whatever the number of processes.
const RANKS: usize = 4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, document, question] = &arguments[..] else {
        return Err("usage: multi_rank MODEL_DIR DOCUMENT QUESTION".into());
    };

    // The only difference to a program of one process: it joins the others.
    let world = World::detect(JoinOptions::default())?;
    match answer(&world, model, document, question) {
        Ok(answer) if world.process() == 0 => println!("{answer}"),
        Ok(_) => {}
        // Where a process was lost the error names it. The others wait for this one no longer than that.
        Err(error) => {
            eprintln!("{error}");
            world.fail(&error.to_string());
            world.exit(1);
        }
    }
    Ok(world.leave()?)
}

/// The answer, by all processes of the world together.
pub fn answer(
    world: &World,
    model: &str,
    document: &str,
    question: &str,
) -> Result<String, Box<dyn std::error::Error>> {
    let model = LanguageModel::load(model, &Device::flex())?;
    let document = std::fs::read_to_string(document)?;
    let options = AnswerOptions {
        prefill: PrefillConfig::new(Method::Apb, RANKS),
        max_tokens: 64,
        ..AnswerOptions::default()
    };
    let request = Request::new(&model.text, &document, question, &options)?;
    let group = world.group(RANKS)?;
    Ok(answer_over(group, &model, &request, &options, &mut ())?.text)
}
