//! `apb chat`: one document, prefilled once, and a conversation about it.

mod lines;

use std::path::Path;

use burn_apb::ModelText;
use burn_apb::apb::{AnswerError, AnswerOptions, Completion, Reply, Request, SaveOptions, Session};
use burn_apb::ranks::{RankGroup, World};
use burn_apb::text::conversation::Turn;
use serde_json::{Value, json};

use lines::{Line, Lines};

use crate::args::{Compute, Reading, Sampling, drawn_seed};
use crate::commands::prefill::{self, First, Prefilled, Terminal};
use crate::commands::{generate, session};
use crate::error::CliError;
use crate::escape;
use crate::interrupt;
use crate::output::{self, Output};
use crate::predict::{self, Weights};

/// Room for a question, in tokens, that is not counted as the document's.
const QUESTION_TOKENS: usize = 2048;

/// Talk about a document; it is prefilled once
///
/// A line is a question; a question sees those before it and their answers, as far as the model's context reaches
/// (oldest are left out first). /reset forgets them, /system TEXT sets another system prompt and prefills the document
/// anew, /save DIR saves the prefilled document for `apb session ask`, /help lists these. Ctrl-C ends an answer, and at the
/// prompt the program. With --json each line is answered by one object, a question that fails by its error, and the exit
/// code is the first such error's.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    sampling: Sampling,
    /// Ask each question by itself
    #[arg(long)]
    no_history: bool,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Result<(), CliError> {
    if args.reading.document.as_os_str() == "-" {
        return Err(CliError::usage(
            "standard input is where the questions come from; give the document as a file",
        ));
    }
    args.reading.check()?;
    args.reading.processes.check_alone()?;
    let mut lines = Lines::new(output);
    let mut reading = args.reading.clone();
    // The first question is in the anchor, unless something else was asked for.
    let first = loop {
        match lines.next()? {
            Line::End => return lines.result(),
            Line::Question(question) => break question,
            Line::System(text) => {
                reading.prompt.system = Some(text);
                lines.done("system", json!({}))?;
            }
            Line::Reset => lines.done("reset", json!({}))?,
            Line::Help => lines.help()?,
            Line::Save(_) => lines.failed(CliError::usage(
                "nothing is prefilled yet; ask a question first",
            ))?,
        }
    };
    let complete = |options: &mut AnswerOptions, text: &ModelText| {
        options.headroom = QUESTION_TOKENS;
        options.keep = !args.no_history;
        let seed = reading.strategy.seed;
        args.sampling.complete(seed, text, options, output)
    };
    let work = |prefilled: Prefilled<'_>| converse(prefilled, &reading, first.clone(), &mut lines);
    let world = &mut World::single();
    prefill::run(&reading, &first, world, output, complete, work)?;
    lines.result()
}

/// A conversation.
struct Conversation<'a> {
    text: &'a ModelText,
    compute: &'a Compute,
    session: &'a mut Session,
    options: AnswerOptions,
    /// Tokens before the document's own.
    prefix: usize,
    turns: Vec<Turn>,
}

/// Answers the first question, then one a line.
fn converse(
    prefilled: Prefilled<'_>,
    reading: &Reading,
    first: String,
    lines: &mut Lines<'_>,
) -> Result<(), CliError> {
    let Prefilled {
        session,
        source,
        request,
        seconds,
        decoder,
        first: Some(First { text, options }),
        ..
    } = prefilled
    else {
        return Ok(());
    };
    let output = lines.output;
    note_prefill(request, seconds, output);
    let mut conversation = Conversation {
        text,
        compute: &reading.compute,
        session,
        options: options.clone(),
        prefix: request.document.prefix,
        turns: Vec::new(),
    };
    // Another system prompt, until the document is prefilled behind it.
    let mut system: Option<String> = None;
    let mut line = Line::Question(first);
    loop {
        let done = match &line {
            Line::End => return Ok(()),
            Line::Question(question) => {
                let prefilled = match system.take() {
                    None => Ok(()),
                    Some(text) => {
                        let mut options = conversation.options.clone();
                        options.prompt.system = Some(text.clone());
                        let again = Again {
                            reading,
                            source,
                            decoder,
                        };
                        let done = again.prefill(&mut conversation, options, question, output);
                        if done.is_err() {
                            // The next question tries again: it is not answered as if nothing had been asked for.
                            system = Some(text);
                        }
                        done
                    }
                };
                let answered = prefilled.and_then(|()| conversation.ask(question, output));
                answered.and_then(|value| lines.answered(&value))
            }
            Line::Reset => {
                conversation.turns.clear();
                lines.done("reset", json!({}))
            }
            Line::System(text) => {
                system = Some(text.clone());
                conversation.turns.clear();
                lines.done("system", json!({}))
            }
            Line::Save(folder) => source
                .fingerprint()
                .map_err(CliError::from)
                .and_then(|model| {
                    let options = SaveOptions::default();
                    let bytes = conversation
                        .session
                        .save(Path::new(folder), &model, options)?;
                    output.note(session::PRIVATE);
                    lines.done("save", json!({ "out": folder, "bytes": bytes }))
                }),
            Line::Help => lines.help(),
        };
        if let Err(error) = done {
            lines.failed(error)?;
        }
        line = lines.next()?;
        // Ctrl-C ended an answer, or came while nothing was running; this line is a new task.
        interrupt::reset();
        // Of the first question it has been said.
        if let Line::Question(question) = &line {
            let spelled = text.tokenizer.control_tokens_in(question);
            let read = conversation.options.prompt.allow_control_tokens;
            prefill::note_control_tokens(&spelled, read, text, output);
        }
    }
}

fn note_prefill(request: &Request, seconds: f64, output: &Output) {
    output.note(format!(
        "{}: {} tokens in {seconds:.2} s ({} tok/s)",
        prefill::describe(&request.plan),
        request.plan.tokens,
        output::count(request.plan.tokens as f64 / seconds)
    ));
}

impl Conversation<'_> {
    /// Answers a question, with the turns before it as far as there is room for them.
    fn ask(&mut self, question: &str, output: &Output) -> Result<Value, CliError> {
        let Self { text, options, .. } = self;
        let document = self.session.document().len();
        let mut dropped = 0;
        let query = loop {
            let split = text.split_turns(&self.turns, question, &options.prompt)?;
            let query = [split.query, split.tail].concat();
            match options.check_context(&text.config, document, query.len()) {
                Ok(needed) => {
                    predict::check_growth(self.session, &text.config, needed, self.compute)?;
                    // Room for it was not foreseen when the document was prefilled.
                    self.session.set_limit(needed);
                    break query;
                }
                Err(AnswerError::TooLong { .. } | AnswerError::BeyondWindow { .. })
                    if !self.turns.is_empty() =>
                {
                    self.turns.remove(0);
                    dropped += 1;
                }
                Err(error) => return Err(error.into()),
            }
        };
        if dropped > 0 {
            output.note(format!(
                "note: the oldest {dropped} questions and answers are left out: the context of the model is full"
            ));
        }
        let reply = prefill::answer(text, self.session, &query, options, output)?;
        let value = answer_json(&reply, query.len(), self.turns.len(), text, options);
        if options.keep && !reply.completion.tokens.is_empty() {
            self.turns.push(Turn {
                question: question.to_owned(),
                answer: format!("{}{}", options.prompt.answer_prefix, reply.text),
            });
        }
        Ok(value)
    }
}

fn answer_json(
    reply: &Reply,
    query: usize,
    turns: usize,
    text: &ModelText,
    options: &AnswerOptions,
) -> Value {
    let Completion {
        tokens,
        stop_reason,
        query_time,
        ..
    } = &reply.completion;
    let mut value = json!({
        "text": reply.text, "tokens": tokens, "stop_reason": stop_reason.name(),
        "stop": generate::stop_json(reply.stop.as_ref()), "query_tokens": query, "turns": turns,
        "query_seconds": query_time.as_secs_f64(),
        "decode_tokens_per_second": reply.completion.decode_tokens_per_second(),
    });
    if let Some(seed) = drawn_seed(options) {
        value["seed"] = seed.into();
    }
    generate::add_logprobs(&mut value, &reply.completion, text);
    value
}

/// What a second prefill of the document needs.
struct Again<'a> {
    reading: &'a Reading,
    source: &'a burn_apb::checkpoint::ModelSource,
    decoder: &'a std::sync::Arc<burn_apb::model::Decoder>,
}

impl Again<'_> {
    /// Prefills the document with other options; `question` is in the anchor. Where that fails the conversation is as
    /// it was, without its turns.
    fn prefill(
        &self,
        conversation: &mut Conversation<'_>,
        options: AnswerOptions,
        question: &str,
        output: &Output,
    ) -> Result<(), CliError> {
        let text = conversation.text;
        let document = prefill::read_text(&self.reading.document, "document")?;
        let request = interrupt::at_once(|| Request::new(text, &document, question, &options))?;
        let read = request.document.tokens.get(request.document.prefix..);
        let held = conversation.session.document().get(conversation.prefix..);
        if read != held {
            let path = &self.reading.document;
            return Err(CliError::usage(format!(
                "{}: is another text than the one that was read first; start anew to talk about it",
                escape::path(path)
            ))
            .at(path));
        }
        request.check_heads(&text.config, self.source)?;
        let (compute, load) = (&self.reading.compute, self.reading.load_options());
        let ranks = 0..request.plan.ranks;
        predict::check_fits(self.source, Weights::Loaded, load, &request, ranks, compute)?;
        let mut terminal = Terminal::new(output);
        let group = RankGroup::local(request.plan.ranks);
        let prefilled = request.prefill(self.decoder.clone(), group, &mut terminal);
        terminal.done()?;
        let (session, seconds) = prefilled?;
        note_prefill(&request, seconds, output);
        *conversation.session = session;
        conversation.prefix = request.document.prefix;
        conversation.options = options;
        Ok(())
    }
}
