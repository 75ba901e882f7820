//! `apb generate`: prefills a document and answers a question about it.

use burn_apb::ModelText;
use burn_apb::apb::{Answer, Completion, Method, Request};
use burn_apb::text::stop::Stop;
use serde_json::{Value, json};

use crate::args::{Reading, Sampling, drawn_seed};
use crate::commands::prefill::{self, First, Prefilled};
use crate::error::CliError;
use crate::output::{self, Output};
use crate::{memory, processes};

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
    args.reading.check()?;
    let Args { reading, query, .. } = args;
    processes::run(
        &reading.processes,
        &reading.compute,
        output,
        |world, output| {
            let seed = reading.strategy.seed;
            let complete =
                |options: &mut _, text: &_| args.sampling.complete(seed, text, options, output);
            let work = |prefilled: Prefilled<'_>| answer(args, prefilled, output);
            prefill::run(reading, query, world, output, complete, work).map(|_| ())
        },
    )
}

/// Answers the question. The first process chooses the tokens and shows them; the others compute their
/// part of every row.
fn answer(args: &Args, prefilled: Prefilled<'_>, output: &Output) -> Result<(), CliError> {
    let Prefilled {
        world,
        session,
        request,
        seconds,
        decoder,
        first,
        ..
    } = prefilled;
    let Some(First { text, options }) = first else {
        session.follow(&request.query, request.max_tokens)?;
        let report = prefill::report(decoder, request, session.group());
        return processes::reports(world, report).map(|_| ());
    };
    let read = options.prompt.allow_control_tokens;
    let prompt = match args.show_prompt {
        true => Some(prompt(request, text, output)?),
        false => None,
    };
    let reply = prefill::answer(text, session, &request.query, options, output)?;
    let answer = Answer::new(request, reply, seconds);
    let mut value = to_json(&answer, text);
    value["control_tokens_read"] = read.into();
    if let Some(seed) = drawn_seed(options) {
        value["seed"] = seed.into();
    }
    if let Some(prompt) = prompt {
        value["prompt"] = prompt;
    }
    if !world.is_single() {
        let report = prefill::report(decoder, request, session.group());
        value["processes"] = json!(processes::reports(world, report)?);
    }
    if output.is_json() {
        return output.result(&value, |_| Ok(()));
    }
    output.note(summary(&answer));
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

/// Refuses a question without words.
pub fn check_question(question: &str) -> Result<(), CliError> {
    match question.trim().is_empty() {
        true => Err(CliError::usage(
            "the question is empty; pass it with --query \"...\"",
        )),
        false => Ok(()),
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
        "{}: prefill {} tokens in {:.2} s ({} tok/s), {} tokens answered{decode}{peak}",
        prefill::describe(&answer.plan),
        answer.document_tokens,
        answer.prefill_seconds,
        output::count(answer.prefill_tokens_per_second()),
        answer.completion.tokens.len(),
    )
}
