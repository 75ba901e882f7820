//! A document of the user's, and questions about it.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::flags::text_or_shipped;
use super::subject::Subject;
use super::suite::check_lengths;
use crate::commands::prefill::read_text;
use crate::error::CliError;
use crate::escape;
use crate::limits::{self, at_least_one, check_samples};

/// Tokens of the shipped text that are read.
const SHIPPED_TOKENS: usize = 2000;

/// What is read and asked.
#[derive(clap::Args, Debug, Clone)]
pub struct Asked {
    /// The document, UTF-8 text [default: the text that ships with apb, with questions of its own]
    #[arg(long, value_name = "FILE", requires = "questions")]
    pub document: Option<PathBuf>,
    /// Questions about it: a line each, or JSON lines with "question" and, where it is known, "answer"
    #[arg(long, value_name = "FILE", requires = "document")]
    pub questions: Option<PathBuf>,
    /// Lengths: the first so many tokens of the document [default: all of it; of the shipped text 2000]
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    pub tokens: Vec<usize>,
    /// The first so many questions [default: all]
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
    /// Tokens of full attention's answers at most
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub max_tokens: usize,
}

/// A question about a document.
#[derive(Debug, Clone, Deserialize, PartialEq)]
pub struct Question {
    pub question: String,
    /// An answer that is known to be right.
    #[serde(default)]
    pub answer: Option<String>,
}

/// A document of a length.
pub struct Length<'t> {
    /// As it was asked for.
    pub tokens: Option<usize>,
    pub document: &'t str,
}

/// A document and questions.
pub struct Material {
    document: String,
    pub questions: Vec<Question>,
    lengths: Vec<Option<usize>>,
    /// The document's name and hash.
    pub name: String,
}

impl Asked {
    /// Reads the document and the questions.
    pub fn read(&self) -> Result<Material, CliError> {
        at_least_one("--max-tokens", self.max_tokens)?;
        check_samples(self.samples.unwrap_or(1))?;
        check_lengths(&self.tokens)?;
        limits::distinct("--tokens", &self.tokens)?;
        let (document, name) = text_or_shipped(self.document.as_deref(), "document")?;
        let path = self.questions.as_deref();
        let (text, shown) = match path {
            Some(path) => (read_text(path, "questions")?, path),
            None => (
                burn_apb::OPTICKS_QUESTIONS.to_owned(),
                Path::new("shipped questions"),
            ),
        };
        let refused =
            |error: String| CliError::usage(format!("{}: {error}", escape::path(shown))).at(shown);
        let mut questions = parse(&text).map_err(refused)?;
        if questions.is_empty() {
            return Err(refused("expected a question a line, found none".into()));
        }
        questions.truncate(self.samples.unwrap_or(usize::MAX));
        let mut lengths: Vec<Option<usize>> = self.tokens.iter().copied().map(Some).collect();
        if lengths.is_empty() {
            lengths.push(path.is_none().then_some(SHIPPED_TOKENS));
        }
        Ok(Material {
            document,
            questions,
            lengths,
            name,
        })
    }
}

impl Material {
    /// The document at each length.
    pub fn lengths(&self, subject: &Subject) -> Result<Vec<Length<'_>>, CliError> {
        let length = |tokens: &Option<usize>| {
            let document = match *tokens {
                Some(count) => {
                    let there = subject.count(&self.document).map_err(CliError::failed)?;
                    if there < count {
                        return Err(CliError::usage(format!(
                            "--tokens is {count}; the document has {there}"
                        )));
                    }
                    subject.first_tokens(&self.document, count)?
                }
                None => &self.document,
            };
            let tokens = *tokens;
            Ok(Length { tokens, document })
        };
        self.lengths.iter().map(length).collect()
    }
}

/// A question a line; a line that begins with a brace is JSON.
fn parse(text: &str) -> Result<Vec<Question>, String> {
    let mut questions = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let question = match line.starts_with('{') {
            true => serde_json::from_str(line).map_err(|error| {
                format!(
                    "line {number}: expected {{\"question\": \"..\", \"answer\": \"..\"}}: {error}"
                )
            })?,
            false => Question {
                question: line.to_owned(),
                answer: None,
            },
        };
        if question.question.trim().is_empty() {
            return Err(format!("line {number}: the question is empty"));
        }
        if question
            .answer
            .as_ref()
            .is_some_and(|answer| answer.trim().is_empty())
        {
            return Err(format!("line {number}: the answer is empty; leave it out"));
        }
        questions.push(question);
    }
    Ok(questions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_lines_or_json() {
        let found =
            parse("What is light?\n\n {\"question\": \"Who?\", \"answer\": \"Newton\"}\n").unwrap();
        assert_eq!(found[0].question, "What is light?");
        assert_eq!(found[1].answer.as_deref(), Some("Newton"));
        for (text, expected) in [
            ("a\n{\"question\":", "line 2"),
            ("{\"question\": \" \"}", "empty"),
            ("{\"question\": \"a\", \"answer\": \"\"}", "leave it out"),
            ("{\"answer\": \"a\"}", "line 1"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn fifty_questions_ship() {
        assert_eq!(parse(burn_apb::OPTICKS_QUESTIONS).unwrap().len(), 50);
    }
}
