//! `apb chat`: one document, prefilled once, and a conversation about it.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::Path;

use burn_apb::ModelText;
use burn_apb::apb::{AnswerError, AnswerOptions, Completion, Reply, Request, SaveOptions, Session};
use burn_apb::ranks::{RankGroup, World};
use burn_apb::text::conversation::Turn;
use serde_json::{Value, json};

use crate::args::{Compute, Reading, Sampling, drawn_seed};
use crate::commands::prefill::{self, First, Prefilled, Terminal};
use crate::commands::{generate, session};
use crate::error::CliError;
use crate::output::{self, Output};
use crate::{interrupt, predict};

/// Room for a question, in tokens, that is not counted as the document's.
const QUESTION_TOKENS: usize = 2048;
/// Longest line of input, in bytes.
const MAX_LINE_BYTES: u64 = 1 << 20;

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
        let request = Request::new(text, &document, question, &options)?;
        let read = request.document.tokens.get(request.document.prefix..);
        let held = conversation.session.document().get(conversation.prefix..);
        if read != held {
            let path = &self.reading.document;
            return Err(CliError::usage(format!(
                "{}: is another text than the one that was read first; start anew to talk about it",
                path.display()
            ))
            .at(path));
        }
        request.check_heads(&text.config, self.source)?;
        let (compute, load) = (&self.reading.compute, self.reading.load_options());
        let ranks = 0..request.plan.ranks;
        predict::check_further(self.source, &text.config, load, &request, ranks, compute)?;
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

/// A line of input.
enum Line {
    Question(String),
    /// Forget the turns.
    Reset,
    /// Another system prompt.
    System(String),
    /// Save the prefilled document into a folder.
    Save(String),
    Help,
    End,
}

/// The lines of standard input, and what is printed for each.
struct Lines<'a> {
    output: &'a Output,
    /// The first error; on a terminal errors end nothing and are forgotten.
    error: Option<CliError>,
    terminal: bool,
}

impl<'a> Lines<'a> {
    fn new(output: &'a Output) -> Self {
        interrupt::listen();
        Self {
            output,
            error: None,
            terminal: std::io::stdin().is_terminal(),
        }
    }

    /// The next line with words that can be read, prompted for on a terminal.
    fn next(&mut self) -> Result<Line, CliError> {
        loop {
            if self.terminal && !self.output.is_json() {
                // A prompt that cannot be shown is no reason to stop.
                let _ = write!(std::io::stderr(), "> ");
                let _ = std::io::stderr().flush();
            }
            let Some(line) = interrupt::waiting(read_line)? else {
                return Ok(Line::End);
            };
            match line.and_then(|line| parse(&line)) {
                Ok(None) => {}
                Ok(Some(line)) => return Ok(line),
                Err(error) => self.failed(error)?,
            }
        }
    }

    /// Prints an answer.
    fn answered(&self, value: &Value) -> Result<(), CliError> {
        match self.output.is_json() {
            true => self.output.result(value, |_| Ok(())),
            false => Ok(()),
        }
    }

    /// Prints that a command has been obeyed.
    fn done(&self, command: &str, mut value: Value) -> Result<(), CliError> {
        value["command"] = command.into();
        self.output.note(format!("/{command}: done"));
        self.answered(&value)
    }

    fn help(&self) -> Result<(), CliError> {
        self.output.note(HELP);
        self.answered(&json!({ "command": "help", "text": HELP }))
    }

    /// Prints why a line was not answered; the next may be. Nobody reads on where stdout is closed.
    fn failed(&mut self, error: CliError) -> Result<(), CliError> {
        if error.has_no_reader() {
            return Err(error);
        }
        self.output.error(&error);
        if !self.terminal {
            self.error.get_or_insert(error.printed());
        }
        Ok(())
    }

    fn result(self) -> Result<(), CliError> {
        self.error.map_or(Ok(()), Err)
    }
}

const HELP: &str = "/reset        forget the questions and answers so far
/system TEXT  another system prompt; the document is prefilled anew
/save DIR     save the prefilled document, for `apb session ask`
/help         this list";

/// A line's meaning; none where it is blank.
fn parse(line: &str) -> Result<Option<Line>, CliError> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim().to_owned();
    let needs = |what: &str| match rest.is_empty() {
        true => Err(CliError::usage(format!("expected {word} {what}"))),
        false => Ok(rest.clone()),
    };
    let is_command = |word: &str| {
        let name = word.strip_prefix('/');
        name.is_some_and(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase()))
    };
    Ok(match word {
        "" => None,
        "/reset" => Some(Line::Reset),
        "/system" => Some(Line::System(needs("TEXT")?)),
        "/save" => Some(Line::Save(needs("DIR")?)),
        "/help" => Some(Line::Help),
        word if is_command(word) => {
            return Err(CliError::usage(format!(
                "{word} is no command; known are /reset, /system TEXT, /save DIR and /help"
            )));
        }
        _ => Some(Line::Question(line.to_owned())),
    })
}

/// The next line of standard input; none at the end of the input. What is too long or not UTF-8 is read to the line's end and
/// refused.
fn read_line() -> Result<Option<Result<String, CliError>>, CliError> {
    let mut stdin = std::io::stdin().lock();
    let failed = |error| CliError::usage(format!("cannot read the question: {error}"));
    let mut line = Vec::new();
    let mut limited = (&mut stdin).take(MAX_LINE_BYTES + 1);
    limited.read_until(b'\n', &mut line).map_err(failed)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.len() as u64 > MAX_LINE_BYTES && line.last() != Some(&b'\n') {
        stdin.skip_until(b'\n').map_err(failed)?;
        return Ok(Some(Err(CliError::usage(format!(
            "the question is longer than {}; put long texts into the document",
            output::bytes(MAX_LINE_BYTES)
        )))));
    }
    Ok(Some(String::from_utf8(line).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        CliError::usage(format!(
            "the question is not UTF-8: byte {at} cannot be read"
        ))
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_questions() {
        let parsed = parse;
        assert!(matches!(parsed("  \n"), Ok(None)));
        assert!(matches!(parsed("/reset\n"), Ok(Some(Line::Reset))));
        assert!(
            matches!(parsed("/system Be brief. "), Ok(Some(Line::System(text))) if text == "Be brief.")
        );
        assert!(matches!(parsed("/save a b"), Ok(Some(Line::Save(folder))) if folder == "a b"));
        for question in [
            "What is /etc/passwd?",
            "/etc/passwd is what?",
            "/ ?",
            "/Reset",
        ] {
            assert!(matches!(parsed(question), Ok(Some(Line::Question(text))) if text == question));
        }
        for (line, named) in [("/save", "/save DIR"), ("/quit", "known are /reset")] {
            let refused = parsed(line).err().map(|error| error.to_string());
            assert!(
                refused.as_ref().is_some_and(|text| text.contains(named)),
                "{refused:?}"
            );
        }
    }
}
