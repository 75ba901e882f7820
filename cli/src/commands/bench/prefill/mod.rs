//! `apb bench prefill`: strategies and lengths beside each other.

mod chart;
mod row;
mod times;

use std::path::PathBuf;
use std::sync::Arc;

use burn_apb::apb::{Document, Method, Observer, Request};
use burn_apb::kernels::on_workers;
use burn_apb::model::Decoder;
use burn_apb::plan::Rates;
use burn_apb::ranks::{RankGroup, World};
use serde_json::{Value, json};

use super::Log;
use super::subject::{Subject, Tokens};
use super::timing::Bench;
use crate::args::{Compute, Model, Processes, Strategy};
use crate::commands::prefill::{self, Facts};
use crate::error::CliError;
use crate::limits::{self, check_tokens};
use crate::output::Output;
use crate::variant::{self, Variant};
use crate::{interrupt, memory, predict, processes};
use row::{Measured, Row, print};
use times::{Times, Untimed};

/// Runs of a length at most.
const MOST_RUNS: usize = 1 << 16;
/// Tokens to decode where no number is given.
const DECODED: usize = 64;
/// The query in apb's anchor where none is given.
const QUERY: &str = "What is this text about?";

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
    /// Document lengths, in tokens; one that is named again is measured again
    #[arg(
        long,
        value_name = "N,..",
        value_delimiter = ',',
        default_value = "512,2048,4096"
    )]
    pub tokens: Vec<usize>,
    /// Tokens to decode after each prefill [default: 64]
    #[arg(long, value_name = "N")]
    decode: Option<usize>,
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
    methods: Vec<Variant>,
    /// Measure one rank by itself, as on a device of its own: what others would send are zeros, and nothing is decoded
    #[arg(long, value_name = "RANK")]
    only_rank: Option<usize>,
    /// Gigabytes a second between ranks, for the critical path [default: what they receive is not counted]
    #[arg(long, value_name = "GB/S")]
    bandwidth: Option<f64>,
    /// Measure this machine's rates first, and print what is predicted of them beside
    #[arg(long)]
    predict: bool,
    /// Draw a chart, as SVG: time by length, or the parts where there is one length
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
    /// The query in apb's anchor [default: What is this text about?]
    #[arg(long, value_name = "TEXT")]
    query: Option<String>,
    #[command(flatten)]
    pub strategy: Strategy,
    #[command(flatten)]
    pub compute: Compute,
    #[command(flatten)]
    processes: Processes,
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
    fn methods(&self) -> Vec<Variant> {
        match self.methods.is_empty() {
            false => self.methods.clone(),
            true => vec![self.strategy.method.unwrap_or(Method::Full).into()],
        }
    }

    /// Tokens to decode after each prefill.
    pub fn decode(&self) -> usize {
        self.decode.unwrap_or(DECODED)
    }

    /// The query in apb's anchor.
    pub fn query(&self) -> &str {
        self.query.as_deref().unwrap_or(QUERY)
    }

    /// Refuses flags that nothing measured has a use for, and methods that are named twice.
    fn check_used(&self) -> Result<(), CliError> {
        limits::distinct("--methods", &self.methods)?;
        let methods = self.methods();
        variant::check_used(&self.strategy, None, &methods)?;
        variant::check_passing(&self.strategy)?;
        variant::check_seed(&self.strategy, &methods)?;
        let any = |used: fn(Method) -> bool| methods.iter().any(|v| used(v.method));
        let passes = self.strategy.passing != Some(0);
        let exchanged = any(|method| matches!(method, Method::Ring | Method::Ulysses))
            || (passes && any(|method| method == Method::Apb));
        limits::unused(
            [("--bandwidth", self.bandwidth.is_some() && !exchanged)],
            "where ranks exchange nothing; it is for ring, ulysses and apb: leave it out, or measure one of them",
        )?;
        let anchor = any(|method| method == Method::Apb);
        limits::unused(
            [("--query", self.query.is_some() && !anchor)],
            "without an anchor, which holds it; it is for apb: leave it out, or measure that",
        )?;
        let decoded = self.decode.is_some_and(|tokens| tokens > 0);
        limits::unused(
            [("--decode", decoded && self.only_rank.is_some())],
            "with --only-rank, after which nothing is decoded; leave one of the two out",
        )?;
        let floats = self.random_weights && self.compute.dequantize();
        limits::unused(
            [("--dequantize", floats)],
            "for --random-weights, which are floats; leave it out",
        )
    }

    /// Refuses flags that do not go together.
    fn check(&self, world: &World) -> Result<(), CliError> {
        if let Some(bandwidth) = self.bandwidth
            && !(bandwidth.is_finite() && bandwidth > 0.0)
        {
            return Err(CliError::usage(format!(
                "--bandwidth is {bandwidth}; it must be a positive number of gigabytes a second"
            )));
        }
        self.check_used()?;
        for (flag, runs) in [("--runs", self.runs.get()), ("--warm-up", self.warm_up)] {
            limits::at_most(flag, runs, MOST_RUNS)?;
        }
        for &tokens in &self.tokens {
            check_tokens(tokens)?;
        }
        if world.is_single() {
            return Ok(());
        }
        let alone = [
            (
                self.random_weights,
                "--random-weights",
                "others would make other weights",
            ),
            (
                self.only_rank.is_some(),
                "--only-rank",
                "the other ranks are not there",
            ),
            (self.predict, "--predict", "rates are measured by one"),
        ];
        match alone.into_iter().find(|(given, ..)| *given) {
            Some((_, flag, reason)) => Err(CliError::usage(format!(
                "{flag} is for one process: {reason}"
            ))),
            None => Ok(()),
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
                let plan = method
                    .of(strategy)
                    .config()?
                    .plan(&document, &subject.config);
                let plan = plan.map_err(CliError::usage)?;
                let next = vec![tokens.ids[length]];
                let most = self.decode().saturating_add(1);
                if let Some(rank) = self.only_rank.filter(|rank| *rank >= plan.ranks) {
                    return Err(CliError::usage(format!(
                        "--only-rank {rank} of {method}, which has {}; they count from 0",
                        match plan.ranks {
                            1 => "1 rank".to_owned(),
                            ranks => format!("{ranks} ranks"),
                        }
                    )));
                }
                let mut request =
                    Request::from_tokens(document.clone(), plan, next, most, strategy.chunk);
                request.session.kv_dtype = self.compute.kv_dtype();
                subject.check(&mut request)?;
                requests.push(request);
            }
        }
        Ok(requests)
    }

    /// Refuses what this machine's memory does not hold, of one process.
    fn check_memory(
        &self,
        subject: &Subject,
        requests: &Option<Vec<Request>>,
    ) -> Result<(), CliError> {
        for request in requests.iter().flatten() {
            let ranks = match self.only_rank {
                Some(rank) => rank..rank.saturating_add(1),
                None => 0..request.plan.ranks,
            };
            let memory = subject.memory_config(request, self, 0);
            let (config, compute) = (&subject.config, &self.compute);
            predict::check_memory(config, memory, &request.plan, ranks, compute)?;
        }
        Ok(())
    }

    /// Prints the rows.
    fn show(
        &self,
        subject: &Subject,
        rows: &[Row],
        peak: f64,
        rates: Option<Rates>,
        output: &Output,
    ) -> Result<(), CliError> {
        if let Some(path) = &self.chart {
            chart::write(rows, path, output)?;
        }
        let json_rows: Vec<Value> = rows.iter().map(|row| row.json(peak)).collect();
        let summary = json!({
            "model": crate::json::path(&self.model.model), "random_weights": self.random_weights,
            "parameters": subject.config.num_parameters(), "device": self.compute.device_name(),
            "dtype": format!("{:?}", subject.memory.dtype), "kv_dtype": format!("{:?}", subject.memory.kv_dtype), "runs": self.runs,
            "chunk": rows.first().map(|row| row.chunk), "only_rank": self.only_rank,
            "bandwidth_gigabytes_per_second": self.bandwidth, "product_gflops": peak, "rates": rates,
            "rows": json_rows,
        });
        output.result(&summary, |w| print(w, rows, peak))
    }
}

/// Measures every length and method. The first process reads and plans, all compute their ranks' rows
/// and report their memory.
fn measure(args: &Prefill, world: &mut World, output: &Output) -> Result<(), CliError> {
    args.check(world)?;
    let log = processes::on_first(world, || Log::open(args.log.as_deref(), output))?;
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
    if world.is_single() {
        args.check_memory(&subject, &requests)?;
    }
    // The tokenizer's memory is not this rank's rows.
    memory::give_back();
    let program = memory::resident_bytes().unwrap_or(0);
    let decoder = processes::agree(world, subject.load(output))?;

    interrupt::listen();
    let peak = peak_gflops(&subject)?;
    let rates = measured_rates(args, &decoder, &subject, output)?;
    let mut rows: Vec<Row> = (requests.iter().flatten())
        .map(|request| Row::new(request, &subject, args, program, rates))
        .collect();
    let methods: Vec<Variant> = args.tokens.iter().flat_map(|_| args.methods()).collect();
    let runs = args.warm_up.saturating_add(args.runs.get());
    let bar = output.progress("measuring", "runs");
    let total = methods.len().saturating_mul(runs) as u64;
    let mut done = 0;
    // In turns, so that a machine that is slower for a while is so for all.
    for run in 0..runs {
        for (case, method) in methods.iter().enumerate() {
            if interrupt::poll().is_break() {
                return Err(CliError::failed("cancelled"));
            }
            let strategy = method.of(&strategy);
            let request = requests.as_ref().map(|requests| requests[case].clone());
            let ranks = prefill::ranks(&strategy, world);
            let measured = if ranks == 1 && !world.is_single() {
                processes::on_first(world, || {
                    once(&decoder, request, &mut World::single(), 1, args, &subject)
                })?
            } else {
                let ranks = match (&request, world.is_single()) {
                    (Some(request), true) => request.plan.ranks,
                    _ => ranks,
                };
                Some(once(&decoder, request, world, ranks, args, &subject)?)
            };
            if let (Some(measured), Some(row)) = (measured, rows.get_mut(case)) {
                row.peak_bytes = row.peak_bytes.max(measured.peak_bytes);
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
        0 => args.show(&subject, &rows, peak, rates, output),
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
        args.warm_up.saturating_add(args.runs.get()),
        args.decode()
    );
    facts.push(("lengths", Some(asked)));
    Ok(facts)
}

/// GFLOP/s of a matrix product of this device, which shares of the roofline are of.
fn peak_gflops(subject: &Subject) -> Result<f64, CliError> {
    let bench = Bench {
        device: &subject.device,
        queued: subject.gpu,
    };
    on_workers(&subject.device, || {
        bench.gemm_gflops(subject.memory.dtype.into())
    })
}

/// This machine's rates, where a prediction is asked for.
fn measured_rates(
    args: &Prefill,
    decoder: &Arc<Decoder>,
    subject: &Subject,
    output: &Output,
) -> Result<Option<Rates>, CliError> {
    match args.predict {
        false => Ok(None),
        true => {
            let session = args.compute.session(args.strategy.chunk);
            let rates = predict::rates(decoder.clone(), &subject.config, session, output)?;
            Ok(Some(Rates {
                exchange: args.bandwidth.map(|gigabytes| gigabytes * 1e9),
                ..rates
            }))
        }
    }
}

/// Prefills a document, then decodes from the token behind it; then once more with times, where taking them would
/// change what a user sees: ranks of one process share the anchor's rows, and a GPU is waited for.
fn once(
    decoder: &Arc<Decoder>,
    request: Option<Request>,
    world: &mut World,
    ranks: usize,
    args: &Prefill,
    subject: &Subject,
) -> Result<Measured, CliError> {
    // What earlier prefills have freed is not this one's.
    memory::give_back();
    memory::reset_peak();
    let mut group = match args.only_rank {
        Some(rank) => RankGroup::alone(rank, ranks)?,
        None => group_of(world, ranks)?,
    };
    let mut request = Request::broadcast(request, &mut group)?;
    let apart = args.only_rank.is_none() && (request.plan.ranks > 1 || subject.gpu);
    let mut times = Times::default();
    let observer: &mut dyn Observer = if apart { &mut Untimed } else { &mut times };
    let (mut session, seconds) = request.prefill(decoder.clone(), group, observer)?;
    let decode_rate = match args.decode() {
        _ if args.only_rank.is_some() => None,
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
    let peak_bytes = subject.peak_bytes();
    drop(session);
    let mut timed_seconds = seconds;
    if apart {
        request.session.own_anchors = true;
        let group = group_of(world, ranks)?;
        (_, timed_seconds) = request.prefill(decoder.clone(), group, &mut times)?;
    }
    let exchange = match (world.is_single(), args.bandwidth) {
        (false, None) => None,
        (true, None) => Some(0.0),
        (_, Some(gigabytes)) => {
            let memory = subject.memory_config(&request, args, 0);
            let bytes = predict::received_bytes(memory, &request.plan, &subject.config);
            Some(bytes / (gigabytes * 1e9))
        }
    };
    Ok(Measured {
        seconds,
        timed_seconds,
        critical_seconds: times.critical(exchange),
        times,
        decode_rate,
        processes,
        peak_bytes,
    })
}

/// The ranks of a request over the processes.
fn group_of(world: &mut World, ranks: usize) -> Result<RankGroup, CliError> {
    world
        .group(ranks)
        .map_err(|error| CliError::from(error).known())
}
