//! `apb bench prefill`: strategies and lengths beside each other.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use burn_apb::apb::{Document, Method, Observer, Part, PrefillPlan, Request};
use burn_apb::model::{Decoder, DecoderConfig};
use burn_apb::ranks::World;
use serde_json::{Value, json};

use super::subject::{Subject, Tokens};
use super::{Log, median, or_dash};
use crate::args::{Compute, Model, Processes, Strategy};
use crate::commands::prefill::{self, Facts};
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
struct Row {
    tokens: usize,
    /// Rows of a pass.
    chunk: usize,
    /// How the document is prefilled.
    plan: PrefillPlan,
    prefill_seconds: Vec<f64>,
    critical_seconds: Vec<f64>,
    times: Times,
    decode_rates: Vec<f64>,
    /// Weights, cache and one layer's activations.
    needed_bytes: usize,
    /// Largest so far.
    peak_bytes: Option<u64>,
    /// What each process reported, where there are several.
    processes: Vec<Value>,
}

/// Runs the command.
pub fn run(args: &Prefill, output: &Output) -> Result<(), CliError> {
    let Prefill {
        processes, compute, ..
    } = args;
    processes::run(processes, compute, output, |world, output| {
        measure(args, world, output)
    })
}

impl Prefill {
    /// What is measured beside each other.
    fn methods(&self) -> Vec<Method> {
        match self.methods.is_empty() {
            false => self.methods.clone(),
            true => vec![self.strategy.method.unwrap_or(Method::Full)],
        }
    }

    /// A prefill of each length under each method, which one token and what is decoded follow.
    fn requests(
        &self,
        subject: &Subject,
        tokens: &Tokens,
        strategy: &Strategy,
    ) -> Result<Vec<Request>, CliError> {
        let mut requests = Vec::new();
        for &length in &self.tokens {
            let document =
                Document::new(&tokens.ids[..length]).with_anchor_query(tokens.query.clone());
            for method in self.methods() {
                let plan = strategy.config_of(method)?.plan(&document, &subject.config);
                let plan = plan.map_err(CliError::usage)?;
                let next = vec![tokens.ids[length]];
                let most = self.decode + 1;
                let mut request =
                    Request::from_tokens(document.clone(), plan, next, most, strategy.chunk);
                request.session.kv_dtype = self.compute.kv_dtype();
                subject.check(&mut request)?;
                requests.push(request);
            }
        }
        Ok(requests)
    }

    /// Prints the rows.
    fn show(&self, subject: &Subject, rows: &[Row], output: &Output) -> Result<(), CliError> {
        let json_rows: Vec<Value> = rows.iter().map(|row| row.json(&subject.config)).collect();
        let summary = json!({
            "model": self.model.model, "random_weights": self.random_weights,
            "parameters": subject.config.num_parameters(), "device": self.compute.device_name(),
            "dtype": format!("{:?}", subject.memory.dtype), "kv_dtype": format!("{:?}", subject.memory.kv_dtype), "runs": self.runs,
            "chunk": rows.first().map(|row| row.chunk), "rows": json_rows,
        });
        output.result(&summary, |w| print(w, rows))
    }
}

/// Measures every length and method. The first process reads and plans, all compute their ranks' rows
/// and report their memory.
fn measure(args: &Prefill, world: &mut World, output: &Output) -> Result<(), CliError> {
    if args.random_weights && !world.is_single() {
        return Err(CliError::usage(
            "--random-weights is for one process: others would make other weights",
        ));
    }
    let log = processes::on_first(world, || Log::open(args.log.as_deref()))?;
    let mut log = log.unwrap_or(Log(None));
    let mut strategy = args.strategy.clone();
    if !world.is_single() && strategy.ranks.is_none() {
        strategy.ranks = Some(world.processes());
    }
    processes::on_first(world, || match args.random_weights {
        true => Ok(()),
        false => prefill::resolve(&args.model, output).map(|_| ()),
    })?;
    let subject = processes::agree(world, Subject::open(args, output))?;
    if !world.is_single() {
        let facts = facts(args, &strategy, &subject);
        let facts = processes::agree(world, facts)?;
        processes::compare(world, &facts)?;
    }
    let requests = processes::on_first(world, || {
        let tokens = subject.tokens(args, output)?;
        args.requests(&subject, &tokens, &strategy)
    })?;
    // The tokenizer's memory is not this rank's rows.
    memory::give_back();
    let decoder = processes::agree(world, subject.load(output))?;

    interrupt::listen();
    let mut rows: Vec<Row> = (requests.iter().flatten())
        .map(|request| Row::new(request, &subject, args))
        .collect();
    let methods: Vec<Method> = args.tokens.iter().flat_map(|_| args.methods()).collect();
    let runs = args.warm_up + args.runs.get();
    let bar = output.progress("measuring", "runs");
    let total = (methods.len() * runs) as u64;
    let mut done = 0;
    // In turns, so that a machine that is slower for a while is so for all.
    for run in 0..runs {
        for (case, method) in methods.iter().enumerate() {
            if interrupt::poll().is_break() {
                return Err(CliError::failed("cancelled"));
            }
            memory::reset_peak();
            strategy.method = Some(*method);
            let request = requests.as_ref().map(|requests| requests[case].clone());
            let ranks = prefill::ranks(&strategy, world);
            let measured = if ranks == 1 && !world.is_single() {
                processes::on_first(world, || {
                    once(&decoder, request, &mut World::single(), 1, args)
                })?
            } else {
                let ranks = match (&request, world.is_single()) {
                    (Some(request), true) => request.plan.ranks,
                    _ => ranks,
                };
                Some(once(&decoder, request, world, ranks, args)?)
            };
            if let (Some(measured), Some(row)) = (measured, rows.get_mut(case)) {
                row.peak_bytes = row.peak_bytes.max(subject.peak_bytes());
                log.line(&measured.json(row, run < args.warm_up))?;
                if run >= args.warm_up {
                    row.add(measured);
                }
            }
            done += 1;
            bar.update(done, total);
        }
    }
    bar.finish();
    match world.process() {
        0 => args.show(&subject, &rows, output),
        _ => Ok(()),
    }
}

/// What must be the same on every process.
fn facts(args: &Prefill, strategy: &Strategy, subject: &Subject) -> Result<Facts, CliError> {
    let mut facts = prefill::facts(&args.compute, strategy, subject.fingerprint()?)?;
    let asked = format!(
        "{:?} tokens, {:?}, {:?}, {} runs, {} decoded",
        args.tokens,
        args.methods(),
        strategy.config()?,
        args.warm_up + args.runs.get(),
        args.decode
    );
    facts.push(("lengths", Some(asked)));
    Ok(facts)
}

/// Prefills a document, then decodes from the token behind it.
fn once(
    decoder: &Arc<Decoder>,
    request: Option<Request>,
    world: &mut World,
    ranks: usize,
    args: &Prefill,
) -> Result<Measured, CliError> {
    let mut group = world
        .group(ranks)
        .map_err(|error| CliError::from(error).known())?;
    let request = Request::broadcast(request, &mut group)?;
    let mut times = Times::default();
    let (mut session, seconds) = request.prefill(decoder.clone(), group, &mut times)?;
    let decode_rate = match args.decode {
        0 => None,
        _ => {
            let completion = session.follow(&request.query, request.max_tokens)?;
            completion.decode_tokens_per_second()
        }
    };
    let processes = match world.is_single() {
        true => Vec::new(),
        false => {
            let report = prefill::report(decoder, &request, session.group());
            processes::reports(world, report)?
        }
    };
    Ok(Measured {
        seconds,
        times,
        decode_rate,
        processes,
    })
}

/// Adds up the parts of prefills.
#[derive(Default)]
struct Times {
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

impl Observer for Times {
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
struct Measured {
    /// Of the prefill.
    seconds: f64,
    /// Its parts.
    times: Times,
    /// Tokens a second, where some were decoded.
    decode_rate: Option<f64>,
    /// What each process reported, where there are several.
    processes: Vec<Value>,
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
    fn new(request: &Request, subject: &Subject, args: &Prefill) -> Self {
        let (plan, config) = (&request.plan, &subject.config);
        let chunk = request.session.chunk_on(&subject.device);
        let tile = chunk.min(plan.tokens);
        let cached = plan.tokens + args.decode;
        Self {
            tokens: plan.tokens,
            chunk,
            plan: plan.clone(),
            prefill_seconds: Vec::new(),
            critical_seconds: Vec::new(),
            times: Times::default(),
            decode_rates: Vec::new(),
            needed_bytes: subject.memory.needed_bytes(config, tile, tile, cached),
            peak_bytes: None,
            processes: Vec::new(),
        }
    }

    /// Counts a run.
    fn add(&mut self, measured: Measured) {
        self.prefill_seconds.push(measured.seconds);
        self.critical_seconds
            .extend(measured.times.critical(self.plan.method));
        self.times.add(&measured.times);
        self.decode_rates.extend(measured.decode_rate);
        if let Some(first) = measured.processes.first() {
            self.needed_bytes = first["needed_bytes"].as_u64().unwrap_or(0) as usize;
            self.processes = measured.processes;
        }
    }
}

/// Floating-point operations of a causal prefill (method: linear layers and attention).
fn prefill_flops(c: &DecoderConfig, tokens: usize) -> f64 {
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

    fn json(&self, config: &DecoderConfig) -> Value {
        let runs = self.prefill_seconds.len() as f64;
        json!({
            "method": self.plan.method.name(), "ranks": self.plan.ranks, "tokens": self.tokens,
            "anchor": self.plan.anchor, "passing": self.plan.passing, "parts": self.times.parts_json(runs),
            "rank_seconds": self.times.ranks_json(runs), "critical_seconds": median(&self.critical_seconds),
            "prefill_seconds": self.seconds(), "prefill_seconds_all": self.prefill_seconds,
            "prefill_tokens_per_second": self.tokens as f64 / self.seconds(),
            "prefill_gflops": (self.plan.method == Method::Full)
                .then(|| prefill_flops(config, self.tokens) / self.seconds() / 1e9),
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
        writeln!(w, "  {}", prefill::describe(&row.plan))?;
    }
    Ok(())
}
