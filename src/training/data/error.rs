//! Errors of reading and making samples.

use std::io;
use std::path::PathBuf;

use super::report::{Problem, ProblemKind};
use crate::quoted::QuotePath;
use crate::tasks::TaskError;

/// Why samples cannot be read or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.quoted())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A folder, a pipe or a device, in which samples cannot be read at their positions.
    #[error("{}: expected a file of samples, found {found}", path.quoted())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A line is not a sample, in strict mode.
    #[error("{}: {problem}", path.quoted())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The first such line.
        problem: Problem,
    },
    /// No line of the file is a sample.
    #[error("{}: expected samples, found none{}", path.quoted(), unusable(*skipped, first))]
    Empty {
        /// The file.
        path: PathBuf,
        /// Lines that are not samples; zero for a blank file.
        skipped: usize,
        /// The first of them.
        first: Option<Problem>,
    },
    /// A line was a sample when the file was opened, and is none now.
    #[error("{}: line {line} has changed since the file was opened: {found}", path.quoted())]
    Changed {
        /// The file.
        path: PathBuf,
        /// The line, from one.
        line: usize,
        /// What is wrong with it now.
        found: ProblemKind,
    },
    /// The index of a sample is out of range.
    #[error("expected the number of a sample below {samples}, found {index}")]
    NoSuchSample {
        /// The index, from zero.
        index: usize,
        /// How many samples there are.
        samples: usize,
    },
    /// A sample cannot be made from a text.
    #[error(transparent)]
    Task(#[from] TaskError),
}

fn unusable(skipped: usize, first: &Option<Problem>) -> String {
    match first {
        Some(first) => format!("; {skipped} could not be used, the first is {first}"),
        None => ": the file is blank".into(),
    }
}
