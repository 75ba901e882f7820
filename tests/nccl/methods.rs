//! Every method over processes gives what one process gives, to the last bit: what ranks hold, select and compute, and the
//! logits of rows that follow.
//!
//! That process drives the ranks with as many threads as there are processes, since the last bits depend on how many
//! share the ranks:
//!
//! - APB's local rows attend to the anchor and themselves while passing blocks travel, and to these afterwards; where
//!   nothing travels, to all at once.
//! - Rows that follow the document attend to the rows of each process, and the parts are merged in the order of processes.
//! - A process computes the anchor's rows once, beside those of the first of its ranks that needs them (Star, APB). On a CPU
//!   the sums of a row are rescaled where the first row of its panel ceases to see keys, so that other neighbours are other
//!   roundings.
//!
//! No such thing is in a prefill by ring or Ulysses, which is compared to the bit with a process that drives all ranks in
//! one thread, too; all else is compared with that one up to rounding. Each method has its ranks in order and folded.
//! Full attention has one rank, which no processes share. Kernels share nothing out over threads here, and all memory
//! is [aligned](crate::aligned).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::{Device, FloatDType, Tensor};
use burn_apb::apb::{
    CompressorConfig, Document, Method, Observer, PrefillConfig, RingLayout, SaveOptions, Session,
    SessionConfig, compressor,
};
use burn_apb::model::{Architecture, CausalLm, Decoder, DecoderConfig};
use burn_apb::ranks::{Environment, JoinOptions, RankGroup, RankOrder, Threads, World, threads};

use crate::launcher::{options, task};
use crate::transport::run;

const RANKS: usize = 8;
/// The largest difference from one thread, relative to the rms.
const SAME: f32 = 1e-5;
/// The end of the name of a task with folded ranks.
const FOLDED: &str = "_folded";
/// Longest wait of a thread for another.
const DEADLINE: Duration = Duration::from_secs(60);

fn config(name: &str) -> PrefillConfig {
    let base = |method| PrefillConfig::new(method, RANKS);
    let apb = |compressor| {
        base(Method::Apb)
            .with_anchor(12)
            .with_passing(5)
            .with_compressor(compressor)
    };
    match name {
        "ring" => base(Method::Ring),
        "ring_of_blocks" => base(Method::Ring).with_ring_layout(RingLayout::Contiguous),
        "ulysses" => base(Method::Ulysses),
        "star" => base(Method::Star),
        "apb_query_aware" => apb(CompressorConfig::QueryAware),
        "apb_random" => apb(CompressorConfig::Random { seed: 3 }),
        other => panic!("no method {other}"),
    }
}

/// Bytes by what they are of.
type Results = BTreeMap<String, Vec<u8>>;

fn bytes<const D: usize>(tensor: Tensor<D>) -> Vec<u8> {
    tensor.into_data().as_bytes().to_vec()
}

/// Takes down what ranks compute and select.
#[derive(Default)]
struct Seen(Results);

impl Observer for Seen {
    fn wants_rows(&self) -> bool {
        true
    }

    fn wants_selections(&self) -> bool {
        true
    }

    fn selected(&mut self, layer: usize, rank: usize, positions: &[Vec<Vec<usize>>]) {
        let positions = positions.iter().flatten().flatten();
        let selected = positions.flat_map(|position| position.to_le_bytes());
        let name = format!("selection of rank {rank} in layer {layer}");
        self.0.insert(name, selected.collect());
    }

    fn attention(&mut self, rank: usize, rows: Tensor<3>) {
        self.0
            .insert(format!("attention of rank {rank}"), bytes(rows));
    }

    fn hidden(&mut self, rank: usize, rows: Tensor<3>) {
        self.0
            .insert(format!("hidden rows of rank {rank}"), bytes(rows));
    }
}

/// What the ranks of this process, or of this thread, compute of a document, a question and a token behind it.
fn results(group: RankGroup, config: &PrefillConfig, decoder: &Arc<Decoder>) -> Results {
    let tokens = |count: u32, step: u32| (0..count).map(|i| i * step % 64).collect::<Vec<u32>>();
    let document = Document::new(tokens(323, 7)).with_anchor_query(tokens(3, 5));
    let plan = config.plan(&document, &decoder.config).expect("a plan");
    let scorer = compressor::load(&plan, &decoder.config, FloatDType::F32, &Device::flex());
    let scorer = scorer.expect("no heads");
    let settings = SessionConfig::new(document.tokens.len() + 32).with_chunk(16);
    let mut session = Session::new(decoder.clone(), settings).with_group(group);
    let mut seen = Seen::default();
    session
        .prefill_with(&document, &plan, scorer.as_deref(), &mut seen)
        .expect("prefilled");
    let Seen(mut all) = seen;

    // Keys and values of each rank, in a file of its own.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let saved = session.save(folder.path(), "model", SaveOptions::default());
    saved.expect("saved");
    for rank in session.group().ranks() {
        let file = format!("rank-{rank}-of-{RANKS}.safetensors");
        let held = std::fs::read(folder.path().join(&file)).expect("a rank's file");
        all.insert(file, held);
    }

    // 20 rows are a pass of 16 and one of 4.
    for question in [tokens(20, 3), tokens(1, 1)] {
        let rows = session.extend(&question).expect("rows");
        let logits = decoder.logits(rows).expect("logits");
        all.insert(logits_of(question.len()), bytes(logits));
    }
    all
}

fn logits_of(tokens: usize) -> String {
    format!("logits of {tokens} tokens")
}

/// What this process computes with a thread in place of each process.
fn over_threads(
    processes: usize,
    order: RankOrder,
    config: &PrefillConfig,
    decoder: &Arc<Decoder>,
) -> Results {
    std::thread::scope(|scope| {
        let start = |transport: Threads| {
            scope.spawn(move || {
                let group = RankGroup::new(RANKS, Box::new(transport)).expect("even");
                results(group.with_order(order), config, decoder)
            })
        };
        let running: Vec<_> = threads(processes, DEADLINE)
            .into_iter()
            .map(start)
            .collect();
        let mut all = Results::new();
        for thread in running {
            for (name, bits) in thread.join().expect("a thread") {
                if let Some(other) = all.get(&name) {
                    assert_eq!(differing(&bits, other), 0, "{config:?}: {name} of threads");
                }
                all.insert(name, bits);
            }
        }
        all
    })
}

/// How many bytes differ.
fn differing(one: &[u8], other: &[u8]) -> usize {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).filter(|(a, b)| a != b).count()
}

/// Fails where the logits differ by more than rounding.
fn assert_near(config: &PrefillConfig, got: &Results, one: &Results) {
    for name in [logits_of(20), logits_of(1)] {
        let floats = |results: &Results| {
            let (floats, _) = results[&name].as_chunks();
            let floats = floats.iter().map(|float| f32::from_le_bytes(*float));
            floats.collect::<Vec<f32>>()
        };
        let (got, one) = (floats(got), floats(one));
        let norm: f32 = one.iter().map(|x| x * x).sum();
        let error: f32 = got.iter().zip(&one).map(|(x, y)| (x - y) * (x - y)).sum();
        assert!(
            error <= SAME * SAME * norm,
            "{config:?}: {name}: {error:e} of {norm:e}"
        );
    }
}

/// One process of those that share out the ranks.
pub fn process(environment: &Environment, name: &str) {
    let device = Device::flex();
    device.seed(7);
    let model = DecoderConfig::new(Architecture::Llama, 64, 32, 48, 3, 8, 8, 8);
    let decoder = Arc::new(model.init(&device));
    // Weights are drawn when they are first used, in an order that threads would change.
    assert!(decoder.weight_bytes() > 0);
    let (name, rank_order) = match name.strip_suffix(FOLDED) {
        Some(name) => (name, RankOrder::Folded),
        None => (name, RankOrder::InOrder),
    };
    let config = config(name);
    let options = JoinOptions {
        rank_order,
        ..options(environment)
    };
    let world = World::join(environment, options).expect("joined");
    let group = world.group(RANKS).expect("even");
    let ranks = group.ranks();
    let got = results(group, &config, &decoder);
    for rank in ranks {
        assert!(got.contains_key(&format!("hidden rows of rank {rank}")));
    }
    let one = over_threads(world.processes(), rank_order, &config, &decoder);
    for (name, bits) in &got {
        assert_eq!(differing(bits, &one[name]), 0, "{config:?}: {name}");
    }
    let alone = results(RankGroup::local(RANKS), &config, &decoder);
    if matches!(config.method, Method::Ring | Method::Ulysses) {
        for (name, bits) in got.iter().filter(|(name, _)| !name.starts_with("logits")) {
            let differ = differing(bits, &alone[name]);
            assert_eq!(differ, 0, "{config:?}: {name} of one thread");
        }
    }
    assert_near(&config, &got, &alone);
    world.leave().expect("left");
    println!("process {} done", world.process());
}

fn over(processes: usize, name: &str) {
    let mut command = task(processes, &format!("methods {name}"));
    command
        .env("STAND_IN_JITTER", (10 + processes).to_string())
        // The threads that share a kernel's work are as many in all processes.
        .env("RAYON_NUM_THREADS", "1");
    run(command, processes);
}

macro_rules! methods {
    ($($test:ident = $processes:literal: $($name:ident)*;)*) => {$(
        mod $test {
            $(
                #[test]
                fn $name() {
                    super::over($processes, stringify!($name));
                }
            )*
        }
    )*};
}

methods! {
    over_2_processes = 2: ring ring_of_blocks ulysses star apb_query_aware apb_random
        ring_folded ring_of_blocks_folded ulysses_folded star_folded apb_query_aware_folded apb_random_folded;
    over_4_processes = 4: ring ring_of_blocks ulysses star apb_query_aware apb_random
        ring_folded ring_of_blocks_folded ulysses_folded star_folded apb_query_aware_folded apb_random_folded;
    over_8_processes = 8: ring ring_of_blocks ulysses star apb_query_aware apb_random;
}
