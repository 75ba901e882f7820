//! Why a model could not be fetched, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a model could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Not a hub id.
    #[error(
        "expected a folder, a hub id such as `org/name` or `org/name@revision`, or one of: {known}; found `{found}`"
    )]
    Spec {
        /// What was asked for.
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
        /// What the network said.
        message: String,
    },
    /// The hub has stopped answering.
    #[error("{endpoint}: no answer for {} s while fetching {item}; check the network and try again, what has arrived is kept", waited.as_secs())]
    Stalled {
        /// The hub's address.
        endpoint: String,
        /// What was being fetched.
        item: String,
        /// How long nothing came.
        waited: Duration,
    },
    /// The hub wants a token, or another one.
    #[error(
        "{id}: the hub refuses access (HTTP {status}); accept the model's terms on its page, then set HF_TOKEN or run `hf auth login`"
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
    },
    /// Another answer than files.
    #[error("{id}: the hub answered {message}; try again later")]
    Answer {
        /// The model.
        id: String,
        /// What it answered.
        message: String,
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
        "{id}: not complete in the cache, and HF_HUB_OFFLINE is set; unset it, or fetch the model elsewhere and give its folder"
    )]
    NotCached {
        /// The model.
        id: String,
    },
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
        /// What the operating system or Python said.
        message: String,
    },
    /// pip could not download the package.
    #[error(
        "pip could not download {package}: {message}; check the network and pip's index settings"
    )]
    Pip {
        /// The package with its version.
        package: String,
        /// The end of what pip said.
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
    /// Neither the hub nor the package.
    #[error("{name}: neither source worked\n  hub: {hub}\n  package: {package}")]
    NoSource {
        /// The model.
        name: String,
        /// Why not the hub.
        hub: Box<HubError>,
        /// Why not the package.
        package: Box<HubError>,
    },
    /// This build cannot convert what the package carries.
    #[error(
        "{name}: its package carries a GGUF file and this build has no GGUF reader; build with `--features gguf`"
    )]
    NoGguf {
        /// The model.
        name: String,
    },
    /// Writing to the target or the cache failed.
    #[error("{}: cannot be read or written: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// No place for the cache.
    #[error(
        "no place for fetched models: neither APB_CACHE nor XDG_CACHE_HOME nor HOME is set; set APB_CACHE, or name a folder with --to"
    )]
    NoCache,
    /// The target folder could not be written.
    #[error(transparent)]
    Folder(#[from] crate::model::weights::FolderError),
    /// What the package carries could not be converted.
    #[cfg(feature = "gguf")]
    #[error(transparent)]
    Convert(#[from] crate::model::weights::ConvertError),
    /// The fetched weights do not hold.
    #[error(transparent)]
    Weights(#[from] crate::model::weights::WeightsError),
}
