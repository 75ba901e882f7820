//! `apb chat`: one document, prefilled once, and any number of questions.

use std::io::{BufRead, IsTerminal, Write};

use burn_apb::ModelText;
use burn_apb::apb::AnswerOptions;
use burn_apb::ranks::World;
use serde_json::json;

use crate::args::{Reading, Sampling};
use crate::commands::generate;
use crate::commands::prefill::{self, First, Prefilled};
use crate::error::CliError;
use crate::interrupt;
use crate::output::Output;

/// Room for a question, in tokens; a longer one is refused and the next may be asked.
const QUESTION_TOKENS: usize = 2048;

/// Ask several questions about a document, one a line; the document is prefilled once
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    sampling: Sampling,
}

/// Runs the command: with `--json` each answer is an object on a line of its own.
pub fn run(args: &Args, output: &Output) -> Result<(), CliError> {
    if args.reading.document.as_os_str() == "-" {
        return Err(CliError::usage(
            "standard input is where the questions come from; give the document as a file",
        ));
    }
    let Some(first) = next_question(output)? else {
        return Ok(());
    };
    // The first question is in the anchor, unless something else was asked for.
    let complete = |options: &mut AnswerOptions, text: &ModelText| {
        options.headroom = QUESTION_TOKENS;
        let seed = args.reading.strategy.seed;
        args.sampling.complete(seed, text, options, output)
    };
    let work = |prefilled: Prefilled<'_>| converse(prefilled, output);
    let world = &mut World::single();
    prefill::run(&args.reading, &first, world, output, complete, work).map(|_| ())
}

/// Answers the first question, then one a line.
fn converse(prefilled: Prefilled<'_>, output: &Output) -> Result<(), CliError> {
    let Prefilled {
        session,
        request,
        seconds,
        first: Some(First { text, options }),
        ..
    } = prefilled
    else {
        return Ok(());
    };
    output.note(format!(
        "{}: {} tokens in {seconds:.2} s ({:.0} tok/s)",
        prefill::describe(&request.plan),
        request.plan.tokens,
        request.plan.tokens as f64 / seconds
    ));
    let mut answer = |query: &[u32]| -> Result<(), CliError> {
        let reply = prefill::answer(text, session, query, options, output)?;
        if !output.is_json() {
            return Ok(());
        }
        let completion = &reply.completion;
        let mut value = json!({
            "text": reply.text, "tokens": completion.tokens,
            "stop_reason": completion.stop_reason.name(),
            "stop": generate::stop_json(reply.stop.as_ref()), "query_tokens": query.len(),
            "query_seconds": completion.query_time.as_secs_f64(),
            "decode_tokens_per_second": completion.decode_tokens_per_second(),
        });
        generate::add_logprobs(&mut value, completion, text);
        output.result(&value, |_| Ok(()))
    };
    answer(&request.query)?;
    while let Some(question) = next_question(output)? {
        // Ctrl-C ended an answer, or came while nothing was running; this question is a new task.
        interrupt::reset();
        let query = text.split_query(&question, &options.prompt)?;
        let query = [query.query, query.tail].concat();
        // A question that does not fit spoils nothing for the next.
        if let Err(error) = answer(&query) {
            if error.is_broken_pipe() {
                return Err(error);
            }
            eprintln!("apb: {error}");
        }
    }
    Ok(())
}

/// The next line with words, prompted for on a terminal; none at the end.
fn next_question(output: &Output) -> Result<Option<String>, CliError> {
    let stdin = std::io::stdin();
    loop {
        if stdin.is_terminal() && !output.is_json() {
            eprint!("> ");
            // A prompt that cannot be shown is no reason to stop.
            let _ = std::io::stderr().flush();
        }
        let mut line = String::new();
        let read = stdin.lock().read_line(&mut line);
        match read.map_err(|e| CliError::usage(format!("cannot read the question: {e}")))? {
            0 => return Ok(None),
            _ if line.trim().is_empty() => {}
            _ => return Ok(Some(line.trim().to_owned())),
        }
    }
}
