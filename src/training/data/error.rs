//! Why there are no samples.

use std::io;
use std::path::PathBuf;

use super::report::{Problem, ProblemKind};
use crate::text::tokenizer::TokenizerError;

/// Why samples cannot be read or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A folder, a pipe or a device: samples are read from their place again and again.
    #[error("{}: expected a file of samples, found {found}", path.display())]
    NotAFile {
        /// What was given.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A line is no sample, and every line must be one.
    #[error("{}: {problem}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The first line that is no sample, and why.
        problem: Problem,
    },
    /// No line of the file is a sample.
    #[error("{}: expected samples, found none{}", path.display(), unusable(*skipped, first))]
    Empty {
        /// The file.
        path: PathBuf,
        /// How many lines are no samples; where this is zero the file is blank.
        skipped: usize,
        /// The first of them.
        first: Option<Problem>,
    },
    /// A line held a sample when the file was opened, and does no more.
    #[error("{}: line {line} has changed since the file was opened: {found}", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// The line, from one.
        line: usize,
        /// What is wrong with it now.
        found: ProblemKind,
    },
    /// There are fewer samples.
    #[error("expected the number of a sample below {samples}, found {index}")]
    NoSuchSample {
        /// What was asked for, from zero.
        index: usize,
        /// How many samples there are.
        samples: usize,
    },
    /// No document can have such a length.
    #[error(
        "expected an ascending range of document lengths from {fewest} tokens on, found {start} to {end}"
    )]
    Lengths {
        /// The least that is possible.
        fewest: usize,
        /// Start of the range.
        start: usize,
        /// Its end.
        end: usize,
    },
    /// The text is shorter than the documents to be made from it.
    #[error(
        "the text has {tokens} tokens, but {needed} are needed for the longest document; give a longer text, or ask for shorter documents"
    )]
    TextTooShort {
        /// How many tokens the text has.
        tokens: usize,
        /// How many the longest document may have.
        needed: usize,
    },
    /// No sample came out that its document answers in one way only.
    #[error(
        "sample {index}: no document of {tokens} tokens could be made that answers a question in one way only; give another text, or ask for longer documents"
    )]
    NotMade {
        /// The sample, from zero.
        index: usize,
        /// The length it should have.
        tokens: usize,
    },
    /// The text cannot be counted in tokens.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

fn unusable(skipped: usize, first: &Option<Problem>) -> String {
    match first {
        Some(first) => format!("; {skipped} could not be used, the first is {first}"),
        None => ": the file is blank".into(),
    }
}
