//! The number of samples in a file, and the lines that are not samples.

use std::fmt;

/// The most problems that a [`DataReport`] lists; all are counted.
pub(crate) const MAX_PROBLEMS: usize = 20;

/// Keys of an object that a message lists.
pub(super) const SHOWN_KEYS: usize = 8;

/// The contents of a file of samples.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DataReport {
    /// Lines of the file, blank ones included.
    pub lines: usize,
    /// Samples: lines, or elements of the array.
    pub samples: usize,
    /// Lines or elements that are not samples, and were skipped.
    pub skipped: usize,
    /// The first 20 of them.
    pub problems: Vec<Problem>,
}

impl fmt::Display for DataReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            lines,
            samples,
            skipped,
            problems,
        } = self;
        write!(f, "{samples} samples in {lines} lines, {skipped} skipped")?;
        for problem in problems {
            write!(f, "\n{problem}")?;
        }
        match skipped - problems.len().min(*skipped) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

/// A line that is not a sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, from one; in an array, the one on which the element starts.
    pub line: usize,
    /// What is wrong with it.
    pub what: ProblemKind,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// Why a line is not a sample.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProblemKind {
    /// The line is not JSON, or not an object, or a field of it has a form that no format has.
    #[error("not JSON: {message}")]
    NotJson {
        /// The message of the parser.
        message: String,
    },
    /// The line is not UTF-8.
    #[error("not UTF-8 from byte {valid} of the line on")]
    NotUtf8 {
        /// Valid bytes before the first invalid one.
        valid: usize,
    },
    /// The line is too long.
    #[error("longer than the {limit} bytes that a sample may take")]
    TooLong {
        /// The most bytes of a line.
        limit: usize,
    },
    /// The array is not closed before the file ends.
    #[error("the file ends inside its array: it was cut short")]
    Unfinished,
    /// Something follows the array.
    #[error("expected the end of the file after its array, found more text")]
    AfterArray,
    /// The object has none of the keys of a known format.
    #[error(
        "expected the keys document, question and answer, or messages, or instruction and output; \
         found {}",
        keys(found)
    )]
    UnknownFormat {
        /// The object's first keys.
        found: Vec<String>,
    },
    /// A field is not text.
    #[error("expected text in {field}, found something else")]
    NotText {
        /// The field.
        field: &'static str,
    },
    /// There is no question, or none that can be split off the document.
    #[error("no question")]
    NoQuestion,
    /// There is no document, or it is too short.
    #[error("no document")]
    NoDocument,
    /// There is no answer.
    #[error("no answer")]
    NoAnswer,
}

fn keys(found: &[String]) -> String {
    if found.is_empty() {
        return "none".into();
    }
    let shown: Vec<&str> = found.iter().take(SHOWN_KEYS).map(String::as_str).collect();
    let more = if found.len() > SHOWN_KEYS { ", .." } else { "" };
    shown.join(", ") + more
}
