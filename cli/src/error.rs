//! Errors of the command line and their exit codes.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use burn_apb::apb::compressor::CompressorError;
use burn_apb::apb::heads::{ConvertHeadsError, HeadsError};
use burn_apb::apb::{AnswerError, SavedError, SessionError};
use burn_apb::checkpoint::SourceError;
use burn_apb::checkpoint::hub::HubError;
use burn_apb::checkpoint::{ConvertError, FolderError, QuantizeError};
use burn_apb::model::{CacheError, ForwardError};
use burn_apb::ranks::RankError;
use burn_apb::{ModelError, error_path};
use serde_json::{Value, json};

/// Characters of an error that are shown.
const LONGEST: usize = 8192;

/// The exit code of a process that ends because a rank failed.
pub const RANK_FAILED: i32 = 4;

/// The exit codes of `apb`; 0 is success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The task failed.
    Failed = 1,
    /// The command, or a file it was given, cannot be used.
    Usage = 2,
    /// A device, a library or the network is missing.
    Environment = 3,
    /// A rank failed.
    Rank = RANK_FAILED as isize,
    /// The memory does not suffice.
    Memory = 5,
}

impl Kind {
    /// The name used in JSON.
    fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Environment => "environment",
            Self::Rank => "rank",
            Self::Memory => "memory",
        }
    }
}

/// An error of a command, with its exit code.
#[derive(Debug)]
pub struct CliError {
    kind: Kind,
    /// Whether every process of the command has the same error.
    shared: bool,
    /// Whether it has been printed.
    printed: bool,
    /// Whether the reader of stdout has left, as `head` does.
    reader_left: bool,
    /// The file or folder that it is about, where the source does not say.
    place: Option<PathBuf>,
    source: Box<dyn Error + Send + Sync>,
}

impl CliError {
    /// The task failed.
    pub fn failed(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Kind::Failed, source)
    }

    /// The command, or a file it was given, cannot be used.
    pub fn usage(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Kind::Usage, source)
    }

    /// A device, a library or the network is missing.
    pub fn environment(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Kind::Environment, source)
    }

    /// What is asked for does not fit the memory.
    pub fn memory(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Kind::Memory, source)
    }

    fn new(kind: Kind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind,
            shared: false,
            printed: false,
            reader_left: false,
            place: None,
            source: source.into(),
        }
    }

    /// The same error, about a file or folder.
    pub fn at(self, place: impl Into<PathBuf>) -> Self {
        let place = self.place.or_else(|| Some(place.into()));
        Self { place, ..self }
    }

    /// The error as JSON, for those who asked for JSON: `{"error": {kind, message, path, exit_code}}`.
    pub fn to_json(&self) -> Value {
        let path = error_path(&*self.source).or(self.place.as_deref());
        json!({ "error": {
            "kind": self.kind.name(), "message": self.to_string(), "path": path.map(crate::json::path),
            "exit_code": self.code(),
        } })
    }

    /// A rank failed.
    pub fn rank(source: RankError) -> Self {
        Self::new(Kind::Rank, source)
    }

    /// An error that all processes agreed on, by exit code.
    pub fn agreed(code: u64, text: String) -> Self {
        let kind = match code {
            1 => Kind::Failed,
            2 => Kind::Usage,
            3 => Kind::Environment,
            5 => Kind::Memory,
            _ => Kind::Rank,
        };
        Self {
            shared: true,
            ..Self::new(kind, text)
        }
    }

    /// The same error, marked as one that every process has.
    pub fn known(self) -> Self {
        Self {
            shared: true,
            ..self
        }
    }

    /// The same error, once it has been printed: only its exit code is left to give.
    pub fn printed(self) -> Self {
        Self {
            printed: true,
            ..self
        }
    }

    /// Whether it has been printed.
    pub fn is_printed(&self) -> bool {
        self.printed
    }

    /// Whether every process of the command has the same error.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Whether a rank failed or the ranks disagree.
    pub fn is_rank(&self) -> bool {
        self.kind == Kind::Rank
    }

    /// Whether the model computed what is no number.
    pub fn is_not_finite(&self) -> bool {
        matches!(
            self.source.downcast_ref(),
            Some(SessionError::NotFinite { .. })
        )
    }

    /// The exit code as a number.
    pub fn code(&self) -> i32 {
        self.kind as i32
    }

    /// Writing to stdout failed.
    pub fn stdout(error: std::io::Error) -> Self {
        let reader_left = error.kind() == std::io::ErrorKind::BrokenPipe;
        Self {
            reader_left,
            ..Self::failed(format!("stdout cannot be written to: {error}"))
        }
    }

    /// Whether stdout was closed by its reader, as `head` does: nobody waits for more.
    pub fn has_no_reader(&self) -> bool {
        self.reader_left
    }

    /// The exit code.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

impl fmt::Display for CliError {
    /// The error and its causes; a cause whose text the error contains is left out, and so is what no one would read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.source.to_string();
        let mut all = shown.clone();
        let mut next = self.source.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            if !shown.contains(&text) {
                all.push_str(": ");
                all.push_str(&text);
            }
            shown = text;
            next = cause.source();
        }
        match all.char_indices().nth(LONGEST) {
            Some((end, _)) => write!(f, "{}..", &all[..end]),
            None => f.write_str(&all),
        }
    }
}

/// An error of the given kind about a file or folder.
pub trait AtPath<T> {
    /// Says which file or folder an error is about.
    fn at(self, place: &Path) -> Result<T, CliError>;
}

impl<T, E: Into<CliError>> AtPath<T> for Result<T, E> {
    fn at(self, place: &Path) -> Result<T, CliError> {
        self.map_err(|error| error.into().at(place))
    }
}

impl From<HubError> for CliError {
    /// An invalid name or folder is a usage error; an unreachable hub an error of the environment.
    fn from(error: HubError) -> Self {
        match &error {
            HubError::Spec { .. }
            | HubError::Endpoint { .. }
            | HubError::Token
            | HubError::Folder(_) => Self::usage(error),
            _ => Self::environment(error),
        }
    }
}

impl From<ConvertError> for CliError {
    fn from(error: ConvertError) -> Self {
        match &error {
            ConvertError::Folder(FolderError::Io { .. }) => Self::failed(error),
            _ => Self::usage(error),
        }
    }
}

impl From<QuantizeError> for CliError {
    fn from(error: QuantizeError) -> Self {
        match &error {
            QuantizeError::File(_) => Self::failed(error),
            _ => Self::usage(error),
        }
    }
}

impl From<ConvertHeadsError> for CliError {
    fn from(error: ConvertHeadsError) -> Self {
        match &error {
            ConvertHeadsError::Write(_) => Self::failed(error),
            _ => Self::usage(error),
        }
    }
}

/// Errors in a file that the command was given.
macro_rules! usage_errors {
    ($($error:ty),*) => {
        $(impl From<$error> for CliError {
            fn from(error: $error) -> Self {
                Self::usage(error)
            }
        })*
    };
}

usage_errors!(ModelError, SourceError, CompressorError, HeadsError);

impl From<AnswerError> for CliError {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Session(error) => Self::from(error),
            AnswerError::Model(_)
            | AnswerError::TooLong { .. }
            | AnswerError::BeyondWindow { .. }
            | AnswerError::Plan(_)
            | AnswerError::Compressor(_)
            | AnswerError::Sample(_) => Self::usage(error),
            _ => Self::failed(error),
        }
    }
}

impl From<SessionError> for CliError {
    fn from(error: SessionError) -> Self {
        match &error {
            SessionError::Empty { .. }
            | SessionError::TokenOutOfRange { .. }
            | SessionError::Plan(_)
            | SessionError::NotFinite { .. }
            | SessionError::Full(_)
            | SessionError::Forward(ForwardError::Cache(
                CacheError::HeadDim { .. } | CacheError::Device { .. },
            )) => Self::usage(error),
            SessionError::Rank(rank) => Self::from(rank.clone()),
            _ => Self::failed(error),
        }
    }
}

impl From<RankError> for CliError {
    /// Wrong numbers of processes or variables are usage errors; a missing library is one of the environment.
    fn from(error: RankError) -> Self {
        match &error {
            RankError::Uneven { .. }
            | RankError::NoSuchRank { .. }
            | RankError::Environment { .. } => Self::usage(error),
            RankError::Unavailable { .. } => Self::environment(error),
            _ => Self::rank(error),
        }
    }
}

impl From<SavedError> for CliError {
    /// A file that cannot be used, unless it could not be written.
    fn from(error: SavedError) -> Self {
        match &error {
            SavedError::Write(_) | SavedError::Device { .. } | SavedError::NoDocument => {
                Self::failed(error)
            }
            _ => Self::usage(error),
        }
    }
}
