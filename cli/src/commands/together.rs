//! Answering a question with several processes, each of which drives some of the ranks.

use std::ops::{ControlFlow, Range};

use burn::tensor::{DType, Device, FloatDType};
use burn_apb::apb::{
    Answer, AnswerOptions, Assignment, Method, PrefillObserver, PrefillPlan, Request, Session,
    SessionConfig, compressor, reply,
};
use burn_apb::checkpoint::source::ModelSource;
use burn_apb::model::{Decoder, DecoderConfig, KvCache};
use burn_apb::ranks::{RankGroup, World};
use burn_apb::text::sampler::{Sampler, SamplerConfig};
use burn_apb::{LanguageModel, ModelText, load_decoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::args::{Compute, Reading, Strategy};
use crate::commands::generate::{self, Terminal};
use crate::error::CliError;
use crate::output::Output;
use crate::{memory, processes};

/// What every process has checked before the document is scattered.
pub struct Checked {
    pub source: ModelSource,
    pub config: DecoderConfig,
    pub device: Device,
    pub dtype: FloatDType,
}

/// A prefilled document, as one of the processes holds it.
pub struct Prefilled<'a, 'm> {
    pub world: &'a mut World,
    pub session: &'a mut Session<'m>,
    pub checked: &'a Checked,
    pub task: &'a Assignment,
    pub chunk: usize,
    pub seconds: f64,
    /// On the first process.
    pub first: Option<First<'a>>,
}

/// What only the first process has.
pub struct First<'a> {
    pub model: &'a LanguageModel,
    pub request: &'a Request,
    pub options: &'a AnswerOptions,
}

/// Prefills a document with all processes and goes on with `work`. Where a single rank does it all the
/// first process does, as `alone` in a process of its own.
pub fn run(
    reading: &Reading,
    question: &str,
    world: &mut World,
    output: &Output,
    complete: impl FnOnce(&mut AnswerOptions, &ModelText) -> Result<(), CliError>,
    alone: impl FnOnce() -> Result<(), CliError>,
    work: impl FnOnce(Prefilled<'_, '_>) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut reading = reading.clone();
    one_rank_each(&mut reading.strategy, world);
    let Some(mut group) = group(&reading.strategy, world)? else {
        return processes::first_alone(world, alone).map(|_| ());
    };
    let checked = check(&reading, world, output)?;
    let prepared = processes::first_alone(world, || {
        prepare(&reading, question, &checked, output, complete)
    })?;
    memory::give_back();
    let assign = prepared.as_ref().map(|(request, options, _)| {
        move |ranks: Range<usize>| {
            let (document, plan) = (&request.document, &request.plan);
            let (room, most) = (request.capacity, options.max_tokens);
            Assignment::new(document, plan, &request.query, room, most, ranks)
        }
    });
    let assign = assign
        .as_ref()
        .map(|assign| assign as &dyn Fn(Range<usize>) -> Assignment);
    let task = Assignment::scatter(&mut group, assign)?;
    let chunk = reading.strategy.chunk;
    match prepared {
        Some((request, options, text)) => {
            let Checked { source, device, .. } = &checked;
            let model =
                generate::load_weights(text, source, reading.load_options(), device, output);
            let model = processes::agree(world, model)?;
            let mut terminal = Terminal::new(output);
            let prefilled = prefill(&model.decoder, &checked, &task, chunk, group, &mut terminal);
            terminal.done()?;
            let (mut session, seconds) = prefilled?;
            let first = First {
                model: &model,
                request: &request,
                options: &options,
            };
            work(Prefilled {
                world,
                session: &mut session,
                checked: &checked,
                task: &task,
                chunk,
                seconds,
                first: Some(first),
            })
        }
        None => {
            let Checked {
                source,
                config,
                device,
                ..
            } = &checked;
            let decoder = load_decoder(source, config, reading.load_options(), device, &mut |_| {});
            let (decoder, _) = processes::agree(world, decoder.map_err(CliError::from))?;
            let (mut session, seconds) = prefill(&decoder, &checked, &task, chunk, group, &mut ())?;
            work(Prefilled {
                world,
                session: &mut session,
                checked: &checked,
                task: &task,
                chunk,
                seconds,
                first: None,
            })
        }
    }
}

/// One rank a process, where nothing else was said.
pub fn one_rank_each(strategy: &mut Strategy, world: &World) {
    if strategy.ranks.is_none() {
        strategy.ranks = Some(world.processes());
    }
}

/// The group for a strategy; none where a single rank does it all.
pub fn group(strategy: &Strategy, world: &World) -> Result<Option<RankGroup>, CliError> {
    let ranks = strategy.ranks.unwrap_or(1);
    match strategy.method.unwrap_or(Method::Full) {
        _ if ranks == 1 => Ok(None),
        Method::Full => Ok(None),
        // Every process finds the same, and only the first says it.
        _ => world
            .group(ranks)
            .map(Some)
            .map_err(|error| CliError::from(error).known()),
    }
}

/// Opens the model on every process and compares what they were started with.
fn check(reading: &Reading, world: &mut World, output: &Output) -> Result<Checked, CliError> {
    // One process fetches; the others find what it fetched.
    processes::first_alone(world, || generate::resolve(&reading.model, output))?;
    let opened = (|| {
        let source = ModelSource::open(generate::resolve(&reading.model, output)?)
            .map_err(CliError::usage)?;
        let (config, fingerprint) = identify(&source)?;
        let settings = reading.options()?;
        let mut facts = facts(&reading.compute, &reading.strategy, fingerprint)?;
        facts.push((
            "lengths",
            Some(format!(
                "{:?}, prompt {:?}",
                settings.prefill, settings.prompt
            )),
        ));
        facts.push(("anchor query", Some(format!("{:?}", settings.anchor_query))));
        // Only the first process reads the document; another that sees one of the same name would
        // notice a different length.
        let length = std::fs::metadata(&reading.document)
            .ok()
            .filter(|data| data.is_file());
        facts.push((
            "bytes of the document",
            length.map(|data| data.len().to_string()),
        ));
        let device = reading.compute.device()?;
        Ok((source, config, device, facts))
    })();
    let (source, config, device, facts) = processes::agree(world, opened)?;
    processes::compare(world, &facts)?;
    Ok(Checked {
        source,
        config,
        device,
        dtype: reading.compute.dtype(),
    })
}

/// A model's configuration and fingerprint.
pub fn identify(source: &ModelSource) -> Result<(DecoderConfig, String), CliError> {
    let config = DecoderConfig::from_json(source.config()).map_err(CliError::usage)?;
    Ok((config, source.fingerprint()?))
}

/// What must be the same on every process, whatever the command.
pub fn facts(
    compute: &Compute,
    strategy: &Strategy,
    model: String,
) -> Result<Vec<(&'static str, Option<String>)>, CliError> {
    let heads = strategy.heads.as_ref().map(|path| {
        let bytes = std::fs::read(path)
            .map_err(|e| CliError::usage(format!("cannot read {}: {e}", path.display())))?;
        Ok::<_, CliError>(hash(&bytes))
    });
    Ok(vec![
        ("crate version", Some(env!("CARGO_PKG_VERSION").into())),
        ("model", Some(model)),
        ("heads", heads.transpose()?),
        ("dtype", Some(format!("{:?}", compute.dtype()))),
        ("chunk", Some(strategy.chunk.to_string())),
        ("seed", Some(format!("{:?}", strategy.seed))),
    ])
}

/// SHA-256 in hexadecimal.
pub fn hash(bytes: &[u8]) -> String {
    burn_apb::hex::encode(&Sha256::digest(bytes))
}

/// What the first process alone does: reads the document, tokenises it, plans.
fn prepare(
    reading: &Reading,
    question: &str,
    checked: &Checked,
    output: &Output,
    complete: impl FnOnce(&mut AnswerOptions, &ModelText) -> Result<(), CliError>,
) -> Result<(Request, AnswerOptions, ModelText), CliError> {
    let mut options = reading.options()?;
    let document = generate::read_text(&reading.document, "document")?;
    let text = ModelText::load(&checked.source)?;
    for warning in &text.warnings {
        output.note(format!("warning: {warning}"));
    }
    complete(&mut options, &text)?;
    let request = Request::new(&text, &document, question, &options)?;
    compressor::check_model(&request.plan, &text.config, &checked.source)?;
    Ok((request, options, text))
}

/// Prefills this process's part; also returns the seconds that took.
pub fn prefill<'m>(
    decoder: &'m Decoder,
    checked: &Checked,
    task: &Assignment,
    chunk: usize,
    group: RankGroup,
    observer: &mut dyn PrefillObserver,
) -> Result<(Session<'m>, f64), CliError> {
    let Checked {
        config,
        device,
        dtype,
        ..
    } = checked;
    let compressor =
        compressor::load(&task.plan, config, *dtype, device).map_err(CliError::usage)?;
    let settings = SessionConfig::new(task.capacity)
        .with_context(task.plan.tokens + task.query.len())
        .with_dtype(*dtype)
        .with_chunk(chunk);
    let mut session = Session::new(decoder, config, settings, device).with_group(group);
    let started = std::time::Instant::now();
    processes::log(&format!(
        "computes ranks {:?} of {}",
        session.group().ranks(),
        task.plan.ranks
    ));
    session.prefill_part(task, compressor.as_deref(), observer)?;
    let seconds = started.elapsed().as_secs_f64();
    // The first token's logits bring in the whole output embedding, where the activations were.
    memory::give_back();
    Ok((session, seconds))
}

/// Answers the task's question; the first process chooses the tokens and shows them.
pub fn answer(
    prefilled: Prefilled<'_, '_>,
    show_prompt: bool,
    output: &Output,
) -> Result<(), CliError> {
    let Prefilled {
        world,
        session,
        checked,
        task,
        chunk,
        seconds,
        first,
    } = prefilled;
    let Some(First {
        model,
        request,
        options,
    }) = first
    else {
        let mut unused = Sampler::new(SamplerConfig::default()).map_err(CliError::failed)?;
        let proceed = |_| ControlFlow::Continue(());
        session.ask(&task.query, &mut unused, &[], task.max_tokens, proceed)?;
        let report = report(checked, task, chunk, session.group());
        return processes::reports(world, report).map(|_| ());
    };
    let mut terminal = Terminal::new(output);
    let answered = reply(model, session, &request.query, options, &mut terminal);
    terminal.done()?;
    let reply = answered?;
    if output.streams() {
        println!();
    }
    let answer = Answer::new(request, reply, seconds);
    let report = report(checked, task, chunk, session.group());
    let mut value = generate::to_json(&answer, &model.text);
    value["control_tokens_read"] = options.prompt.allow_control_tokens.into();
    if show_prompt {
        value["prompt"] = generate::prompt(request, &model.text, output)?;
    }
    value["processes"] = json!(processes::reports(world, report)?);
    show(&value, &answer, output)
}

/// What this process held and moved.
pub fn report(checked: &Checked, task: &Assignment, chunk: usize, group: &RankGroup) -> Value {
    json!({
        "peak_bytes": memory::peak_bytes(),
        "needed_bytes": needed_bytes(checked, task, chunk, group),
        "received_bytes": group.received_bytes(),
    })
}

/// What one process must hold: all weights, its ranks' cache, the activations of its ranks' rows and
/// one tile of the MLP.
fn needed_bytes(checked: &Checked, task: &Assignment, chunk: usize, group: &RankGroup) -> usize {
    let c = &checked.config;
    let size = DType::from(checked.dtype).size();
    let q = c.num_attention_heads * c.head_dim;
    let kv = c.num_key_value_heads * c.head_dim;
    let plan: &PrefillPlan = &task.plan;
    let owned: usize = group.ranks().map(|rank| plan.owned_len(rank)).sum();
    let anchor = if group.ranks().end > 1 {
        plan.anchor
    } else {
        0
    };
    let rows = owned + anchor;
    let following = if group.owns_last() {
        task.capacity - plan.tokens
    } else {
        0
    };
    // Residual, normed input and block output; q, k, v before and after RoPE; the attention's output.
    let row = 3 * c.hidden_size + 2 * (q + 2 * kv) + q;
    // Gate, up and their product.
    let tile = rows.min(chunk) * 3 * c.intermediate_size;
    let cache = KvCache::bytes(c, 1, owned + following, checked.dtype.into());
    (c.num_parameters() + rows * row + tile) * size + cache
}

fn show(value: &Value, answer: &Answer, output: &Output) -> Result<(), CliError> {
    if output.is_json() {
        return output.result(value, |_| Ok(()));
    }
    output.note(generate::summary(answer));
    for report in value["processes"].as_array().into_iter().flatten() {
        let mib = |key: &str| report[key].as_u64().unwrap_or_default() >> 20;
        output.note(format!(
            "ranks {} on {}: peak {} MiB, received {} MiB",
            report["ranks"],
            report["host"].as_str().unwrap_or_default(),
            mib("peak_bytes"),
            mib("received_bytes")
        ));
    }
    Ok(())
}
