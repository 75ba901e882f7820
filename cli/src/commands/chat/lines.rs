//! What is typed into `apb chat`, a line at a time, and what is printed for each.

use std::io::{BufRead, IsTerminal, Read, Write};

use serde_json::{Value, json};

use crate::error::CliError;
use crate::interrupt;
use crate::output::{self, Output};

/// Longest line of input, in bytes.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// A line of input.
pub enum Line {
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
pub struct Lines<'a> {
    pub output: &'a Output,
    /// The first error; on a terminal errors end nothing and are forgotten.
    error: Option<CliError>,
    terminal: bool,
}

impl<'a> Lines<'a> {
    pub fn new(output: &'a Output) -> Self {
        interrupt::listen();
        Self {
            output,
            error: None,
            terminal: std::io::stdin().is_terminal(),
        }
    }

    /// The next line with words that can be read, prompted for on a terminal.
    pub fn next(&mut self) -> Result<Line, CliError> {
        loop {
            if self.terminal && !self.output.is_json() {
                // A prompt that cannot be shown is no reason to stop.
                let _ = write!(std::io::stderr(), "> ");
                let _ = std::io::stderr().flush();
            }
            let Some(line) = interrupt::at_once(read_line)? else {
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
    pub fn answered(&self, value: &Value) -> Result<(), CliError> {
        match self.output.is_json() {
            true => self.output.result(value, |_| Ok(())),
            false => Ok(()),
        }
    }

    /// Prints that a command has been obeyed.
    pub fn done(&self, command: &str, mut value: Value) -> Result<(), CliError> {
        value["command"] = command.into();
        self.output.note(format!("/{command}: done"));
        self.answered(&value)
    }

    pub fn help(&self) -> Result<(), CliError> {
        self.output.note(HELP);
        self.answered(&json!({ "command": "help", "text": HELP }))
    }

    /// Prints why a line was not answered; the next may be. Nobody reads on where stdout is closed.
    pub fn failed(&mut self, error: CliError) -> Result<(), CliError> {
        if error.has_no_reader() {
            return Err(error);
        }
        self.output.error(&error);
        if !self.terminal {
            self.error.get_or_insert(error.printed());
        }
        Ok(())
    }

    pub fn result(self) -> Result<(), CliError> {
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
