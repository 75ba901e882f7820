//! Errors of reading published files.

use std::fmt;
use std::io;

/// Characters that a message shows of a text.
const SHOWN: usize = 60;

/// Where a sample begins in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The line, from one.
    pub line: usize,
    /// The sample, from zero.
    pub sample: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, sample {}", self.line, self.sample)
    }
}

/// Why a published file is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishedError {
    /// The file cannot be read.
    #[error("{place}: cannot be read: {source}")]
    Read {
        /// The sample that was being read.
        place: Place,
        /// The operating system's error.
        source: io::Error,
    },
    /// The file holds no sample.
    #[error("expected at least one sample, found none")]
    Empty,
    /// A sample is too long.
    #[error("{place}: expected at most {limit} bytes, found more")]
    TooLong {
        /// The sample.
        place: Place,
        /// The most bytes of a sample.
        limit: usize,
    },
    /// A sample is not UTF-8.
    #[error("{place}: expected UTF-8, found other bytes after {valid} bytes of it")]
    Utf8 {
        /// The sample, with the line of the first wrong byte.
        place: Place,
        /// The bytes of the sample before the first wrong one.
        valid: usize,
    },
    /// The file is neither one object a line nor an array of objects.
    #[error("{place}: expected {expected}, found {found}")]
    Structure {
        /// The sample, with the line of what is wrong.
        place: Place,
        /// What should be there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A sample is not JSON.
    #[error("{place}: expected JSON, found at column {column}: {found}")]
    Json {
        /// The sample, with the line of what is wrong.
        place: Place,
        /// The column of what is wrong, from one, in bytes. It counts from the start of the sample where
        /// that is in the same line.
        column: usize,
        /// What is wrong.
        found: String,
    },
    /// A field is missing or has another value.
    #[error("{place}, field {field:?}: expected {expected}, found {found}")]
    Field {
        /// The sample.
        place: Place,
        /// The field.
        field: &'static str,
        /// What should be there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
}

impl PublishedError {
    /// The error for a field.
    pub(in crate::tasks) fn field(
        place: Place,
        field: &'static str,
        expected: &'static str,
        found: impl Into<String>,
    ) -> Self {
        Self::Field {
            place,
            field,
            expected,
            found: found.into(),
        }
    }
}

/// The start of a text, in quotation marks.
pub(in crate::tasks) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?} and more", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}
