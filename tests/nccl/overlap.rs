//! How much of a layer's exchange is hidden behind its attention, at a bandwidth with which both take equally long:
//! `scripts/test-nccl --overlap`.
//!
//! Not hidden is the time in which a rank that could compute is in the exchange. What it waits for ranks that compute
//! longer counts, too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use burn::tensor::{Device, FloatDType, Tensor};
use burn_apb::apb::{
    CompressorConfig, Document, Method, Observer, Part, PrefillConfig, PrefillPlan, Session,
    SessionConfig, compressor,
};
use burn_apb::model::{Architecture, Decoder, DecoderConfig};
use burn_apb::ranks::{
    Environment, PendingGather, PendingShift, RankError, RankGroup, Step, Ticket, Transport, World,
};

use crate::launcher::{join, task};

/// Tokens of a rank.
const BLOCK: usize = 2048;
const LAYERS: usize = 4;
/// Layers with an exchange: the last ends with its keys and values.
const EXCHANGES: u32 = LAYERS as u32 - 1;
/// Prefills of which the mean is given.
const ROUNDS: u32 = 3;
/// Bytes a second of the stand-in for NCCL.
const BANDWIDTH: &str = "STAND_IN_BANDWIDTH";
/// The start of a line that a process prints for the test.
const LINE: &str = "overlap: ";

/// A rank's transport that says how long exchanges held it up.
#[derive(Debug)]
struct Timed {
    /// One rank a process.
    group: RankGroup,
    /// Whether exchanges are finished where they start, so that nothing hides them.
    at_once: bool,
    /// Those under way, by step.
    pending: HashMap<u64, Pending>,
    spent: Arc<Mutex<Duration>>,
}

#[derive(Debug)]
enum Pending {
    Gather(PendingGather),
    Shift(PendingShift),
}

impl Timed {
    fn began(&mut self, step: Step, pending: Pending, at: Instant) -> Result<Ticket, RankError> {
        let mut held = Vec::new();
        match self.at_once {
            true => held = self.end(pending)?,
            false => drop(self.pending.insert(step.index, pending)),
        }
        self.count(at);
        Ok(Ticket {
            step,
            held,
            incoming: Vec::new(),
            like: None,
        })
    }

    fn end(&mut self, pending: Pending) -> Result<Vec<Option<Tensor<4>>>, RankError> {
        match pending {
            Pending::Gather(pending) => {
                let received = self.group.finish_all_gather(pending)?;
                Ok(received.into_iter().map(Some).collect())
            }
            Pending::Shift(pending) => {
                let processes = self.processes();
                let before = (self.process() + processes - 1) % processes;
                let mut received = vec![None; processes];
                received[before] = self.group.finish_shift(pending)?.pop();
                Ok(received)
            }
        }
    }

    fn count(&self, since: Instant) {
        *self.spent.lock().expect("one thread") += since.elapsed();
    }
}

impl Transport for Timed {
    fn processes(&self) -> usize {
        self.group.processes()
    }

    fn process(&self) -> usize {
        self.group.ranks().first().expect("a rank")
    }

    fn check(&self) -> Result<(), RankError> {
        self.group.check()
    }

    /// A shift: APB and ring have no other such exchange.
    fn start(
        &mut self,
        step: Step,
        outgoing: Vec<Option<Tensor<4>>>,
        incoming: Vec<Option<[usize; 4]>>,
    ) -> Result<Ticket, RankError> {
        let at = Instant::now();
        let shape = incoming.into_iter().flatten().next().expect("a shift");
        let mine = outgoing.into_iter().flatten().collect();
        let pending = self.group.start_shift(mine, |_| shape)?;
        self.began(step, Pending::Shift(pending), at)
    }

    fn finish(&mut self, ticket: Ticket) -> Result<Vec<Option<Tensor<4>>>, RankError> {
        let at = Instant::now();
        let received = match self.pending.remove(&ticket.step.index) {
            Some(pending) => self.end(pending)?,
            None => ticket.held,
        };
        self.count(at);
        Ok(received)
    }

    fn start_all_gather(&mut self, step: Step, mine: Tensor<4>) -> Result<Ticket, RankError> {
        let at = Instant::now();
        let pending = self.group.start_all_gather(vec![mine])?;
        self.began(step, Pending::Gather(pending), at)
    }

    fn broadcast(&mut self, _: Step, _: usize, bytes: Vec<u8>) -> Result<Vec<u8>, RankError> {
        self.group.broadcast(bytes)
    }
}

/// The time of attention.
#[derive(Default)]
struct Attention(Duration);

impl Observer for Attention {
    fn wants_times(&self) -> bool {
        true
    }

    fn part(&mut self, part: Part, _: Option<usize>, time: Duration) {
        if part == Part::Attention {
            self.0 += time;
        }
    }
}

/// Of a layer with an exchange, on one rank.
struct Layer {
    attention: f64,
    not_hidden: f64,
    /// Received, and as many sent.
    bytes: f64,
}

/// The mean of some prefills, after one that is not counted.
fn measure(world: &World, decoder: &Arc<Decoder>, plan: &PrefillPlan, at_once: bool) -> Layer {
    let tokens: Vec<u32> = (0..plan.tokens as u32).map(|i| i * 7 % 64).collect();
    let document = Document::new(tokens);
    let scorer = compressor::load(plan, &decoder.config, FloatDType::F32, &Device::flex());
    let scorer = scorer.expect("no heads");
    let (mut attention, mut not_hidden, mut bytes) = (Duration::ZERO, Duration::ZERO, 0);
    for round in 0..=ROUNDS {
        let spent = Arc::<Mutex<Duration>>::default();
        let timed = Timed {
            group: world.group(plan.ranks).expect("even"),
            at_once,
            pending: HashMap::new(),
            spent: spent.clone(),
        };
        let group = RankGroup::new(plan.ranks, Box::new(timed)).expect("even");
        let settings = SessionConfig::new(plan.tokens);
        let mut session = Session::new(decoder.clone(), settings).with_group(group);
        let mut times = Attention::default();
        session
            .prefill_with(&document, plan, scorer.as_deref(), &mut times)
            .expect("prefilled");
        let spent = *spent.lock().expect("one thread");
        if round > 0 {
            not_hidden += spent;
            // Where they are not waited for at a mark of their own, exchanges are within it.
            attention += match (at_once, plan.method) {
                (true, Method::Ring) => times.0.saturating_sub(spent),
                _ => times.0,
            };
        }
        bytes = session.group().received_bytes();
    }
    let layers = f64::from(ROUNDS * EXCHANGES);
    Layer {
        attention: attention.as_secs_f64() / layers,
        not_hidden: not_hidden.as_secs_f64() / layers,
        bytes: bytes as f64 / f64::from(EXCHANGES),
    }
}

/// The mean over all processes.
fn mean(world: &mut World, value: f64) -> f64 {
    let all = world.all_gather_values(value).expect("values");
    all.iter().sum::<f64>() / all.len() as f64
}

/// One process of those that exchange. Without a bandwidth it finds the one with which a layer's exchange takes as long as
/// its attention.
pub fn process(environment: &Environment, name: &str) {
    let device = Device::flex();
    device.seed(7);
    let model = DecoderConfig::new(Architecture::Llama, 64, 64, 128, LAYERS, 8, 2, 64);
    let decoder = Arc::new(model.init(&device));
    let mut world = join(environment);
    let ranks = world.processes();
    let method = match name {
        "ring" => Method::Ring,
        _ => Method::Apb,
    };
    let config =
        PrefillConfig::new(method, ranks).with_compressor(CompressorConfig::Random { seed: 3 });
    let tokens = vec![0; BLOCK * ranks];
    let plan = config.plan(&Document::new(tokens), &model);
    let plan = plan.expect("a plan");
    let say = |line: String| {
        if environment.process == 0 {
            println!("\n{LINE}{line}");
        }
    };
    match std::env::var(BANDWIDTH) {
        Err(_) => {
            let Layer {
                attention, bytes, ..
            } = measure(&world, &decoder, &plan, false);
            let attention = mean(&mut world, attention);
            say(format!("{:.0}", bytes / attention));
        }
        Ok(bandwidth) => {
            let bandwidth: f64 = bandwidth.parse().expect("a number");
            for at_once in [true, false] {
                let layer = measure(&world, &decoder, &plan, at_once);
                let exchange = layer.bytes / bandwidth;
                let attention = mean(&mut world, layer.attention);
                let not_hidden = mean(&mut world, layer.not_hidden);
                let hidden = (1.0 - not_hidden / exchange).max(0.0);
                let how = match at_once {
                    true => "before: finished where they start",
                    false => "after: overlapped",
                };
                say(format!(
                    "{name}, {ranks} ranks, {how}: attention {attention:.4} s a layer, exchange {exchange:.4} s, \
                     not hidden {not_hidden:.4} s, hidden {:.0} %",
                    100.0 * hidden
                ));
            }
        }
    }
    world.leave().expect("left");
}

/// What the processes of a task print, line by line.
fn lines(processes: usize, name: &str, bandwidth: Option<&str>) -> Vec<String> {
    let mut command = task(processes, &format!("overlap {name}"));
    command
        .env("RAYON_NUM_THREADS", "1")
        .envs(bandwidth.map(|bandwidth| (BANDWIDTH, bandwidth)));
    let done = command.output().expect("it starts");
    let stdout = String::from_utf8_lossy(&done.stdout);
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{name}:\n{stdout}{stderr}");
    let lines = stdout.lines().filter_map(|line| line.strip_prefix(LINE));
    lines.map(str::to_owned).collect()
}

#[test]
#[ignore = "a measurement"]
fn of_a_layers_exchange() {
    for processes in [2, 4] {
        for name in ["apb", "ring"] {
            let found = lines(processes, name, None);
            let [bandwidth] = &found[..] else {
                panic!("one bandwidth: {found:?}");
            };
            let measured = lines(processes, name, Some(bandwidth));
            assert_eq!(measured.len(), 2, "{measured:?}");
            for line in measured {
                println!("{line}");
            }
        }
    }
}
