//! `apb demo`: a small model, a real document, a question.

use std::io::Write;

use burn_apb::apb::{Answer, AnswerOptions, Method, Request, StopReason};
use burn_apb::checkpoint::hub;
use burn_apb::ranks::RankGroup;
use burn_apb::text::sampler::SamplerConfig;
use serde_json::{Value, json};

use crate::args::{Compute, Model, Strategy};
use crate::commands::prefill::{self, Terminal};
use crate::commands::{fetch, generate};
use crate::error::CliError;
use crate::escape;
use crate::output::Output;
use crate::predict::{self, Weights};
use crate::variant::{self, Variant};

/// Newton's Opticks, fourth edition (1730), in the public domain.
pub const DOCUMENT: &str = burn_apb::OPTICKS;
/// The listed model that the demo runs.
const MODEL: &str = "smollm2-135m";
/// Where the treatise begins, after the edition's credits.
const TITLE: &str = "OPTICKS:";
/// Tokens of the answer at most.
const MAX_TOKENS: usize = 48;

/// Fetch a small model, prefill a document that ships with apb, answer a question about it
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Tokens of the document to prefill
    #[arg(long, value_name = "N", default_value_t = 2000)]
    tokens: usize,
    /// The question
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "What is the name of the author of this treatise?"
    )]
    query: String,
    #[command(flatten)]
    strategy: Strategy,
    #[command(flatten)]
    compute: Compute,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Result<(), CliError> {
    let methods = match args.strategy.method {
        Some(method) => vec![method],
        None => vec![Method::Full, Method::Apb],
    };
    let variants: Vec<Variant> = methods.iter().copied().map(Variant::from).collect();
    variant::check_used(&args.strategy, None, &variants)?;
    variant::check_passing(&args.strategy)?;
    variant::check_seed(&args.strategy, &variants)?;
    let device = args.compute.device()?;
    let fetched = fetch::download(MODEL, None, hub::FetchFrom::Any, output)?;
    let model = Model {
        model: fetched.path.clone(),
    };
    let (source, text) = prefill::open_model(&model, output)?;
    args.compute.check_kv_dtype(&text.config, &device)?;

    let start = DOCUMENT.find(TITLE).unwrap_or(0);
    let document = first_tokens(&text.tokenizer, &DOCUMENT[start..], args.tokens)?;
    let words = document.split_whitespace().count();
    output.note(format!(
        "model     SmolLM2-135M-Instruct ({})\ndocument  Newton's Opticks, the first {words} words\nquestion  {}\n",
        fetched.source,
        escape::line(&args.query)
    ));
    let mut requests = Vec::new();
    for method in methods {
        let options = AnswerOptions {
            max_tokens: MAX_TOKENS,
            sampler: Some(SamplerConfig::default()),
            chunk: args.strategy.chunk,
            kv_dtype: args.compute.kv_dtype(),
            prefill: args.strategy.config_of(method)?,
            ..AnswerOptions::default()
        };
        let request = Request::new(&text, document, &args.query, &options)?;
        let (load, ranks) = (args.compute.load_options(), 0..request.plan.ranks);
        predict::check_fits(
            &source,
            Weights::ToLoad,
            load,
            &request,
            ranks,
            &args.compute,
        )?;
        requests.push((request, options));
    }
    let decoder = prefill::load_weights(&source, args.compute.load_options(), &device, output)?;
    let mut answers = Vec::new();
    for (request, options) in &requests {
        if !output.is_json() {
            let mut stdout = std::io::stdout().lock();
            let written = write!(stdout, "{:<10}", request.plan.method.name());
            written
                .and_then(|()| stdout.flush())
                .map_err(CliError::stdout)?;
        }
        let group = RankGroup::local(request.plan.ranks);
        let mut terminal = Terminal::new(output);
        let prefilled = request.prefill(decoder.clone(), group, &mut terminal);
        terminal.done()?;
        let prefilled = prefilled.map_err(|error| prefill::explain(error.into(), &source));
        let (mut session, seconds) = prefilled?;
        let reply = prefill::answer(&text, &mut session, &request.query, options, output)?;
        let answer = Answer::new(request, reply, seconds);
        let cancelled = answer.completion.stop_reason == StopReason::Cancelled;
        answers.push(answer);
        if cancelled {
            break;
        }
    }
    if output.is_json() {
        let methods: serde_json::Map<String, Value> = answers
            .iter()
            .map(|answer| {
                (
                    answer.plan.method.name().into(),
                    generate::to_json(answer, &text),
                )
            })
            .collect();
        return output.result(
            &json!({
                "model": crate::json::path(&fetched.path), "source": fetched.source.to_string(), "query": args.query,
                "methods": methods,
            }),
            |_| Ok(()),
        );
    }
    output.note("");
    for answer in &answers {
        output.note(generate::summary(answer));
    }
    Ok(())
}

/// The beginning of `text` that has about `tokens` tokens, cut at a line's end.
fn first_tokens<'t>(
    tokenizer: &burn_apb::text::tokenizer::Tokenizer,
    text: &'t str,
    tokens: usize,
) -> Result<&'t str, CliError> {
    let ids = tokenizer.encode(text, false).map_err(CliError::failed)?;
    let kept = &ids[..tokens.min(ids.len())];
    let beginning = tokenizer.decode(kept, false).map_err(CliError::failed)?;
    let end = text.floor_char_boundary(beginning.len());
    let end = text[..end].rfind('\n').map_or(end, |line| line + 1);
    Ok(&text[..end])
}
