//! `apb generate`: prefills a document and answers a question about it.

use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use burn_apb::apb::{
    Answer, AnswerOptions, Method, Observer, PrefillObserver, PrefillPlan, Request, answer_request,
    compressor,
};
use burn_apb::model::generation_config::GenerationConfig;
use burn_apb::model::sampler::SamplerConfig;
use burn_apb::model::source::ModelSource;
use burn_apb::model::{LanguageModel, ModelText, hub, local};
use burn_apb::ranks::World;
use serde_json::{Value, json};

use crate::args::{Compute, Model, Reading, Sampling};
use crate::commands::together::{self, Prefilled};
use crate::error::CliError;
use crate::output::{Output, Progress};
use crate::{interrupt, memory, processes};

/// Largest document that is read, in bytes: about a hundred million tokens.
const MAX_DOCUMENT_BYTES: u64 = 1 << 29;

/// Prefill a document and answer a question about it
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    pub reading: Reading,
    /// The question
    #[arg(long, value_name = "TEXT")]
    pub query: String,
    #[command(flatten)]
    pub sampling: Sampling,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Result<(), CliError> {
    check_question(&args.query)?;
    let Args { reading, query, .. } = args;
    let together = |world: &mut World, output: &Output| {
        let complete =
            |options: &mut AnswerOptions, text: &ModelText| complete(args, options, text);
        let work = |prefilled: Prefilled<'_, '_>| together::answer(prefilled, output);
        let alone = || alone(args, output);
        together::run(reading, query, world, output, complete, alone, work)
    };
    processes::run(
        &reading.processes,
        &reading.compute,
        output,
        |output| alone(args, output),
        together,
    )
}

fn complete(args: &Args, options: &mut AnswerOptions, text: &ModelText) {
    options.max_tokens = args.sampling.max_tokens;
    let seed = args.reading.strategy.seed;
    options.sampler = Some(sampler(&args.sampling, seed, &text.generation));
}

/// One process does it all.
fn alone(args: &Args, output: &Output) -> Result<(), CliError> {
    let Prepared {
        request,
        options,
        model,
        ..
    } = prepare(&args.reading, &args.query, output, |options, text| {
        complete(args, options, text);
    })?;
    let answer = ask(&model, &request, &options, output)?;
    if output.is_json() {
        return output.result(&to_json(&answer), |_| Ok(()));
    }
    output.note(summary(&answer));
    Ok(())
}

/// A document and a question that have been checked, and the model to answer with.
pub struct Prepared {
    pub request: Request,
    pub options: AnswerOptions,
    pub model: LanguageModel,
    pub source: ModelSource,
}

/// Checks everything that can be checked before the weights, the options that `complete` fills in
/// included, then loads them.
pub fn prepare(
    reading: &Reading,
    question: &str,
    output: &Output,
    complete: impl FnOnce(&mut AnswerOptions, &ModelText),
) -> Result<Prepared, CliError> {
    let mut options = reading.options()?;
    let device = reading.compute.device()?;
    let document = read_text(&reading.document, "document")?;
    let (source, text) = open(&reading.model, output)?;
    complete(&mut options, &text);
    let request = Request::new(&text, &document, question, &options)?;
    compressor::check_model(&request.plan, &text.config, &source)?;
    if let Some(note) = request.plan.note() {
        output.note(format!("note: {note}"));
    }
    let model = load_weights(text, &source, &reading.compute, &device, output)?;
    Ok(Prepared {
        request,
        options,
        model,
        source,
    })
}

/// Refuses a question without words.
pub fn check_question(question: &str) -> Result<(), CliError> {
    match question.trim().is_empty() {
        true => Err(CliError::usage(
            "the question is empty; pass it with --query \"...\"",
        )),
        false => Ok(()),
    }
}

/// Everything of a model but the weights, from a folder, a GGUF file or, when there is no such path,
/// the hub.
pub fn open(model: &Model, output: &Output) -> Result<(ModelSource, ModelText), CliError> {
    let source = ModelSource::open(resolve(model, output)?).map_err(CliError::usage)?;
    let text = ModelText::load(&source)?;
    Ok((source, text))
}

/// Where the model lies; fetches it where there is no such path.
pub fn resolve(model: &Model, output: &Output) -> Result<PathBuf, CliError> {
    if model.model.exists() || model.model.is_symlink() {
        let snapshot = local::describe_folder(&model.model).map_err(CliError::usage)?;
        return Ok(match snapshot {
            Some(snapshot) => {
                output.note(format!("note: {}", snapshot.note));
                snapshot.path
            }
            None => model.model.clone(),
        });
    }
    let bar = output.progress("fetching", "B");
    let resolved = hub::resolve(&model.model.to_string_lossy(), &mut |p| {
        bar.update(p.done, p.total);
    })?;
    bar.finish();
    for warning in &resolved.warnings {
        output.note(format!("warning: {warning}"));
    }
    Ok(resolved.path)
}

/// The weights that belong to it.
pub fn load_weights(
    text: ModelText,
    source: &ModelSource,
    compute: &Compute,
    device: &Device,
    output: &Output,
) -> Result<LanguageModel, CliError> {
    let bar = output.progress("loading", "B");
    let model = LanguageModel::with_text(text, source, compute.dtype(), device, &mut |p| {
        bar.update(p.done, p.total);
    })?;
    bar.finish();
    Ok(model)
}

/// Reads a text file, or standard input for `-`; not UTF-8 and too large are refused.
pub fn read_text(path: &Path, what: &str) -> Result<String, CliError> {
    let name = path.display();
    let mut bytes = Vec::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin()
            .lock()
            .take(MAX_DOCUMENT_BYTES + 1)
            .read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes))
    };
    read.map_err(|e| CliError::usage(format!("cannot read the {what} {name}: {e}")))?;
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(CliError::usage(format!(
            "the {what} {name} is larger than {MAX_DOCUMENT_BYTES} bytes; split it"
        )));
    }
    String::from_utf8(bytes).map_err(|e| {
        CliError::usage(format!(
            "the {what} {name} is not UTF-8: byte {} cannot be read; convert it, for example with \
             `iconv -t utf-8`",
            e.utf8_error().valid_up_to()
        ))
    })
}

/// The flags over the model's own defaults; with neither, greedy.
pub fn sampler(flags: &Sampling, seed: Option<u64>, defaults: &GenerationConfig) -> SamplerConfig {
    let mut config = if flags.greedy {
        SamplerConfig::default()
    } else {
        SamplerConfig::from(defaults)
    };
    if let Some(temperature) = flags.temperature {
        config.temperature = temperature;
    }
    config.top_k = flags.top_k.unwrap_or(config.top_k);
    config.top_p = flags.top_p.unwrap_or(config.top_p);
    config.min_p = flags.min_p.unwrap_or(config.min_p);
    config.repetition_penalty = flags
        .repetition_penalty
        .unwrap_or(config.repetition_penalty);
    config.seed = seed.unwrap_or(config.seed);
    config
}

/// Answers with a progress bar while the document is prefilled, and streams the answer to stdout
/// unless JSON was asked for.
pub fn ask(
    model: &LanguageModel,
    request: &Request,
    options: &AnswerOptions,
    output: &Output,
) -> Result<Answer, CliError> {
    let mut terminal = Terminal::new(output);
    let answer = answer_request(model, request, options, &mut terminal);
    terminal.done()?;
    let answer = answer?;
    if output.streams() {
        writeln!(std::io::stdout()).map_err(CliError::failed)?;
    }
    Ok(answer)
}

/// Shows a prefill's progress and streams an answer, until Ctrl-C.
pub struct Terminal {
    bar: Progress,
    stream: bool,
    broken: Option<std::io::Error>,
}

impl Terminal {
    /// Streams unless JSON was asked for.
    pub fn new(output: &Output) -> Self {
        interrupt::listen();
        Self {
            bar: output.progress("prefill", "tokens"),
            stream: output.streams(),
            broken: None,
        }
    }

    /// Takes the bar away and says whether writing failed.
    pub fn done(&mut self) -> Result<(), CliError> {
        self.bar.finish();
        match self.broken.take() {
            Some(error) => Err(CliError::failed(error)),
            None => Ok(()),
        }
    }
}

impl PrefillObserver for Terminal {
    fn progress(&mut self, done: usize, total: usize) -> ControlFlow<()> {
        self.prefilled(done, total)
    }
}

impl Observer for Terminal {
    fn prefilled(&mut self, done: usize, total: usize) -> ControlFlow<()> {
        self.bar.update(done as u64, total as u64);
        if done == total {
            self.bar.finish();
        }
        interrupt::poll()
    }

    fn text(&mut self, text: &str) -> ControlFlow<()> {
        if self.stream {
            let mut stdout = std::io::stdout().lock();
            if let Err(error) = stdout
                .write_all(text.as_bytes())
                .and_then(|()| stdout.flush())
            {
                self.broken = Some(error);
                return ControlFlow::Break(());
            }
        }
        interrupt::poll()
    }
}

/// The keys of the command contract.
pub fn to_json(answer: &Answer) -> Value {
    json!({
        "text": answer.text,
        "tokens": answer.completion.tokens,
        "stop_reason": answer.completion.stop_reason.name(),
        "document_tokens": answer.document_tokens,
        "query_tokens": answer.query_tokens,
        "exact_split": answer.exact_split,
        "method": answer.plan.method.name(),
        "ranks": answer.plan.ranks,
        "anchor": answer.plan.anchor,
        "passing": answer.plan.passing,
        "compressor": (answer.plan.method == Method::Apb).then(|| answer.plan.compressor.name()),
        "prefill_seconds": answer.prefill_seconds,
        "prefill_tokens_per_second": answer.prefill_tokens_per_second(),
        "query_seconds": answer.completion.query_time.as_secs_f64(),
        "decode_tokens_per_second": answer.completion.decode_tokens_per_second(),
        "peak_bytes": memory::peak_bytes(),
    })
}

/// One line about speed and memory.
pub fn summary(answer: &Answer) -> String {
    let decode = answer
        .completion
        .decode_tokens_per_second()
        .map_or_else(String::new, |rate| format!(", decode {rate:.1} tok/s"));
    let peak = memory::peak_bytes()
        .map_or_else(String::new, |bytes| format!(", peak {} MiB", bytes >> 20));
    format!(
        "{}: prefill {} tokens in {:.2} s ({:.0} tok/s), {} tokens answered{decode}{peak}",
        describe(&answer.plan),
        answer.document_tokens,
        answer.prefill_seconds,
        answer.prefill_tokens_per_second(),
        answer.completion.tokens.len(),
    )
}

/// A plan in a few words.
pub fn describe(plan: &PrefillPlan) -> String {
    let ranks = plan.ranks;
    match plan.method {
        Method::Full => "full".into(),
        Method::Ring => format!("ring, {ranks} ranks, {}", plan.ring_layout.name()),
        Method::Apb => format!(
            "apb, {ranks} ranks, anchor {}, passing {}, {}",
            plan.anchor,
            plan.passing,
            plan.compressor.name()
        ),
        method => format!("{method}, {ranks} ranks"),
    }
}
