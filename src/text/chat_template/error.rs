//! Why a chat template cannot be read or rendered.

use std::path::{Path, PathBuf};

use super::fault::{Fault, Kind};
use crate::quoted::{QuotePath, Quoted, brief, cut};
use crate::text::tokenizer::SpecialTokenError;

/// Characters of a message that an error shows: a template writes what it likes.
const SHOWN: usize = 1000;

/// Why a chat template cannot be read or rendered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatTemplateError {
    /// Something is wrong with a file.
    #[error("{}: {source}", path.quoted())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<ChatTemplateError>,
    },
    /// A file or a template is larger than any real one.
    #[error("{bytes} bytes are more than the {limit} that a chat template may take")]
    TooLarge {
        /// Its size in bytes.
        bytes: u64,
        /// The largest size that is read.
        limit: u64,
    },
    /// A text is not JSON.
    #[error("not JSON: {}", cut(message, SHOWN))]
    Json {
        /// The parser's message, with line and column.
        message: String,
    },
    /// A field has another type.
    #[error("{} must be {expected}", Quoted(field))]
    Field {
        /// The field.
        field: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A special token is not a text.
    #[error(transparent)]
    SpecialToken(#[from] SpecialTokenError),
    /// There are several named templates, none of which is called `default`.
    #[error(
        "the chat templates are {}, none of which is \"default\": choose one by name",
        brief(names)
    )]
    NoDefault {
        /// The names there are.
        names: Vec<String>,
    },
    /// There is no template of the name asked for.
    #[error(
        "there is no chat template called {:?}: there are {}",
        Quoted(name),
        brief(names)
    )]
    NoSuchTemplate {
        /// The name asked for.
        name: String,
        /// The names there are.
        names: Vec<String>,
    },
    /// A variable has the name of what a template is always given.
    #[error("a template variable cannot be called {name:?}: every template is given that already")]
    ReservedVariable {
        /// The name.
        name: String,
    },
    /// The template does not parse.
    #[error(
        "the chat template does not parse, line {line}: {}",
        cut(message, SHOWN)
    )]
    Syntax {
        /// The line, from 1; 0 where it is unknown.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// The template fails while it renders.
    #[error("the chat template fails in line {line}: {}", cut(message, SHOWN))]
    Render {
        /// The line, from 1; 0 where it is unknown.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// The template calls `raise_exception`: it does not take these messages.
    #[error("the chat template refuses the messages: {}", cut(message, SHOWN))]
    Raised {
        /// The template's message.
        message: String,
    },
    /// The template takes more than it may.
    #[error("the chat template goes beyond the limit on {limit}; no real template does")]
    Limit {
        /// What it takes too much of.
        limit: &'static str,
    },
    /// The template engine fails in itself.
    #[error("cannot run the chat template: {}", cut(message, SHOWN))]
    Internal {
        /// What happened.
        message: String,
    },
}

impl ChatTemplateError {
    /// The same, of a file.
    pub(crate) fn in_file(self, path: &Path) -> Self {
        match self {
            Self::File { .. } => self,
            source => Self::File {
                path: path.to_owned(),
                source: Box::new(source),
            },
        }
    }
}

impl From<Fault> for ChatTemplateError {
    fn from(fault: Fault) -> Self {
        let Fault {
            kind,
            message,
            line,
        } = fault;
        match kind {
            Kind::Raised => Self::Raised { message },
            Kind::Limit(limit) => Self::Limit { limit },
            _ => Self::Render { line, message },
        }
    }
}
