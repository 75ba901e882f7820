//! `apb bench prefill`: strategies and lengths beside each other.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use burn::tensor::DType;
use burn_apb::apb::{
    Completion, Document, Method, Part, PrefillObserver, PrefillPlan, Session, SessionConfig,
    compressor,
};
use burn_apb::model::KvCache;
use burn_apb::text::sampler::{Sampler, SamplerConfig};
use serde_json::{Value, json};

use super::several::together;
use super::subject::{Described, Subject};
use super::{Log, median, or_dash};
use crate::args::{Compute, Model, Processes, Strategy};
use crate::commands::generate;
use crate::error::CliError;
use crate::output::Output;
use crate::{interrupt, memory, processes};

/// Flags of `apb bench prefill`.
#[derive(clap::Args, Debug)]
pub struct Prefill {
    #[command(flatten)]
    pub model: Model,
    /// Random weights of the model's shape, made on the device; --model is then a config.json or a
    /// folder with one, and documents are random tokens
    #[arg(long, conflicts_with_all = ["document", "query"])]
    pub random_weights: bool,
    /// Text to take the tokens from [default: the text that ships with apb]
    #[arg(long, value_name = "FILE")]
    pub document: Option<PathBuf>,
    /// Document lengths, in tokens
    #[arg(
        long,
        value_name = "N,..",
        value_delimiter = ',',
        default_value = "512,2048,4096"
    )]
    pub tokens: Vec<usize>,
    /// Tokens to decode after each prefill
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub decode: usize,
    /// Runs of each length; medians are printed
    #[arg(long, value_name = "N", default_value = "5")]
    pub runs: std::num::NonZeroUsize,
    /// Runs of each length before those, not counted: a GPU compiles and tunes in them
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub warm_up: usize,
    /// Append every run, when it is done, to a file, as a line of JSON
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Methods to measure beside each other, in place of --method
    #[arg(
        long,
        value_name = "METHOD,..",
        value_delimiter = ',',
        conflicts_with = "method"
    )]
    methods: Vec<Method>,
    /// The query in apb's anchor
    #[arg(long, value_name = "TEXT", default_value = "What is this text about?")]
    pub query: String,
    #[command(flatten)]
    pub strategy: Strategy,
    #[command(flatten)]
    pub compute: Compute,
    #[command(flatten)]
    processes: Processes,
}

/// Measurements of one method and length.
pub struct Row {
    tokens: usize,
    /// How the document is prefilled.
    pub plan: PrefillPlan,
    prefill_seconds: Vec<f64>,
    critical_seconds: Vec<f64>,
    times: Times,
    decode_rates: Vec<f64>,
    /// Weights, cache and one layer's activations.
    pub needed_bytes: usize,
    /// Largest so far.
    pub peak_bytes: Option<u64>,
    /// What each process reported, where there are several.
    pub processes: Vec<Value>,
}

/// Runs the command.
pub fn run(args: &Prefill, output: &Output) -> Result<(), CliError> {
    processes::run(
        &args.processes,
        &args.compute,
        output,
        |output| alone(args, output),
        |world, output| together(args, world, output),
    )
}

impl Prefill {
    /// What is measured beside each other.
    pub fn methods(&self) -> Vec<Method> {
        match self.methods.is_empty() {
            false => self.methods.clone(),
            true => vec![self.strategy.method.unwrap_or(Method::Full)],
        }
    }

    /// Rows of a cache for so many tokens and what is decoded behind them.
    pub fn capacity(&self, tokens: usize) -> usize {
        tokens + self.decode + 2
    }

    /// Documents of each length, planned under each method.
    pub fn cases(
        &self,
        subject: &Subject<Described>,
        strategy: &Strategy,
    ) -> Result<Vec<(Document, PrefillPlan)>, CliError> {
        let mut cases = Vec::new();
        for &tokens in &self.tokens {
            let document =
                Document::new(&subject.ids[..tokens]).with_anchor_query(subject.query.clone());
            for method in self.methods() {
                let plan = strategy
                    .config_of(method)?
                    .plan(&document, subject.config())
                    .map_err(CliError::usage)?;
                subject.check(&plan)?;
                cases.push((document.clone(), plan));
            }
        }
        Ok(cases)
    }

    /// Prints the rows.
    pub fn show(&self, subject: &Subject, rows: &[Row], output: &Output) -> Result<(), CliError> {
        let parameters = subject.config().num_parameters();
        let json_rows: Vec<Value> = rows.iter().map(|row| row.json(subject)).collect();
        let summary = json!({
            "model": self.model.model, "random_weights": self.random_weights,
            "parameters": parameters, "device": self.compute.device_name(),
            "dtype": format!("{:?}", subject.dtype), "runs": self.runs,
            "chunk": self.strategy.chunk, "rows": json_rows,
        });
        output.result(&summary, |w| print(w, rows))
    }
}

/// One process does it all.
fn alone(args: &Prefill, output: &Output) -> Result<(), CliError> {
    let mut log = Log::open(args.log.as_deref())?;
    let subject = Subject::open(args, output)?;
    let cases = args.cases(&subject, &args.strategy)?;
    let subject = subject.load(args, output)?;

    interrupt::listen();
    let runs = args.runs.get();
    let bar = output.progress("measuring", "runs");
    let total = (cases.len() * (runs + args.warm_up)) as u64;
    let mut rows: Vec<(Document, Row)> = cases
        .into_iter()
        .map(|(document, plan)| {
            let chunk = args.strategy.chunk.min(plan.tokens);
            let needed = needed_bytes(&subject, plan.tokens + args.decode, chunk);
            (document, Row::new(plan, needed))
        })
        .collect();
    // In turns, so that a machine that is slower for a while is so for all.
    let mut done = 0;
    for run in 0..args.warm_up + runs {
        for (document, row) in &mut rows {
            if interrupt::poll().is_break() {
                return Err(CliError::failed("cancelled"));
            }
            memory::reset_peak();
            let measured = row.once(&subject, document, args)?;
            row.peak_bytes = row.peak_bytes.max(subject.peak_bytes());
            log.line(&measured.json(row, run < args.warm_up))?;
            if run >= args.warm_up {
                row.add(measured);
            }
            done += 1;
            bar.update(done, total);
        }
    }
    bar.finish();
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    args.show(&subject, &rows, output)
}

/// Decodes `count` tokens behind `next`, the first of them by the question's own pass.
pub fn decode(
    session: &mut Session<'_>,
    next: &[u32],
    count: usize,
) -> Result<Completion, CliError> {
    let mut sampler = Sampler::new(SamplerConfig::default()).map_err(CliError::failed)?;
    let proceed = |_| ControlFlow::Continue(());
    Ok(session.ask(next, &mut sampler, &[], count + 1, proceed)?)
}

/// Adds up the parts of prefills.
#[derive(Default)]
pub struct Times {
    /// Over all ranks.
    parts: BTreeMap<Part, f64>,
    /// Over all parts, by rank.
    ranks: BTreeMap<usize, f64>,
    /// What no rank has for itself.
    shared: f64,
}

impl Times {
    /// Where every rank has a device of its own: the slowest one's seconds. Exchanges between virtual
    /// ranks take no time that would say anything about a network. None where ranks attend together, so
    /// that their times are not told apart.
    fn critical(&self, method: Method) -> Option<f64> {
        match method {
            Method::Ring | Method::Ulysses => None,
            _ => Some(self.shared + self.ranks.values().copied().fold(0.0, f64::max)),
        }
    }

    fn add(&mut self, other: &Self) {
        for (part, seconds) in &other.parts {
            *self.parts.entry(*part).or_default() += seconds;
        }
        for (rank, seconds) in &other.ranks {
            *self.ranks.entry(*rank).or_default() += seconds;
        }
        self.shared += other.shared;
    }

    fn parts_json(&self, runs: f64) -> Value {
        let seconds = |(part, seconds): (&Part, &f64)| (part.name().into(), json!(seconds / runs));
        Value::Object(self.parts.iter().map(seconds).collect())
    }

    fn ranks_json(&self, runs: f64) -> Value {
        json!(self.ranks.values().map(|s| s / runs).collect::<Vec<_>>())
    }
}

impl PrefillObserver for Times {
    fn wants_times(&self) -> bool {
        true
    }

    fn part(&mut self, part: Part, rank: Option<usize>, time: Duration) {
        let seconds = time.as_secs_f64();
        *self.parts.entry(part).or_default() += seconds;
        match rank {
            Some(rank) => *self.ranks.entry(rank).or_default() += seconds,
            None => self.shared += seconds,
        }
    }
}

/// One prefill, and what was decoded after it.
pub struct Measured {
    /// Of the prefill.
    pub seconds: f64,
    /// Its parts.
    pub times: Times,
    /// Tokens a second, where some were decoded.
    pub decode_rate: Option<f64>,
}

impl Measured {
    fn json(&self, row: &Row, warm_up: bool) -> Value {
        json!({
            "method": row.plan.method.name(), "ranks": row.plan.ranks, "tokens": row.tokens,
            "warm_up": warm_up, "prefill_seconds": self.seconds,
            "critical_seconds": self.times.critical(row.plan.method), "parts": self.times.parts_json(1.0),
            "rank_seconds": self.times.ranks_json(1.0), "decode_tokens_per_second": self.decode_rate,
            "peak_bytes": row.peak_bytes,
        })
    }
}

impl Row {
    /// Nothing measured yet.
    pub fn new(plan: PrefillPlan, needed_bytes: usize) -> Self {
        Self {
            tokens: plan.tokens,
            plan,
            prefill_seconds: Vec::new(),
            critical_seconds: Vec::new(),
            times: Times::default(),
            decode_rates: Vec::new(),
            needed_bytes,
            peak_bytes: None,
            processes: Vec::new(),
        }
    }

    /// Prefills the document, then decodes from the token behind it.
    pub fn once(
        &self,
        subject: &Subject,
        document: &Document,
        args: &Prefill,
    ) -> Result<Measured, CliError> {
        let (config, device) = (subject.config(), &subject.device);
        let compressor =
            compressor::load(&self.plan, config, subject.dtype, device).map_err(CliError::usage)?;
        let session_config = SessionConfig::new(args.capacity(self.tokens))
            .with_dtype(subject.dtype)
            .with_chunk(args.strategy.chunk);
        let mut session = Session::new(subject.decoder(), config, session_config, device);
        let mut times = Times::default();
        let started = Instant::now();
        session.prefill_with(document, &self.plan, compressor.as_deref(), &mut times)?;
        device.sync().map_err(CliError::failed)?;
        let seconds = started.elapsed().as_secs_f64();
        let decode_rate = match args.decode {
            0 => None,
            count => {
                decode(&mut session, &[subject.ids[self.tokens]], count)?.decode_tokens_per_second()
            }
        };
        Ok(Measured {
            seconds,
            times,
            decode_rate,
        })
    }

    /// Counts a run.
    pub fn add(&mut self, measured: Measured) {
        self.prefill_seconds.push(measured.seconds);
        self.critical_seconds
            .extend(measured.times.critical(self.plan.method));
        self.times.add(&measured.times);
        self.decode_rates.extend(measured.decode_rate);
    }
}

/// What a prefill must hold: weights, cache and the activations of one layer for one pass.
fn needed_bytes(subject: &Subject, capacity: usize, rows: usize) -> usize {
    let c = subject.config();
    let size = DType::from(subject.dtype).size();
    let q = c.num_attention_heads * c.head_dim;
    let kv = c.num_key_value_heads * c.head_dim;
    // Residual, normed input and block output; q, k, v before and after RoPE; the attention's
    // output; gate, up and their product.
    let layer = 3 * c.hidden_size + 2 * (q + 2 * kv) + q + 3 * c.intermediate_size;
    (c.num_parameters() + rows * layer) * size
        + KvCache::bytes(c, 1, capacity, subject.dtype.into())
}

/// Floating-point operations of a causal prefill (method: linear layers and attention).
fn prefill_flops(subject: &Subject, tokens: usize) -> f64 {
    let c = subject.config();
    let q = c.num_attention_heads * c.head_dim;
    let kv = c.num_key_value_heads * c.head_dim;
    let linear = 2 * c.hidden_size * (2 * q + 2 * kv + 3 * c.intermediate_size);
    let n = tokens as f64;
    c.num_hidden_layers as f64 * (n * linear as f64 + 4.0 * q as f64 * n * n / 2.0)
}

impl Row {
    fn seconds(&self) -> f64 {
        median(&self.prefill_seconds).unwrap_or(f64::NAN)
    }

    fn memory_ratio(&self) -> Option<f64> {
        self.peak_bytes
            .map(|peak| peak as f64 / self.needed_bytes as f64)
    }

    fn json(&self, subject: &Subject) -> Value {
        let runs = self.prefill_seconds.len() as f64;
        json!({
            "method": self.plan.method.name(), "ranks": self.plan.ranks, "tokens": self.tokens,
            "anchor": self.plan.anchor, "passing": self.plan.passing, "parts": self.times.parts_json(runs),
            "rank_seconds": self.times.ranks_json(runs), "critical_seconds": median(&self.critical_seconds),
            "prefill_seconds": self.seconds(), "prefill_seconds_all": self.prefill_seconds,
            "prefill_tokens_per_second": self.tokens as f64 / self.seconds(),
            "prefill_gflops": (self.plan.method == Method::Full)
                .then(|| prefill_flops(subject, self.tokens) / self.seconds() / 1e9),
            "decode_tokens_per_second": median(&self.decode_rates),
            "decode_tokens_per_second_all": self.decode_rates,
            "peak_bytes": self.peak_bytes, "needed_bytes": self.needed_bytes,
            "peak_over_needed": self.memory_ratio(), "processes": self.processes,
        })
    }
}

fn print(w: &mut dyn Write, rows: &[Row]) -> std::io::Result<()> {
    const MIB: f64 = 1_048_576.0;
    writeln!(
        w,
        "{:>8} {:<10} {:>10} {:>8} {:>11} {:>12} {:>10} {:>12} {:>6}",
        "tokens",
        "method",
        "prefill s",
        "tok/s",
        "critical s",
        "decode tok/s",
        "peak MiB",
        "needed MiB",
        "ratio"
    )?;
    for row in rows {
        writeln!(
            w,
            "{:>8} {:<10} {:>10.3} {:>8.0} {:>11} {:>12} {:>10} {:>12.0} {:>6}",
            row.tokens,
            row.plan.method.name(),
            row.seconds(),
            row.tokens as f64 / row.seconds(),
            or_dash(median(&row.critical_seconds), 3),
            or_dash(median(&row.decode_rates), 1),
            or_dash(row.peak_bytes.map(|b| b as f64 / MIB), 0),
            row.needed_bytes as f64 / MIB,
            or_dash(row.memory_ratio(), 2),
        )?;
    }
    writeln!(w, "\nseconds of all ranks, mean of the runs")?;
    write!(w, "{:>8} {:<10}", "tokens", "method")?;
    for part in Part::ALL {
        write!(w, " {:>12}", part.name())?;
    }
    writeln!(w)?;
    for row in rows {
        write!(w, "{:>8} {:<10}", row.tokens, row.plan.method.name())?;
        for part in Part::ALL {
            let seconds = row.times.parts.get(&part).copied().unwrap_or_default();
            write!(w, " {:>12.3}", seconds / row.prefill_seconds.len() as f64)?;
        }
        writeln!(w, "  {}", generate::describe(&row.plan))?;
    }
    Ok(())
}
