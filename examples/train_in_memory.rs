//! Trains retaining heads on questions and answers in memory, then further from what they have learned:
//! `cargo run --release --features train --example train_in_memory -- MODEL_DIR`

use std::error::Error;

use burn::tensor::Device;
use burn_apb::prelude::*;
use burn_apb::tasks::TextSample;

fn losses(folder: &str) -> Result<[f64; 2], Box<dyn Error>> {
    let model = LanguageModel::load(folder, &Device::flex())?;
    let sample = |room: u32| {
        let text = TextSample {
            document: format!("Room {room} has the number {}. ", room * 7).repeat(12),
            question: format!("Which number has room {room}?"),
            answer: format!("It is {}.", room * 7),
        };
        Sample::new(&model.text, &text, true, model.text.config.context())
    };
    let samples = (1..9).map(sample).collect::<Result<Vec<_>, _>>()?;
    let config = TrainHeadsConfig::new().with_steps(24);
    let trainer = || HeadsTrainer::new(&model).config(config.clone());
    let first = trainer().fit(samples.clone())?;
    let further = trainer().start_from(first.heads).fit(samples)?;
    Ok([first.rounds[0].loss, further.rounds[0].loss])
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1);
    let [first, further] = losses(&folder.ok_or("usage: train_in_memory MODEL_DIR")?)?;
    println!("mean loss {first:.4}, trained further {further:.4}");
    Ok(())
}

#[test]
fn further_training_has_a_lower_loss() {
    let [first, further] = losses("tests/fixtures/models/llama-gqa").expect("trained heads");
    assert!(further < first, "{first}, then {further}");
}
