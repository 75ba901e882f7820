//! Ranks as processes from Rust: every process runs this program and drives one rank.
//!
//! ```sh
//! cargo build --release --features mpi --example multi_rank
//! mpirun -n 4 target/release/examples/multi_rank MODEL_DIR report.txt "What was decided?"
//! ```
//!
//! Started alone it answers with as many ranks in its own process.

use std::ops::{ControlFlow, Range};

use burn::tensor::Device;
use burn_apb::LanguageModel;
use burn_apb::apb::{
    AnswerOptions, Assignment, CompressorConfig, Method, PrefillConfig, Request, Session,
    SessionConfig, compressor,
};
use burn_apb::ranks::{Environment, JoinOptions, RankGroup, World};
use burn_apb::text::sampler::{Sampler, SamplerConfig};

/// Ranks where the program was started alone.
const RANKS: usize = 4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, document, question] = &arguments[..] else {
        return Err("usage: multi_rank MODEL_DIR DOCUMENT QUESTION".into());
    };

    // Connects with the other processes. From here on the loss of one ends all, by name.
    let world = match Environment::detect()?.filter(|found| found.processes > 1) {
        Some(environment) => Some(World::join(&environment, JoinOptions::default())?),
        None => None,
    };
    let mut group = match &world {
        Some(world) => world.group(world.processes())?,
        None => RankGroup::local(RANKS),
    };
    let first = group.ranks().start == 0;
    let ranks = group.world_size();

    let device = Device::flex();
    let model = LanguageModel::load(model, &device)?;

    // The first process reads the document; each gets the tokens of its ranks' rows.
    let options = AnswerOptions {
        prefill: PrefillConfig::new(Method::Apb, ranks)
            .with_compressor(CompressorConfig::QueryAware),
        ..AnswerOptions::default()
    };
    let request = match first {
        true => {
            let document = std::fs::read_to_string(document)?;
            Some(Request::new(&model.text, &document, question, &options)?)
        }
        false => None,
    };
    let assign = request.as_ref().map(|request| {
        move |ranks: Range<usize>| {
            let Request {
                document,
                plan,
                query,
                capacity,
                ..
            } = request;
            Assignment::new(document, plan, query, *capacity, 64, ranks)
        }
    });
    let assign = assign
        .as_ref()
        .map(|assign| assign as &dyn Fn(Range<usize>) -> Assignment);
    let task = Assignment::scatter(&mut group, assign)?;

    let config = &model.text.config;
    let scorer = compressor::load(&task.plan, config, model.dtype, &device)?;
    let settings = SessionConfig::new(task.capacity)
        .with_context(task.plan.tokens + task.query.len())
        .with_dtype(model.dtype);
    let mut session = Session::new(&model.decoder, config, settings, &device).with_group(group);
    session.prefill_part(&task, scorer.as_deref(), &mut ())?;

    // The first process chooses the tokens, all compute them.
    let mut sampler = Sampler::new(SamplerConfig::from(&model.text.generation))?;
    let stop: Vec<u32> = model.text.stop_tokens.iter().map(|stop| stop.id).collect();
    let proceed = |_| ControlFlow::Continue(());
    let answer = session.ask(&task.query, &mut sampler, &stop, task.max_tokens, proceed)?;
    if first {
        println!("{}", model.text.tokenizer.decode(&answer.tokens, true)?);
    }
    if let Some(world) = world {
        world.leave()?;
    }
    Ok(())
}
