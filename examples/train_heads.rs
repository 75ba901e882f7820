//! Trains retaining heads for a model on samples made from a text, and writes them as safetensors.
//!
//! ```sh
//! cargo run --release --example train_heads -- MODEL_DIR TEXT OUT.safetensors [STEPS]
//! ```
//!
//! `apb train-heads` does the same with every choice as a flag.

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{Device, FloatDType};
use burn_apb::LanguageModel;
use burn_apb::apb::compressor::{Compressor, QueryAware, Random};
use burn_apb::checkpoint::ModelSource;
use burn_apb::tasks::SynthesisConfig;
use burn_apb::training::{
    Backbone, Collector, HeadsCard, HeadsTrainer, TrainHeadsConfig, evaluate, save_heads,
};

/// Tokens of the documents to make.
const LENGTHS: std::ops::RangeInclusive<usize> = 600..=1200;
const HELD_OUT: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (folder, text, out, steps) = match &args[..] {
        [folder, text, out] => (folder, text, out, 100),
        [folder, text, out, steps] => (folder, text, out, steps.parse()?),
        _ => return Err("usage: train_heads MODEL_DIR TEXT OUT.safetensors [STEPS]".into()),
    };
    let device = Device::flex();
    let model = LanguageModel::load(folder, &device)?;

    // A question about a number or a fact hidden in the text, or about a sentence of its own.
    let mut samples = Collector::new(&model.text, model.text.config.context(), true, true);
    let text = std::fs::read_to_string(text)?;
    let synthesis = SynthesisConfig::new(steps + HELD_OUT, LENGTHS);
    samples.add_synthesis(&text, synthesis, &mut |_, _| ControlFlow::Continue(()))?;
    let data = samples.finish(HELD_OUT, 0)?;

    let recipe = TrainHeadsConfig::new()
        .with_steps(steps)
        .with_round(steps.div_ceil(4));
    let backbone = Backbone::from(&model);
    let trained = HeadsTrainer::new(backbone.clone())
        .config(recipe.clone())
        .held_out(data.held_out.clone())
        .fit(data.train)?;
    for round in &trained.rounds {
        println!(
            "step {:>5}: loss {:.4}, recall {:.3}",
            round.step, round.loss, round.recall
        );
    }

    let random = Random::new(0);
    let compressors: [&dyn Compressor; 3] = [&trained.heads, &QueryAware, &random];
    let go_on = |_, _| ControlFlow::Continue(());
    let found = evaluate(&backbone, &compressors, &data.held_out, recipe.keep, go_on)?;
    for (compressor, found) in compressors.iter().zip(found) {
        println!("{:<12} recall {:.3}", compressor.name(), found.all.recall);
    }

    let card = HeadsCard {
        model: Some(ModelSource::open(&args[0])?.fingerprint()?),
        ..HeadsCard::default()
    };
    save_heads(&trained.heads, Path::new(out), FloatDType::BF16, &card)?;
    println!("{out}");
    Ok(())
}
