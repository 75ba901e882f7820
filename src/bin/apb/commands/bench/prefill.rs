//! `apb bench prefill`: strategies and lengths beside each other.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use burn::tensor::DType;
use burn_apb::apb::{
    Assignment, Completion, Document, Method, Part, PrefillObserver, PrefillPlan, Session,
    SessionConfig, compressor,
};
use burn_apb::model::sampler::{Sampler, SamplerConfig};
use burn_apb::model::source::ModelSource;
use burn_apb::model::{KvCache, LanguageModel, ModelText, load_decoder};
use burn_apb::ranks::World;
use serde_json::{Value, json};

use super::{median, or_dash};
use crate::args::{Compute, Model, Processes, Strategy};
use crate::commands::together::{self, Checked};
use crate::commands::{demo, generate};
use crate::error::CliError;
use crate::output::Output;
use crate::{interrupt, memory, processes};

/// Flags of `apb bench prefill`.
#[derive(clap::Args, Debug)]
pub struct Prefill {
    #[command(flatten)]
    model: Model,
    /// Text to take the tokens from [default: the text that ships with apb]
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
    /// Document lengths, in tokens
    #[arg(
        long,
        value_name = "N,..",
        value_delimiter = ',',
        default_value = "512,2048,4096"
    )]
    tokens: Vec<usize>,
    /// Tokens to decode after each prefill
    #[arg(long, value_name = "N", default_value_t = 64)]
    decode: usize,
    /// Runs of each length; medians are printed
    #[arg(long, value_name = "N", default_value = "5")]
    runs: std::num::NonZeroUsize,
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
    query: String,
    #[command(flatten)]
    strategy: Strategy,
    #[command(flatten)]
    compute: Compute,
    #[command(flatten)]
    processes: Processes,
}

/// Medians of one method and length.
struct Row {
    tokens: usize,
    plan: PrefillPlan,
    prefill_seconds: Vec<f64>,
    /// Seconds of each part over all ranks and runs.
    parts: BTreeMap<Part, f64>,
    decode_rates: Vec<f64>,
    /// Weights, cache and one layer's activations.
    needed_bytes: usize,
    peak_bytes: Option<u64>,
    /// What each process reported, where there are several.
    processes: Vec<Value>,
}

/// Runs the command.
pub fn run(args: &Prefill, output: &Output) -> Result<(), CliError> {
    let together = |world: &mut World, output: &Output| together(args, world, output);
    processes::run(
        &args.processes,
        output,
        |output| alone(args, output),
        together,
    )
}

/// What is measured: documents of each length under each method, and the token behind each.
struct Cases {
    text: ModelText,
    cases: Vec<(Document, PrefillPlan, u32)>,
}

impl Prefill {
    fn methods(&self) -> Vec<Method> {
        match self.methods.is_empty() {
            false => self.methods.clone(),
            true => vec![self.strategy.method.unwrap_or(Method::Full)],
        }
    }

    /// Reads the document and plans every case.
    fn cases(
        &self,
        source: &ModelSource,
        text: ModelText,
        strategy: &Strategy,
    ) -> Result<Cases, CliError> {
        let document = match &self.document {
            Some(path) => generate::read_text(path, "document")?,
            None => demo::DOCUMENT.to_owned(),
        };
        let encode = |what: &str| text.tokenizer.encode(what, false).map_err(CliError::failed);
        let (ids, query) = (encode(&document)?, encode(&self.query)?);
        let longest = self.tokens.iter().copied().max().unwrap_or(0);
        if self.tokens.contains(&0) || longest >= ids.len() {
            return Err(CliError::usage(format!(
                "--tokens goes from 1 to {}, one less than the document's tokens",
                ids.len().saturating_sub(1)
            )));
        }
        let mut cases = Vec::new();
        for &tokens in &self.tokens {
            let document = Document::new(&ids[..tokens]).with_anchor_query(query.clone());
            for method in self.methods() {
                let config = strategy.config_of(method)?;
                let plan = config
                    .plan(&document, &text.config)
                    .map_err(CliError::usage)?;
                compressor::check_model(&plan, &text.config, source)?;
                cases.push((document.clone(), plan, ids[tokens]));
            }
        }
        Ok(Cases { text, cases })
    }

    fn capacity(&self, tokens: usize) -> usize {
        tokens + self.decode + 2
    }

    /// Prints the rows.
    fn show(&self, model: &LanguageModel, rows: &[Row], output: &Output) -> Result<(), CliError> {
        let json_rows: Vec<Value> = rows.iter().map(|row| row.json(model)).collect();
        let summary = json!({
            "model": self.model.model, "parameters": model.text.config.num_parameters(),
            "device": self.compute.device_name(), "dtype": format!("{:?}", model.dtype),
            "runs": self.runs, "rows": json_rows,
        });
        output.result(&summary, |w| print(w, rows))
    }
}

/// One process does it all.
fn alone(args: &Prefill, output: &Output) -> Result<(), CliError> {
    let device = args.compute.device()?;
    let (source, text) = generate::open(&args.model, output)?;
    let Cases { text, cases } = args.cases(&source, text, &args.strategy)?;
    let model = generate::load_weights(text, &source, &args.compute, &device, output)?;

    interrupt::listen();
    let runs = args.runs.get();
    let bar = output.progress("measuring", "runs");
    let total = (cases.len() * runs) as u64;
    let mut rows: Vec<(Document, u32, Row)> = cases
        .into_iter()
        .map(|(document, plan, next)| {
            let rows = args.strategy.chunk.min(plan.tokens);
            let needed = needed_bytes(&model, plan.tokens + args.decode, rows);
            (document, next, Row::new(plan, needed))
        })
        .collect();
    // In turns, so that a machine that is slower for a while is so for all.
    let mut done = 0;
    for _ in 0..runs {
        for (document, next, row) in &mut rows {
            if interrupt::poll().is_break() {
                return Err(CliError::failed("cancelled"));
            }
            memory::reset_peak();
            row.once(&model, document, *next, args)?;
            row.peak_bytes = row.peak_bytes.max(memory::peak_bytes());
            done += 1;
            bar.update(done, total);
        }
    }
    bar.finish();
    let rows: Vec<Row> = rows.into_iter().map(|(_, _, row)| row).collect();
    args.show(&model, &rows, output)
}

/// Several processes: the first reads and plans, all compute their ranks' rows, and each reports its
/// memory and what it received.
fn together(args: &Prefill, world: &mut World, output: &Output) -> Result<(), CliError> {
    let mut strategy = args.strategy.clone();
    together::one_rank_each(&mut strategy, world);
    processes::first_alone(world, || generate::resolve(&args.model, output))?;
    let opened = ModelSource::open(generate::resolve(&args.model, output)?)
        .map_err(CliError::usage)
        .and_then(|source| {
            let (config, fingerprint) = together::identify(&source)?;
            let mut facts = together::facts(&args.compute, &strategy, fingerprint)?;
            let asked = format!(
                "{:?} tokens, {:?}, {:?}, {} runs, {} decoded",
                args.tokens,
                args.methods(),
                strategy.config()?,
                args.runs,
                args.decode
            );
            facts.push(("lengths", Some(asked)));
            let checked = Checked {
                source,
                config,
                device: args.compute.device()?,
                dtype: args.compute.dtype(),
            };
            Ok((checked, facts))
        });
    let (checked, facts) = processes::agree(world, opened)?;
    processes::compare(world, &facts)?;
    let cases = processes::first_alone(world, || {
        let text = ModelText::load(&checked.source)?;
        args.cases(&checked.source, text, &strategy)
    })?;
    memory::give_back();
    let Checked {
        source,
        config,
        device,
        dtype,
    } = &checked;
    let (first, mut rows) = match cases {
        Some(Cases { text, cases }) => {
            let model = generate::load_weights(text, source, &args.compute, device, output);
            let model = processes::agree(world, model)?;
            let row = |(document, plan, next): (Document, PrefillPlan, u32)| {
                (document, next, Row::new(plan, 0))
            };
            (Some(model), cases.into_iter().map(row).collect::<Vec<_>>())
        }
        None => (None, Vec::new()),
    };
    let other = match &first {
        Some(_) => None,
        None => {
            let decoder = load_decoder(source, config, *dtype, device, &mut |_| {});
            Some(processes::agree(world, decoder.map_err(CliError::from))?)
        }
    };
    let decoder = match (&first, &other) {
        (Some(model), _) => &model.decoder,
        (None, Some(decoder)) => decoder,
        (None, None) => return Ok(()),
    };
    let methods: Vec<Method> = args.tokens.iter().flat_map(|_| args.methods()).collect();
    for _ in 0..args.runs.get() {
        for (case, method) in methods.iter().enumerate() {
            memory::reset_peak();
            strategy.method = Some(*method);
            let mut row = rows.get_mut(case);
            let Some(mut group) = together::group(&strategy, world)? else {
                let ran = processes::first_alone(world, || match (&first, &mut row) {
                    (Some(model), Some((document, next, row))) => {
                        row.once(model, document, *next, args)
                    }
                    _ => Ok(()),
                });
                ran?;
                continue;
            };
            let assign = row.as_ref().map(|(document, next, row)| {
                let (document, plan, next) = (document.clone(), row.plan.clone(), *next);
                move |ranks: Range<usize>| {
                    let room = args.capacity(plan.tokens);
                    Assignment::new(&document, &plan, &[next], room, args.decode + 1, ranks)
                }
            });
            let assign = assign
                .as_ref()
                .map(|assign| assign as &dyn Fn(Range<usize>) -> Assignment);
            let task = Assignment::scatter(&mut group, assign)?;
            let mut unused = BTreeMap::new();
            let parts = match &mut row {
                Some((_, _, row)) => &mut row.parts,
                None => &mut unused,
            };
            let chunk = strategy.chunk;
            let mut times = Times(parts);
            let (mut session, seconds) =
                together::prefill(decoder, &checked, &task, chunk, group, &mut times)?;
            let rate = match args.decode {
                0 => None,
                _ => decode(&mut session, &task.query, args.decode)?.decode_tokens_per_second(),
            };
            let report = together::report(&checked, &task, chunk, session.group());
            let reports = processes::reports(world, report)?;
            if let Some((_, _, row)) = row {
                row.prefill_seconds.push(seconds);
                row.decode_rates.extend(rate);
                row.peak_bytes = row.peak_bytes.max(memory::peak_bytes());
                row.needed_bytes = reports[0]["needed_bytes"].as_u64().unwrap_or(0) as usize;
                row.processes = reports;
            }
        }
    }
    let rows: Vec<Row> = rows.into_iter().map(|(_, _, row)| row).collect();
    match &first {
        Some(model) => args.show(model, &rows, output),
        None => Ok(()),
    }
}

/// Decodes `count` tokens behind `next`, the first of them by the question's own pass.
fn decode(session: &mut Session<'_>, next: &[u32], count: usize) -> Result<Completion, CliError> {
    let mut sampler = Sampler::new(SamplerConfig::default()).map_err(CliError::failed)?;
    let proceed = |_| ControlFlow::Continue(());
    Ok(session.ask(next, &mut sampler, &[], count + 1, proceed)?)
}

/// Adds up the parts of a prefill.
struct Times<'a>(&'a mut BTreeMap<Part, f64>);

impl PrefillObserver for Times<'_> {
    fn wants_times(&self) -> bool {
        true
    }

    fn part(&mut self, part: Part, _: Option<usize>, time: Duration) {
        *self.0.entry(part).or_default() += time.as_secs_f64();
    }
}

impl Row {
    fn new(plan: PrefillPlan, needed_bytes: usize) -> Self {
        Self {
            tokens: plan.tokens,
            plan,
            prefill_seconds: Vec::new(),
            parts: BTreeMap::new(),
            decode_rates: Vec::new(),
            needed_bytes,
            peak_bytes: None,
            processes: Vec::new(),
        }
    }

    /// Prefills the document, then decodes from `next`, the token behind it.
    fn once(
        &mut self,
        model: &LanguageModel,
        document: &Document,
        next: u32,
        args: &Prefill,
    ) -> Result<(), CliError> {
        let compressor =
            compressor::load(&self.plan, &model.text.config, model.dtype, &model.device)
                .map_err(CliError::usage)?;
        let config = SessionConfig::new(args.capacity(self.tokens))
            .with_dtype(model.dtype)
            .with_chunk(args.strategy.chunk);
        let mut session = Session::new(&model.decoder, &model.text.config, config, &model.device);
        let mut times = Times(&mut self.parts);
        let started = Instant::now();
        session.prefill_with(document, &self.plan, compressor.as_deref(), &mut times)?;
        self.prefill_seconds.push(started.elapsed().as_secs_f64());
        if args.decode == 0 {
            return Ok(());
        }
        let completion = decode(&mut session, &[next], args.decode)?;
        self.decode_rates
            .extend(completion.decode_tokens_per_second());
        Ok(())
    }
}

/// What a prefill must hold: weights, cache and the activations of one layer for one pass.
fn needed_bytes(model: &LanguageModel, capacity: usize, rows: usize) -> usize {
    let c = &model.text.config;
    let size = DType::from(model.dtype).size();
    let q = c.num_attention_heads * c.head_dim;
    let kv = c.num_key_value_heads * c.head_dim;
    // Residual, normed input and block output; q, k, v before and after RoPE; the attention's
    // output; gate, up and their product.
    let layer = 3 * c.hidden_size + 2 * (q + 2 * kv) + q + 3 * c.intermediate_size;
    (c.num_parameters() + rows * layer) * size + KvCache::bytes(c, 1, capacity, model.dtype.into())
}

/// Floating-point operations of a causal prefill (method: linear layers and attention).
fn prefill_flops(model: &LanguageModel, tokens: usize) -> f64 {
    let c = &model.text.config;
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

    fn json(&self, model: &LanguageModel) -> Value {
        let runs = self.prefill_seconds.len() as f64;
        let parts: serde_json::Map<String, Value> = self
            .parts
            .iter()
            .map(|(part, seconds)| (part.name().into(), json!(seconds / runs)))
            .collect();
        json!({
            "method": self.plan.method.name(), "ranks": self.plan.ranks, "tokens": self.tokens,
            "anchor": self.plan.anchor, "passing": self.plan.passing, "parts": parts,
            "prefill_seconds": self.seconds(), "prefill_seconds_all": self.prefill_seconds,
            "prefill_tokens_per_second": self.tokens as f64 / self.seconds(),
            "prefill_gflops": (self.plan.method == Method::Full)
                .then(|| prefill_flops(model, self.tokens) / self.seconds() / 1e9),
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
        "{:>8} {:<10} {:>10} {:>8} {:>12} {:>10} {:>12} {:>6}",
        "tokens", "method", "prefill s", "tok/s", "decode tok/s", "peak MiB", "needed MiB", "ratio"
    )?;
    for row in rows {
        writeln!(
            w,
            "{:>8} {:<10} {:>10.3} {:>8.0} {:>12} {:>10} {:>12.0} {:>6}",
            row.tokens,
            row.plan.method.name(),
            row.seconds(),
            row.tokens as f64 / row.seconds(),
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
            let seconds = row.parts.get(&part).copied().unwrap_or_default();
            write!(w, " {:>12.3}", seconds / row.prefill_seconds.len() as f64)?;
        }
        writeln!(w, "  {}", generate::describe(&row.plan))?;
    }
    Ok(())
}
