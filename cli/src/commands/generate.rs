//! `apb generate`: prefills a document and answers a question about it.

use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use burn_apb::apb::{
    Answer, AnswerOptions, Completion, Method, Observer, PrefillObserver, PrefillPlan, Request,
    answer_request, compressor,
};
use burn_apb::checkpoint::LoadOptions;
use burn_apb::checkpoint::source::ModelSource;
use burn_apb::checkpoint::{hub, local};
use burn_apb::ranks::World;
use burn_apb::text::stop::Stop;
use burn_apb::{LanguageModel, ModelText};
use serde_json::{Value, json};

use crate::args::{Model, Reading, Sampling};
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
    /// Show the prompt, in the JSON or on stderr: its tokens, and the text that they decode to
    #[arg(long)]
    pub show_prompt: bool,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Result<(), CliError> {
    check_question(&args.query)?;
    let Args { reading, query, .. } = args;
    let together = |world: &mut World, output: &Output| {
        let complete =
            |options: &mut AnswerOptions, text: &ModelText| complete(args, options, text, output);
        let work =
            |prefilled: Prefilled<'_, '_>| together::answer(prefilled, args.show_prompt, output);
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

fn complete(
    args: &Args,
    options: &mut AnswerOptions,
    text: &ModelText,
    output: &Output,
) -> Result<(), CliError> {
    let seed = args.reading.strategy.seed;
    args.sampling.complete(seed, text, options, output)
}

/// One process does it all.
fn alone(args: &Args, output: &Output) -> Result<(), CliError> {
    let Prepared {
        request,
        options,
        model,
        ..
    } = prepare(&args.reading, &args.query, output, |options, text| {
        complete(args, options, text, output)
    })?;
    let prompt = match args.show_prompt {
        true => Some(prompt(&request, &model.text, output)?),
        false => None,
    };
    let read = options.prompt.allow_control_tokens;
    note_control_tokens(&request.control_tokens, read, &model.text, output);
    let answer = ask(&model, &request, &options, output)?;
    if output.is_json() {
        let mut value = to_json(&answer, &model.text);
        value["control_tokens_read"] = read.into();
        if let Some(prompt) = prompt {
            value["prompt"] = prompt;
        }
        return output.result(&value, |_| Ok(()));
    }
    output.note(summary(&answer));
    Ok(())
}

/// The whole prompt for the JSON; without JSON it is shown on stderr.
pub fn prompt(request: &Request, text: &ModelText, output: &Output) -> Result<Value, CliError> {
    let tokens = [&request.document.tokens[..], &request.query].concat();
    let decoded = text.tokenizer.decode(&tokens, false);
    let decoded = decoded.map_err(CliError::failed)?;
    if !output.is_json() {
        output.note(format!("{decoded}\n{tokens:?}"));
    }
    Ok(json!({ "text": decoded, "tokens": tokens }))
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
    complete: impl FnOnce(&mut AnswerOptions, &ModelText) -> Result<(), CliError>,
) -> Result<Prepared, CliError> {
    let mut options = reading.options()?;
    let device = reading.compute.device()?;
    let document = read_text(&reading.document, "document")?;
    let (source, text) = open(&reading.model, output)?;
    complete(&mut options, &text)?;
    let request = Request::new(&text, &document, question, &options)?;
    compressor::check_model(&request.plan, &text.config, &source)?;
    if let Some(note) = request.plan.note() {
        output.note(format!("note: {note}"));
    }
    let model = load_weights(text, &source, reading.load_options(), &device, output)?;
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
    for warning in &text.warnings {
        output.note(format!("warning: {warning}"));
    }
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
    options: impl Into<LoadOptions>,
    device: &Device,
    output: &Output,
) -> Result<LanguageModel, CliError> {
    let bar = output.progress("loading", "B");
    let model = LanguageModel::with_text(text, source, options, device, &mut |p| {
        bar.update(p.done, p.total);
    })?;
    bar.finish();
    for warning in &model.warnings {
        output.note(format!("warning: {warning}"));
    }
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

/// What ended an answer.
pub fn stop_json(stop: Option<&Stop>) -> Value {
    match stop {
        Some(Stop::Token { token, text }) => json!({
            "kind": "token", "token": token.id, "text": text, "source": token.source.name(),
        }),
        Some(Stop::Text(text)) => json!({ "kind": "text", "text": text }),
        _ => Value::Null,
    }
}

/// Adds the log-probabilities of the answer's tokens, and of the likeliest in the place of each, where
/// they were asked for.
pub fn add_logprobs(value: &mut Value, completion: &Completion, text: &ModelText) {
    if completion.logprobs.is_empty() {
        return;
    }
    let one = |token: u32, logprob: f32| {
        // A token beyond the tokenizer's vocabulary has no text.
        let text = text.tokenizer.decode(&[token], false).ok();
        json!({ "token": token, "text": text, "logprob": logprob })
    };
    let all = completion.logprobs.iter().map(|row| {
        let mut value = one(row.token, row.logprob);
        value["top"] = row.top.iter().map(|&(token, p)| one(token, p)).collect();
        value
    });
    value["logprobs"] = all.collect();
}

/// Control tokens that a text spells out.
pub fn control_tokens_json(spelled: &[(u32, usize)], text: &ModelText) -> Value {
    let all = spelled.iter().map(|&(token, count)| {
        json!({ "token": token, "text": text.tokenizer.token(token), "count": count })
    });
    all.collect()
}

/// Says that a text spells control tokens out, and what became of them.
fn note_control_tokens(spelled: &[(u32, usize)], read: bool, text: &ModelText, output: &Output) {
    if spelled.is_empty() {
        return;
    }
    let names = spelled.iter().map(|&(token, count)| {
        let name = text.tokenizer.token(token).unwrap_or_default();
        format!("{name} ({count})")
    });
    let names: Vec<String> = names.collect();
    output.note(format!(
        "note: document or question spell out {}, {}",
        names.join(", "),
        match read {
            true => "read as control tokens",
            false => "read as text; --allow-control-tokens reads them as tokens",
        }
    ));
}

/// The keys of the command contract.
pub fn to_json(answer: &Answer, text: &ModelText) -> Value {
    let mut value = json!({
        "text": answer.text,
        "tokens": answer.completion.tokens,
        "stop_reason": answer.completion.stop_reason.name(),
        "stop": stop_json(answer.stop.as_ref()),
        "document_tokens": answer.document_tokens,
        "query_tokens": answer.query_tokens,
        "exact_split": answer.exact_split,
        "control_tokens": control_tokens_json(&answer.control_tokens, text),
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
    });
    add_logprobs(&mut value, &answer.completion, text);
    value
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
