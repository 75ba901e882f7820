//! `apb session`: a prefilled document kept on disk, and asked from there.

use std::path::PathBuf;

use burn_apb::ModelText;
use burn_apb::apb::{AnchorQuery, AnswerOptions, PrefillPlan, Reply, SaveOptions, SavedSession};
use burn_apb::model::{KvCache, KvDType};
use burn_apb::plan::MemoryConfig;
use serde_json::json;

use crate::args::{Compute, Model, Prompt, Reading, Sampling, Strategy, drawn_seed};
use crate::commands::generate;
use crate::commands::prefill::{self, Prefilled};
use crate::error::{AtPath, CliError};
use crate::escape;
use crate::limits;
use crate::output::{self, Output};
use crate::predict::{self, AskedMemory};
use crate::variant::{self, Unused};
use crate::{memory, processes};

/// What a saved session is, to those who can read it.
pub const PRIVATE: &str =
    "note: the session holds the whole document; its files can be read by you alone";

/// What stands for the question while a document is prepared for questions to come.
const NO_QUESTION: &str = "?";

/// Keep a prefilled document on disk, and ask it
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Prefill a document and save its keys and values, one file a rank
    Save(Save),
    /// Ask a saved document
    Ask(Ask),
}

/// Flags of `apb session save`.
#[derive(clap::Args, Debug)]
pub struct Save {
    #[command(flatten)]
    reading: Reading,
    /// Folder for the session
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace the session that the folder holds
    #[arg(long)]
    force: bool,
}

impl Save {
    fn options(&self) -> SaveOptions {
        SaveOptions::default().with_replace(self.force)
    }
}

/// Flags of `apb session ask`.
#[derive(clap::Args, Debug)]
pub struct Ask {
    #[command(flatten)]
    model: Model,
    /// Folder of the session
    #[arg(long, value_name = "DIR")]
    session: PathBuf,
    /// The question
    #[arg(long, value_name = "TEXT")]
    query: String,
    #[command(flatten)]
    prompt: Prompt,
    /// Go on when document, question and answer are longer than the context the model was made for
    #[arg(long)]
    allow_long: bool,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    strategy: Strategy,
    #[command(flatten)]
    compute: Compute,
}

/// Runs the command.
pub fn run(command: &Command, output: &Output) -> Result<(), CliError> {
    match command {
        Command::Save(args) => save(args, output),
        Command::Ask(args) => ask(args, output),
    }
}

fn save(args: &Save, output: &Output) -> Result<(), CliError> {
    let reading = &args.reading;
    reading.check()?;
    variant::check_seed(&reading.strategy, &[reading.method()])?;
    limits::unused(
        [("--answer-prefix", !reading.prompt.answer_prefix.is_empty())],
        "while nothing is answered; give it to `apb session ask`",
    )?;
    processes::run(
        &reading.processes,
        &reading.compute,
        output,
        |world, output| {
            let work = |prefilled: Prefilled<'_>| save_document(args, prefilled, output);
            let complete = |options: &mut AnswerOptions, _: &ModelText| complete(args, options);
            prefill::run(reading, NO_QUESTION, world, output, complete, work).map(|_| ())
        },
    )
}

/// No question is known yet; a hint may be given. A folder that is taken is refused before the prefill.
fn complete(args: &Save, options: &mut AnswerOptions) -> Result<(), CliError> {
    args.options().check(&args.out)?;
    options.max_tokens = 0;
    if options.anchor_query == AnchorQuery::Question {
        options.anchor_query = AnchorQuery::None;
    }
    Ok(())
}

/// All processes write their ranks' files, or there are none.
fn save_document(args: &Save, prefilled: Prefilled<'_>, output: &Output) -> Result<(), CliError> {
    let Prefilled {
        world,
        session,
        source,
        request,
        seconds,
        ..
    } = prefilled;
    processes::discard_at_end(&args.out, request.plan.ranks);
    let fingerprint = source.fingerprint()?;
    let written = session.prepare_save(&args.out, &fingerprint, args.options());
    let written = processes::agree(world, written.map_err(CliError::from))?;
    let bytes: Vec<u64> = world.all_gather_values(written.bytes())?;
    // Rank 0's file makes a session of the others: its process comes last.
    let mut written = Some(written);
    for turn in [false, true] {
        let mine = (world.process() == 0) == turn;
        let committed = match written.take_if(|_| mine) {
            Some(written) => written.commit().map(|_| ()).map_err(CliError::from),
            None => Ok(()),
        };
        processes::agree(world, committed)?;
    }
    let bytes = bytes.iter().sum();
    show_saved(args, &request.plan, seconds, bytes, output)
}

fn show_saved(
    args: &Save,
    plan: &PrefillPlan,
    seconds: f64,
    bytes: u64,
    output: &Output,
) -> Result<(), CliError> {
    output.note(PRIVATE);
    output.result(
        &json!({
            "out": crate::json::path(&args.out), "bytes": bytes, "document_tokens": plan.tokens,
            "method": plan.method.name(), "ranks": plan.ranks, "anchor": plan.anchor,
            "passing": plan.passing, "prefill_seconds": seconds,
            "prefill_tokens_per_second": plan.tokens as f64 / seconds,
            "peak_bytes": memory::peak_bytes(),
        }),
        |w| {
            writeln!(
                w,
                "{}: {} tokens, {}, {} in {} {}",
                escape::path(&args.out),
                plan.tokens,
                prefill::describe(plan),
                output::bytes(bytes),
                plan.ranks,
                if plan.ranks == 1 { "file" } else { "files" }
            )
        },
    )
}

fn ask(args: &Ask, output: &Output) -> Result<(), CliError> {
    generate::check_question(&args.query)?;
    let device = args.compute.device()?;
    let saved = SavedSession::open(&args.session).at(&args.session)?;
    check_settings(&saved, &args.strategy)?;
    limits::unused(
        [("--system", args.prompt.system.is_some())],
        "for a document that is prefilled already; leave it out, or prefill the document behind it with `apb session save`",
    )?;
    let (source, text) = prefill::open_model(&args.model, output)?;
    saved.check_model(&source.fingerprint()?)?;
    saved.check_dtype(args.compute.dtype())?;
    let dtype = saved.dtype();
    let dtype = dtype.unwrap_or(KvDType::of(args.compute.dtype()));
    if let Some(asked) = args.compute.kv_dtype() {
        saved.check_setting("kv-dtype", dtype, asked)?;
    }
    let mut options = AnswerOptions {
        prompt: args.prompt.options()?,
        allow_long: args.allow_long,
        ..AnswerOptions::default()
    };
    let seed = args.strategy.seed;
    args.sampling.complete(seed, &text, &mut options, output)?;
    let query = text.split_query(&args.query, &options.prompt)?;
    let exact_split = query.exact;
    let query = [query.query, query.tail].concat();
    let document = saved.document().len();
    let needed = options.check_context(&text.config, document, query.len())?;
    let memory = MemoryConfig {
        weights: source
            .checkpoint()?
            .loaded_bytes(args.compute.load_options()),
        dtype: args.compute.dtype(),
        kv_dtype: dtype,
        chunk: query.len(),
        following: needed.saturating_sub(document),
        program: 0,
        threads: predict::threads(args.compute.is_gpu()),
    };
    let question = AskedMemory {
        memory,
        plan: saved.plan(),
        answer: options.max_tokens,
    };
    predict::check_answer(&text.config, question, 0..saved.plan().ranks, &args.compute)?;
    let decoder = prefill::load_weights(&source, args.compute.load_options(), &device, output)?;
    let spelled = text.tokenizer.control_tokens_in(&args.query);
    let read = options.prompt.allow_control_tokens;
    prefill::note_control_tokens(&spelled, read, &text, output);
    let mut session = saved.restore(decoder.clone(), query.len())?;
    session.set_limit(needed);
    let reply = prefill::answer(&text, &mut session, &query, &options, output);
    let reply = reply.map_err(|error| prefill::explain(error, &source))?;
    let Reply {
        completion, stop, ..
    } = &reply;
    let plan = saved.plan();
    let mut value = json!({
        "text": reply.text, "tokens": completion.tokens, "stop_reason": completion.stop_reason.name(),
        "stop": generate::stop_json(stop.as_ref()),
        "document_tokens": plan.tokens, "query_tokens": query.len(), "exact_split": exact_split,
        "method": plan.method.name(), "ranks": plan.ranks, "anchor": plan.anchor,
        "passing": plan.passing, "prefill_seconds": 0.0, "prefill_tokens_per_second": null,
        "query_seconds": completion.query_time.as_secs_f64(),
        "decode_tokens_per_second": completion.decode_tokens_per_second(),
        "cache_bytes": KvCache::bytes(&text.config, 1, plan.tokens, dtype),
        "peak_bytes": memory::peak_bytes(),
    });
    if let Some(seed) = drawn_seed(&options) {
        value["seed"] = seed.into();
    }
    value["control_tokens"] = generate::control_tokens_json(&spelled, &text);
    value["control_tokens_read"] = read.into();
    generate::add_logprobs(&mut value, completion, &text);
    if output.is_json() {
        return output.result(&value, |_| Ok(()));
    }
    let rate = completion
        .decode_tokens_per_second()
        .map_or_else(String::new, |rate| format!(", decode {rate:.1} tok/s"));
    output.note(format!(
        "{}: {} tokens restored, question in {:.2} s, {} tokens answered{rate}",
        prefill::describe(plan),
        plan.tokens,
        completion.query_time.as_secs_f64(),
        completion.tokens.len(),
    ));
    Ok(())
}

/// Refuses what is asked for otherwise than the session was saved with, and what its method has no use for.
fn check_settings(saved: &SavedSession, asked: &Strategy) -> Result<(), CliError> {
    let plan = saved.plan();
    let flags = [
        ("--heads", asked.heads.is_some()),
        ("--chunk", asked.chunk.is_some()),
    ];
    limits::unused(
        flags,
        "for a document that is prefilled already; leave it out, or prefill the document anew with `apb session save`",
    )?;
    if let Some(method) = asked.method {
        saved.check_setting("method", plan.asked, method)?;
    }
    if let Some(ranks) = asked.ranks {
        saved.check_setting("ranks", plan.ranks, ranks)?;
    }
    if let Some(Unused { flag, of }) = variant::unused(asked, None, &[plan.method.into()]) {
        return Err(CliError::usage(format!(
            "{flag} changes nothing for a session that was saved with {}; it is for {of}: leave {flag} out",
            plan.method
        )));
    }
    for (what, found, asked) in [
        ("anchor", plan.anchor, asked.anchor),
        ("passing", plan.passing, asked.passing),
    ] {
        if let Some(asked) = asked {
            saved.check_setting(what, found, asked)?;
        }
    }
    if let Some(layout) = asked.ring_layout {
        saved.check_setting("ring-layout", plan.ring_layout.name(), layout.name())?;
    }
    if let Some(compressor) = asked.compressor {
        saved.check_setting("compressor", plan.compressor.name(), compressor.name())?;
    }
    Ok(())
}
