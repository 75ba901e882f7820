//! Why a session was not saved or restored.

use std::path::PathBuf;

use super::format::FORMAT;
use crate::checkpoint::{FileError, WeightsError};
use crate::model::CacheError;
use crate::quoted::{QuotePath, Quoted};

/// Why a session was not saved or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SavedError {
    /// Nothing has been prefilled.
    #[error("there is no prefilled document to save")]
    NoDocument,
    /// The folder holds a session already, or parts of one.
    #[error("{}: holds a saved session already ({}); save into another folder, or replace that session (`apb session save --force`)", path.quoted(), file.quoted())]
    Exists {
        /// The folder.
        path: PathBuf,
        /// One of the session's files.
        file: PathBuf,
    },
    /// A file cannot be written. Nothing is left behind.
    #[error(transparent)]
    Write(#[from] FileError),
    /// A file cannot be read, or is no safetensors file.
    #[error(transparent)]
    Read(#[from] WeightsError),
    /// The cache does not hold what the plan says.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The device could not give back its tensors.
    #[error("the device failed: {reason}")]
    Device {
        /// The backend's message.
        reason: String,
    },
    /// A folder without a session.
    #[error("{}: expected a saved session (rank-0-of-H.safetensors), found none; `apb session save` makes one", path.quoted())]
    NotASession {
        /// The folder.
        path: PathBuf,
    },
    /// A safetensors file of something else.
    #[error("{}: expected a saved session of format {FORMAT}, found {}", path.quoted(), Quoted(found))]
    Format {
        /// The file.
        path: PathBuf,
        /// The format it names.
        found: String,
    },
    /// A rank without its file.
    #[error("{}: is missing: the session has {ranks} files, one for each rank; save the document again (`apb session save --force`)", path.quoted())]
    Missing {
        /// The file.
        path: PathBuf,
        /// Ranks of the session.
        ranks: usize,
    },
    /// Files of different saves in one folder.
    #[error("{}: belongs to another session than {}; remove the files of one of the two, or save the document again (`apb session save --force`)", path.quoted(), first.quoted())]
    Mixed {
        /// The file that differs.
        path: PathBuf,
        /// The file it differs from.
        first: PathBuf,
    },
    /// The session was prefilled by another model.
    #[error("{}: the session is of a model with fingerprint {}, found {found}; load the model it was saved with, or prefill again", path.quoted(), Quoted(expected))]
    OtherModel {
        /// The folder.
        path: PathBuf,
        /// Fingerprint in the session.
        expected: String,
        /// Fingerprint of the model given.
        found: String,
    },
    /// The session was prefilled otherwise than asked for.
    #[error("{}: the session has {what} {}, asked for is {}; leave the setting out, or prefill again", path.quoted(), Quoted(expected), Quoted(found))]
    OtherPlan {
        /// The folder.
        path: PathBuf,
        /// Method, ranks, anchor or passing.
        what: &'static str,
        /// In the session.
        expected: String,
        /// Asked for.
        found: String,
    },
    /// The bytes are not those that were written.
    #[error("{}: is damaged: {}; prefill the document again", path.quoted(), Quoted(reason))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}
