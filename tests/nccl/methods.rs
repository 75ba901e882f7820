//! Every method over processes gives what one process does. Not to the last bit: parts are merged in another order, and
//! products of few rows add up in an order that depends on where the weights lie.

use std::sync::Arc;

use burn::tensor::{Device, FloatDType};
use burn_apb::apb::{
    CompressorConfig, Document, Method, Observer, PrefillConfig, RingLayout, Session,
    SessionConfig, compressor,
};
use burn_apb::model::{Architecture, CausalLm, Decoder, DecoderConfig};
use burn_apb::ranks::{Environment, RankGroup};

use crate::launcher::{join, task};
use crate::transport::run;

const RANKS: usize = 8;
/// The largest difference from one process, relative to the rms.
const SAME: f32 = 1e-5;

fn configs() -> Vec<PrefillConfig> {
    let base = |method| PrefillConfig::new(method, RANKS);
    let apb = |compressor| {
        base(Method::Apb)
            .with_anchor(12)
            .with_passing(5)
            .with_compressor(compressor)
    };
    vec![
        base(Method::Ring),
        base(Method::Ring).with_ring_layout(RingLayout::Contiguous),
        base(Method::Ulysses),
        base(Method::Star),
        apb(CompressorConfig::QueryAware),
        apb(CompressorConfig::Random { seed: 3 }),
    ]
}

struct Quiet;
impl Observer for Quiet {}

/// Logits of a question's rows, and of a token behind it.
fn answer(
    group: RankGroup,
    config: &PrefillConfig,
    model: &DecoderConfig,
    decoder: &Arc<Decoder>,
) -> Vec<f32> {
    let tokens = |count: u32, step: u32| (0..count).map(|i| i * step % 64).collect::<Vec<u32>>();
    let document = Document::new(tokens(323, 7)).with_anchor_query(tokens(3, 5));
    let plan = config.plan(&document, model).expect("a plan");
    let device = Device::flex();
    let scorer = compressor::load(&plan, model, FloatDType::F32, &device).expect("no heads");
    let settings = SessionConfig::new(document.tokens.len() + 32).with_chunk(16);
    let mut session = Session::new(decoder.clone(), settings).with_group(group);
    session
        .prefill_with(&document, &plan, scorer.as_deref(), &mut Quiet)
        .expect("prefilled");
    let mut all = Vec::new();
    for question in [tokens(20, 3), tokens(1, 1)] {
        let rows = session.extend(&question).expect("rows");
        let logits = decoder.logits(rows).expect("logits").into_data();
        all.extend(logits.try_to_vec::<f32>().expect("f32"));
    }
    all
}

/// One process of those that share out the ranks.
pub fn process(environment: &Environment) {
    let device = Device::flex();
    device.seed(7);
    let model = DecoderConfig::new(Architecture::Llama, 64, 32, 48, 3, 8, 8, 8);
    let decoder = Arc::new(model.init(&device));
    let world = join(environment);
    for config in configs() {
        let group = world.group(RANKS).expect("even");
        let got = answer(group, &config, &model, &decoder);
        let one = answer(RankGroup::local(RANKS), &config, &model, &decoder);
        let norm: f32 = one.iter().map(|x| x * x).sum();
        let error: f32 = got.iter().zip(&one).map(|(x, y)| (x - y) * (x - y)).sum();
        assert!(
            error <= SAME * SAME * norm,
            "{config:?}: {error:e} of {norm:e}"
        );
    }
    world.leave().expect("left");
    println!("process {} done", world.process());
}

#[test]
fn every_method() {
    for (processes, seed) in [(2, "11"), (4, "12"), (8, "13")] {
        let mut command = task(processes, "methods");
        command.env("STAND_IN_JITTER", seed);
        run(command, processes);
    }
}
