//! Opening a model, prefilling a document, by one process or several: what `generate`, `chat` and
//! `session save` begin with.

use std::io::{IsTerminal, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{DType, Device, FloatDType};
use burn_apb::apb::heads::HEADS_FILE;
use burn_apb::apb::{
    AnswerOptions, CancelToken, Method, Observer, PrefillPlan, Reply, Request, Session, ask,
};
use burn_apb::checkpoint::ModelSource;
use burn_apb::checkpoint::{LoadOptions, StoredType, hub, local};
use burn_apb::model::{CausalLm, Decoder, DecoderConfig, KvCache, KvDType, RopeScaling};
use burn_apb::ranks::{RankGroup, World};
use burn_apb::text::chat_template::ChatTemplate;
use burn_apb::{ModelText, load_decoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::args::{Compute, Model, Reading, Strategy};
use crate::error::{AtPath, CliError};
use crate::escape;
use crate::output::{self, Output, Progress};
use crate::predict::{self, Weights};
use crate::{interrupt, memory, processes};

/// Largest document that is read, in bytes: about a hundred million tokens.
const MAX_DOCUMENT_BYTES: u64 = 1 << 29;
/// Largest chat template that is read, in bytes: the library parses no larger one.
const MAX_TEMPLATE_BYTES: u64 = 128 << 10;

/// A prefilled document, as one of the processes holds it.
pub struct Prefilled<'a> {
    pub world: &'a mut World,
    pub session: &'a mut Session,
    pub source: &'a ModelSource,
    pub request: &'a Request,
    pub seconds: f64,
    pub decoder: &'a Arc<Decoder>,
    /// On the first process, which reads the document and chooses the tokens.
    pub first: Option<First<'a>>,
}

/// What only the first process has.
pub struct First<'a> {
    pub text: &'a ModelText,
    pub options: &'a AnswerOptions,
}

/// Reads, checks and prefills a document, then goes on with `work`. `complete` fills in the options that
/// the model's files decide about. Everything that can be checked before the weights is.
///
/// Every process of the world calls it. Where a single rank computes everything, the first process does.
pub fn run<T>(
    reading: &Reading,
    question: &str,
    world: &mut World,
    output: &Output,
    complete: impl FnOnce(&mut AnswerOptions, &ModelText) -> Result<(), CliError>,
    work: impl FnOnce(Prefilled<'_>) -> Result<T, CliError>,
) -> Result<Option<T>, CliError> {
    let ranks = ranks(&reading.strategy, world);
    if ranks == 1 && !world.is_single() {
        let alone = || {
            let world = &mut World::single();
            run(reading, question, world, output, complete, work)
        };
        return Ok(processes::on_first(world, alone)?.flatten());
    }
    let mut reading = reading.clone();
    if !world.is_single() {
        reading.strategy.ranks = Some(ranks);
    }
    let mut group = group(ranks, world)?;
    // One process fetches; the others find what it fetched.
    processes::on_first(world, || resolve(&reading.model, output))?;
    let opened = open(&reading, world.is_single(), output);
    let (source, device, facts) = processes::agree(world, opened)?;
    processes::compare(world, &facts)?;
    let prepared = processes::on_first(world, || {
        interrupt::at_once(|| prepare(&reading, question, &source, output, complete))
    })?;
    memory::give_back();
    let (request, first) = match prepared {
        Some((request, options, text)) => (Some(request), Some((options, text))),
        None => (None, None),
    };
    if world.is_single()
        && let Some(request) = &request
    {
        group = world.group(request.plan.ranks)?;
    }
    let request = Request::broadcast(request, &mut group)?;
    let fits = fits(&reading, &source, &request, &group);
    processes::agree(world, fits)?;

    let decoder = load_weights(&source, reading.load_options(), &device, output);
    let decoder = processes::agree(world, decoder)?;
    processes::log(&format!(
        "computes {} of {}",
        group.ranks(),
        request.plan.ranks
    ));
    let mut terminal = Terminal::new(output);
    let prefilled = request.prefill(decoder.clone(), group, &mut terminal);
    terminal.done()?;
    let prefilled = prefilled.map_err(|error| explain(error.into(), &source));
    let (mut session, seconds) = prefilled?;
    // The first token's logits bring in the whole output embedding, where the activations were.
    memory::give_back();
    work(Prefilled {
        world,
        session: &mut session,
        source: &source,
        request: &request,
        seconds,
        decoder: &decoder,
        first: first
            .as_ref()
            .map(|(options, text)| First { text, options }),
    })
    .map(Some)
    .map_err(|error| explain(error, &source))
}

/// Of a model that computes what is no number, names the weight that is none, where there is one.
pub fn explain(error: CliError, source: &ModelSource) -> CliError {
    if !error.is_not_finite() {
        return error;
    }
    let checked = source
        .checkpoint()
        .map(|weights| weights.check_all_finite());
    match checked {
        Ok(Err(broken)) => CliError::usage(format!("{error}: {broken}")).at(source.path()),
        _ => error,
    }
}

/// Refuses what the memory does not hold.
fn fits(
    reading: &Reading,
    source: &ModelSource,
    request: &Request,
    group: &RankGroup,
) -> Result<(), CliError> {
    let (options, compute) = (reading.load_options(), &reading.compute);
    predict::check_fits(
        source,
        Weights::ToLoad,
        options,
        request,
        group.ranks(),
        compute,
    )
}

/// How many ranks a strategy has; several processes drive one each, where nothing else is asked for.
pub fn ranks(strategy: &Strategy, world: &World) -> usize {
    match strategy.method.unwrap_or(Method::Full) {
        Method::Full => 1,
        _ if world.is_single() => strategy.ranks.unwrap_or(0),
        _ => strategy.ranks.unwrap_or(world.processes()),
    }
}

/// The group of several processes, which must divide the ranks. A process alone drives any number.
pub fn group(ranks: usize, world: &World) -> Result<RankGroup, CliError> {
    match world.is_single() {
        true => Ok(RankGroup::local(1)),
        // Every process finds the same, and only the first prints it.
        false => Ok(world
            .group(ranks)
            .map_err(|error| CliError::from(error).known())?),
    }
}

/// Opens the model and the device. Also returns what must be the same on every process; nothing where
/// there is one process.
fn open(
    reading: &Reading,
    alone: bool,
    output: &Output,
) -> Result<(ModelSource, Device, Facts), CliError> {
    let source = open_source(&reading.model, output)?;
    let device = reading.compute.device()?;
    if alone {
        return Ok((source, device, Vec::new()));
    }
    let settings = reading.options()?;
    let mut facts = facts(&reading.compute, &reading.strategy, source.fingerprint()?)?;
    let lengths = format!("{:?}, prompt {:?}", settings.prefill, settings.prompt);
    facts.push(("lengths", Some(lengths)));
    facts.push(("anchor query", Some(format!("{:?}", settings.anchor_query))));
    // Only the first process reads the document. Another process that finds a document of that name
    // compares its length.
    let length = std::fs::metadata(&reading.document)
        .ok()
        .filter(|data| data.is_file());
    facts.push((
        "bytes of the document",
        length.map(|data| data.len().to_string()),
    ));
    Ok((source, device, facts))
}

/// Names and values that processes compare; a value that a process cannot know is none.
pub type Facts = Vec<(&'static str, Option<String>)>;

/// What must be the same on every process, whatever the command.
pub fn facts(compute: &Compute, strategy: &Strategy, model: String) -> Result<Facts, CliError> {
    let heads = strategy.heads.as_ref().map(|path| hash_of(path));
    Ok(vec![
        ("crate version", Some(env!("CARGO_PKG_VERSION").into())),
        ("model", Some(model)),
        ("heads", heads.transpose()?),
        ("dtype", Some(format!("{:?}", compute.dtype()))),
        ("kv-dtype", Some(format!("{:?}", compute.kv_dtype()))),
        ("dequantize", Some(compute.dequantize().to_string())),
        ("chunk", strategy.chunk.map(|rows| rows.to_string())),
        ("seed", Some(format!("{:?}", strategy.seed))),
    ])
}

/// SHA-256 of a file, in hexadecimal.
pub fn hash_of(path: &Path) -> Result<String, CliError> {
    let failed = |e: std::io::Error| {
        CliError::usage(format!("cannot read {}: {e}", escape::path(path))).at(path)
    };
    // A folder is that of retaining heads. A pipe would be empty for whoever reads it next.
    let file = match path.is_dir() {
        true => path.join(HEADS_FILE),
        false => path.to_owned(),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(std::io::Error::other("it is no regular file")));
    }
    let mut file = std::fs::File::open(file).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(burn_apb::hex::encode(&hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// What the first process does: reads the document, tokenises it, plans.
fn prepare(
    reading: &Reading,
    question: &str,
    source: &ModelSource,
    output: &Output,
    complete: impl FnOnce(&mut AnswerOptions, &ModelText) -> Result<(), CliError>,
) -> Result<(Request, AnswerOptions, ModelText), CliError> {
    let mut options = reading.options()?;
    let document = read_text(&reading.document, "document")?;
    let text = read_model_text(source, output)?;
    complete(&mut options, &text)?;
    let compute = &reading.compute;
    compute.check_kv_dtype(&text.config, &compute.device()?)?;
    let request = Request::new(&text, &document, question, &options)?;
    request.check_heads(&text.config, source)?;
    let read = options.prompt.allow_control_tokens;
    note_control_tokens(&request.control_tokens, read, &text, output);
    if let Some(note) = request.plan.note() {
        output.note(format!("note: {note}"));
    }
    if let RopeScaling::Dynamic {
        original_context, ..
    } = text.config.rope.scaling
    {
        output.note(format!(
            "note: dynamic RoPE: frequencies for {} tokens, those of document and question (unscaled up to {original_context})",
            request.session.context()
        ));
    }
    Ok((request, options, text))
}

/// Says that document or question spell control tokens out, and what became of them.
pub fn note_control_tokens(
    spelled: &[(u32, usize)],
    read: bool,
    text: &ModelText,
    output: &Output,
) {
    if spelled.is_empty() {
        return;
    }
    let names = spelled.iter().map(|&(token, count)| {
        let name = text.tokenizer.token(token).unwrap_or_default();
        format!("{} ({count})", escape::line(&name))
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

/// Everything of a model but the weights.
pub fn read_model_text(source: &ModelSource, output: &Output) -> Result<ModelText, CliError> {
    let text = ModelText::load(source).at(source.path())?;
    for warning in &text.warnings {
        output.note(format!("warning: {warning}"));
    }
    Ok(text)
}

/// Everything of a model but the weights, from a folder, a GGUF file or, when there is no such path,
/// the hub.
pub fn open_model(model: &Model, output: &Output) -> Result<(ModelSource, ModelText), CliError> {
    let source = open_source(model, output)?;
    let text = read_model_text(&source, output)?;
    Ok((source, text))
}

/// The files of a model.
fn open_source(model: &Model, output: &Output) -> Result<ModelSource, CliError> {
    let path = resolve(model, output)?;
    ModelSource::open(&path).at(&path)
}

/// The path of a model, which is fetched where there is no such path.
pub fn resolve(model: &Model, output: &Output) -> Result<PathBuf, CliError> {
    if model.model.exists() || model.model.is_symlink() {
        let snapshot = local::describe_folder(&model.model)
            .map_err(CliError::usage)
            .at(&model.model)?;
        return Ok(match snapshot {
            Some(snapshot) => {
                output.note(format!("note: {}", snapshot.note));
                snapshot.path
            }
            None => model.model.clone(),
        });
    }
    let bar = output.progress("fetching", "B");
    // What has arrived is kept.
    let resolved = interrupt::at_once(|| {
        hub::resolve(&model.model.to_string_lossy(), &mut |p| {
            bar.update(p.done, p.total);
        })
    })?;
    bar.finish();
    for warning in &resolved.warnings {
        output.note(format!("warning: {warning}"));
    }
    Ok(resolved.path)
}

/// The weights of a model.
pub fn load_weights(
    source: &ModelSource,
    options: impl Into<LoadOptions>,
    device: &Device,
    output: &Output,
) -> Result<Arc<Decoder>, CliError> {
    let config = DecoderConfig::from_json(source.config());
    let config = config.map_err(CliError::usage).at(source.path())?;
    let options: LoadOptions = options.into();
    if options.dequantize {
        let weights = source.checkpoint()?;
        let mut types = weights.tensors().map(|info| &info.stored);
        if !types.any(|stored| matches!(stored, StoredType::Quantized(_))) {
            output.note("note: --dequantize changes nothing: no weight of this model is quantised");
        }
    }
    let bar = output.progress("loading", "B");
    let loaded = interrupt::at_once(|| {
        load_decoder(source, &config, options, device, &mut |p| {
            bar.update(p.done, p.total);
        })
    });
    let (decoder, report) = loaded.at(source.path())?;
    bar.finish();
    for warning in &report.warnings {
        output.note(format!("warning: {warning}"));
    }
    Ok(Arc::new(decoder))
}

/// Reads a text file, or standard input for `-`; not UTF-8 and too large are refused.
pub fn read_text(path: &Path, what: &str) -> Result<String, CliError> {
    read_at_most(path, what, MAX_DOCUMENT_BYTES, "split it")
}

/// Reads a chat template, and refuses one that does not parse before a model is read.
pub fn read_template(path: &Path) -> Result<String, CliError> {
    let advice = "no chat template is";
    let text = read_at_most(path, "chat template", MAX_TEMPLATE_BYTES, advice)?;
    match ChatTemplate::parse(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(CliError::usage(format!("{}: {error}", escape::path(path))).at(path)),
    }
}

fn read_at_most(path: &Path, what: &str, most: u64, advice: &str) -> Result<String, CliError> {
    let name = escape::path(path);
    let mut bytes = Vec::new();
    let read = interrupt::at_once(|| match path.as_os_str() == "-" {
        true => std::io::stdin()
            .lock()
            .take(most + 1)
            .read_to_end(&mut bytes),
        false => {
            std::fs::File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes))
        }
    });
    let refused = |reason: String| CliError::usage(reason).at(path);
    read.map_err(|e| refused(format!("cannot read the {what} {name}: {e}")))?;
    if bytes.len() as u64 > most {
        return Err(refused(format!(
            "the {what} {name} is larger than {}; {advice}",
            output::bytes(most)
        )));
    }
    String::from_utf8(bytes).map_err(|e| {
        refused(format!(
            "the {what} {name} is not UTF-8: byte {} cannot be read; convert it, for example with \
             `iconv -t utf-8`",
            e.utf8_error().valid_up_to()
        ))
    })
}

/// Answers a question to a prefilled document, and streams the answer to stdout unless JSON was asked
/// for.
pub fn answer(
    text: &ModelText,
    session: &mut Session,
    query: &[u32],
    options: &AnswerOptions,
    output: &Output,
) -> Result<Reply, CliError> {
    let mut terminal = Terminal::new(output);
    let answered = ask(text, session, query, options, &mut terminal);
    terminal.done()?;
    let reply = answered?;
    if output.streams() {
        writeln!(std::io::stdout()).map_err(CliError::stdout)?;
    }
    Ok(reply)
}

/// Shows a prefill's progress and streams an answer, until Ctrl-C.
pub struct Terminal {
    bar: Progress,
    stream: bool,
    /// Whether a terminal would obey what the model writes.
    terminal: bool,
    broken: Option<std::io::Error>,
}

impl Terminal {
    /// Streams unless JSON was asked for.
    pub fn new(output: &Output) -> Self {
        interrupt::listen();
        Self {
            bar: output.progress("prefill", "tokens"),
            stream: output.streams(),
            terminal: std::io::stdout().is_terminal(),
            broken: None,
        }
    }

    /// Takes the bar away; fails where writing failed.
    pub fn done(&mut self) -> Result<(), CliError> {
        self.bar.finish();
        match self.broken.take() {
            Some(error) => Err(CliError::stdout(error)),
            None => Ok(()),
        }
    }
}

impl Observer for Terminal {
    fn progress(&mut self, done: usize, total: usize) -> ControlFlow<()> {
        self.bar.update(done as u64, total as u64);
        if done == total {
            self.bar.finish();
        }
        interrupt::poll()
    }

    fn cancel_token(&self) -> CancelToken {
        interrupt::token().clone()
    }

    fn text(&mut self, text: &str) -> ControlFlow<()> {
        if self.stream {
            let mut stdout = std::io::stdout().lock();
            let shown = match self.terminal {
                true => escape::shown(text),
                false => text.into(),
            };
            let written = stdout.write_all(shown.as_bytes());
            if let Err(error) = written.and_then(|()| stdout.flush()) {
                self.broken = Some(error);
                return ControlFlow::Break(());
            }
        }
        interrupt::poll()
    }
}

/// What this process held and received for its ranks, beside what it needs for them.
pub fn report(decoder: &Decoder, request: &Request, group: &RankGroup) -> Value {
    let plan = &request.plan;
    let owned: usize = group.ranks().map(|rank| plan.owned_len(rank)).sum();
    let anchor = match group.ranks().any(|rank| rank > 0) {
        true => plan.anchor,
        false => 0,
    };
    let following = match group.owns_last() {
        true => request.session.capacity - plan.tokens,
        false => 0,
    };
    let rows = owned + anchor;
    let chunk = request.session.chunk_on(&decoder.device());
    let kv_dtype = request
        .session
        .kv_dtype
        .unwrap_or_else(|| KvDType::of(decoder.kv_dtype()));
    let memory = Memory {
        weights: decoder.weight_bytes(),
        dtype: decoder.dtype(),
        kv_dtype,
    };
    json!({
        "peak_bytes": memory::peak_bytes(),
        "needed_bytes": memory.needed_bytes(&decoder.config, rows, chunk, owned + following),
        "received_bytes": group.received_bytes(),
    })
}

/// What takes memory.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Bytes of the weights.
    pub weights: usize,
    /// Of activations.
    pub dtype: FloatDType,
    /// Of the cache.
    pub kv_dtype: KvDType,
}

impl Memory {
    /// Bytes of the weights, the activations of `rows` rows, one tile of the MLP of at most `chunk` rows,
    /// and a cache of `cached` tokens.
    pub fn needed_bytes(
        &self,
        config: &DecoderConfig,
        rows: usize,
        chunk: usize,
        cached: usize,
    ) -> usize {
        let size = DType::from(self.dtype).size();
        let q = config.num_attention_heads * config.head_dim;
        let kv = config.num_key_value_heads * config.head_dim;
        // Residual, normed input and block output; q, k, v before and after RoPE; the attention's output.
        let row = 3 * config.hidden_size + 2 * (q + 2 * kv) + q;
        // Gate, up and their product.
        let tile = rows.min(chunk) * 3 * config.intermediate_size;
        let cache = KvCache::bytes(config, 1, cached, self.kv_dtype);
        self.weights + (rows * row + tile) * size + cache
    }
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
