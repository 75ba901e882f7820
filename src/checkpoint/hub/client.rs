//! A model on the hub: fetched into the cache, or taken from there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::content::{Fault, fault};
use super::download::Fetching;
use super::error::HubError;
use super::http::{Client, Limits};
use super::list::{CONFIG, answered, list, read_config, with_retries};
use super::names::is_file;
use super::settings::{LONGEST, Settings, Token};
use super::spec::Spec;
use super::store::{Store, is_full_commit};
use crate::checkpoint::index::{INDEX_FILE, SINGLE_FILE};
use crate::checkpoint::listing::first;
use crate::checkpoint::local::short;
use crate::checkpoint::progress::Progress;
use crate::checkpoint::shards::open_index;
use crate::checkpoint::small::read_limited;
use crate::checkpoint::source::MAX_CONFIG_LEN;
use crate::quoted::QuotePath;

/// Names that a message shows of a model's files.
const SHOWN: usize = 20;

/// How long the hub may take to answer if the cache has an answer already.
const SHORT_ANSWER: Duration = Duration::from_secs(10);

/// How long the body of a file may take in one request. What has arrived by then is kept, and the rest requested.
const BODY: Duration = Duration::from_secs(6 * 60 * 60);

/// The most chat templates with names, and shards, that are fetched of a model.
const MAX_TEMPLATES: usize = 64;
const MAX_SHARDS: usize = 10_000;

const TOKENIZER: &str = "tokenizer.json";

/// Files beside the weights that are fetched where the model has them.
const WANTED: [&str; 9] = [
    CONFIG,
    "generation_config.json",
    TOKENIZER,
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// The vocabulary of a model without `tokenizer.json`.
const VOCABULARY: [&str; 2] = ["vocab.json", "merges.txt"];

/// The folder of the chat templates that have names.
const TEMPLATES: &str = "additional_chat_templates/";

/// A Hugging Face hub and the cache of what was fetched from it.
#[derive(Debug, Clone)]
pub struct Hub(Settings);

/// A model of the hub that is now on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resolved {
    /// Its folder.
    pub path: PathBuf,
    /// Its commit.
    pub commit: String,
    /// Warnings for the user, such as that the cache could not be compared with the hub.
    pub warnings: Vec<String>,
}

/// The folder of a model on the hub, fetched if it is not in the cache: [`Hub::resolve`] of
/// [`Hub::from_env`].
///
/// # Errors
///
/// As [`Hub::resolve`], and [`HubError::Spec`] for a name that is not `org/name[@revision]`.
pub fn resolve(spec: &str, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Resolved, HubError> {
    Hub::from_env().resolve(&Spec::parse(spec)?, progress)
}

impl Hub {
    /// The hub of the environment, with the variables and precedence of Python's
    /// `huggingface_hub`: `HF_ENDPOINT`; `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME`,
    /// `XDG_CACHE_HOME` for the cache; `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`, `HF_TOKEN_PATH` or the
    /// token file of `hf auth login`; `HF_HUB_DISABLE_IMPLICIT_TOKEN`; `HF_HUB_OFFLINE`,
    /// `TRANSFORMERS_OFFLINE`; `HF_HUB_DISABLE_SYMLINKS`; and for the limits, in seconds,
    /// `HF_HUB_ETAG_TIMEOUT` and `HF_HUB_DOWNLOAD_TIMEOUT`.
    pub fn from_env() -> Self {
        Self(Settings::from_env())
    }

    /// Another hub, such as a mirror.
    pub fn with_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.0.endpoint = endpoint.into();
        self
    }

    /// Another folder for the cache.
    pub fn with_cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.0.cache = Some(folder.into());
        self
    }

    /// Another token, or none.
    pub fn with_token(mut self, token: Option<&str>) -> Self {
        self.0.token = token.and_then(Token::clean);
        self
    }

    /// Other limits: how long the hub may take to answer, and how long a download may stand still; a day each at most.
    pub fn with_timeouts(mut self, answer: Duration, stall: Duration) -> Self {
        (self.0.answer, self.0.stall) = (answer.min(LONGEST), stall.min(LONGEST));
        self
    }

    /// Whether no request may be sent to the hub.
    pub fn with_offline(mut self, offline: bool) -> Self {
        self.0.offline = offline;
        self
    }

    /// Whether snapshots are links to blobs, as they are where the file system has links.
    pub fn with_symlinks(mut self, symlinks: bool) -> Self {
        self.0.symlinks = symlinks;
        self
    }

    /// The folder of a model, with configuration, tokenizer and safetensors.
    ///
    /// The commit of a branch or tag is requested from the hub, and the files that the cache lacks of it
    /// are fetched; an interrupted download is resumed. Where the hub cannot be
    /// reached or refuses, a complete model in the cache serves, and a warning says that it could
    /// not be checked. The whole hash of a commit that is complete in the cache needs no hub.
    ///
    /// # Errors
    ///
    /// The hub unreachable or silent, access refused, no such model, no safetensors in it; answers
    /// that name files outside the cache, or files other than what was promised; a file in the cache
    /// that is not what its name says ([`HubError::Unreadable`]); a spec that [`Spec::parse`] refuses.
    /// No call waits longer than the timeouts.
    pub fn resolve(
        &self,
        spec: &Spec,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Resolved, HubError> {
        spec.check()?;
        let root = self.0.cache.as_deref().ok_or(HubError::NoHubCache)?;
        let store = Store::new(root, spec, self.0.symlinks);
        let known = store.commit_of(&spec.revision);
        let cached = known.filter(|commit| store.is_complete(commit));
        let fixed = is_full_commit(&spec.revision);
        let resolved = |commit: String, warnings| -> Result<Resolved, HubError> {
            let path = store.snapshot(&commit);
            check_content(&path)?;
            Ok(Resolved {
                path,
                commit,
                warnings,
            })
        };
        if self.0.offline {
            let commit = cached.ok_or_else(|| HubError::NotCached {
                id: spec.to_string(),
                path: root.into(),
            })?;
            let warnings = unchecked(spec, &commit, "HF_HUB_OFFLINE is set");
            return resolved(commit, warnings);
        }
        let settled = |commit: &String| fixed && has_tokenizer(&store, commit);
        if let Some(commit) = cached.clone().filter(settled) {
            return resolved(commit, Vec::new());
        }
        match self.fetch(spec, &store, cached.as_deref(), progress) {
            Ok((commit, warnings)) => resolved(commit, warnings),
            Err(error) => match cached.filter(|_| cache_serves(&error)) {
                Some(commit) => {
                    let warnings = unchecked(spec, &commit, &error.to_string());
                    resolved(commit, warnings)
                }
                None => Err(error),
            },
        }
    }

    /// The text of a model's `config.json`, and nothing else of the model: of the hub, or of the cache where the hub
    /// cannot be reached or no request may be sent to it.
    ///
    /// # Errors
    ///
    /// As [`Self::resolve`], and [`HubError::Answer`] for a file that is no text or longer than any configuration.
    pub fn config(&self, spec: &Spec) -> Result<String, HubError> {
        spec.check()?;
        let cached = || {
            let root = self.0.cache.as_deref()?;
            let store = Store::new(root, spec, self.0.symlinks);
            let commit = store.commit_of(&spec.revision)?;
            let bytes = read_limited(&store.snapshot(&commit).join(CONFIG), MAX_CONFIG_LEN);
            String::from_utf8(bytes.ok()?).ok()
        };
        if self.0.offline {
            return cached().ok_or_else(|| HubError::NotCached {
                id: spec.to_string(),
                path: self.0.cache.clone().unwrap_or_default(),
            });
        }
        let client = self.asking(self.0.answer)?;
        match with_retries(|| read_config(&client, spec)) {
            Err(error) if cache_serves(&error) => cached().ok_or(error),
            read => read,
        }
    }

    /// A client for a question whose whole answer has to come in time.
    fn asking(&self, answer: Duration) -> Result<Client, HubError> {
        let answer = answer.min(self.0.answer);
        let limits = Limits {
            answer,
            stall: self.0.stall.min(answer),
            body: answer,
        };
        Client::new(&self.0.endpoint, self.0.token.as_ref(), limits)
    }

    /// The warning about a folder that holds `commit` of a revision: that the revision has moved, or
    /// that this could not be checked; none for a revision that cannot move.
    pub(super) fn compare(&self, spec: &Spec, folder: &Path, commit: &str) -> Option<String> {
        if is_full_commit(&spec.revision) {
            return None;
        }
        let holds = format!(
            "{} holds commit {} of `{}`",
            folder.quoted(),
            short(commit),
            spec.revision
        );
        if self.0.offline {
            return Some(format!(
                "{holds}, which could not be checked: HF_HUB_OFFLINE is set"
            ));
        }
        let asked = self.asking(SHORT_ANSWER);
        match asked.and_then(|client| list(&client, spec)) {
            Ok(listing) if listing.commit == commit => None,
            Ok(listing) => Some(format!(
                "{holds}, which has moved to {}; name another folder, or remove this one, to fetch that",
                short(&listing.commit)
            )),
            Err(error) => Some(format!("{holds}, which could not be checked: {error}")),
        }
    }

    /// Fetches what the cache lacks; returns the commit and warnings.
    fn fetch(
        &self,
        spec: &Spec,
        store: &Store,
        cached: Option<&str>,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(String, Vec<String>), HubError> {
        let listing = match cached {
            Some(_) => list(&self.asking(SHORT_ANSWER)?, spec)?,
            None => {
                let asking = self.asking(self.0.answer)?;
                with_retries(|| list(&asking, spec))?
            }
        };
        let limits = Limits {
            answer: self.0.answer,
            stall: self.0.stall,
            body: BODY,
        };
        let client = Client::new(&self.0.endpoint, self.0.token.as_ref(), limits)?;
        let (mut warnings, commit) = (Vec::new(), listing.commit);
        store.refuse_links(&commit)?;
        if let Some(old) = cached.filter(|old| *old != commit) {
            warnings.push(format!(
                "{spec}: `{}` has moved from commit {} to {}, which is used",
                spec.revision,
                short(old),
                short(&commit)
            ));
        }
        let mut fetching = Fetching {
            client: &client,
            store,
            spec,
            commit: &commit,
            stall: self.0.stall,
            warnings: &mut warnings,
        };
        let names = listing.names.as_ref();
        fetch_files(&mut fetching, names, progress)?;
        if let Err(error) = store.set_ref(&spec.revision, &commit) {
            warnings.push(format!(
                "the cache cannot say where `{}` is: {error}",
                spec.revision
            ));
        }
        Ok((commit, warnings))
    }
}

/// Fetches a commit's files; the weights last, so that a snapshot with weights is complete.
fn fetch_files(
    fetching: &mut Fetching<'_>,
    names: Option<&BTreeSet<String>>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), HubError> {
    let mut fetch =
        |fetching: &mut Fetching<'_>, name: &str| -> Result<Option<PathBuf>, HubError> {
            if names.is_some_and(|names| !names.contains(name)) {
                if name == TOKENIZER {
                    fetching.store.set_absent(fetching.commit, name);
                }
                return Ok(None);
            }
            match fetching.file(name, progress) {
                Ok(path) => Ok(Some(path)),
                Err(HubError::NotFound { .. }) if names.is_none() => Ok(None),
                Err(error) => Err(error),
            }
        };
    let no_weights = |fetching: &Fetching<'_>| HubError::NoSafetensors {
        id: fetching.spec.to_string(),
        found: names.map_or("neither".into(), |names| {
            first(&names.iter().cloned().collect::<Vec<_>>(), SHOWN)
        }),
    };
    let weights = |name: &str| names.is_none_or(|names| names.contains(name));
    if !weights(CONFIG) || !(weights(SINGLE_FILE) || weights(INDEX_FILE)) {
        return Err(no_weights(fetching));
    }
    let templates: Vec<&String> = names
        .into_iter()
        .flatten()
        .filter(|name| name.starts_with(TEMPLATES) && name.ends_with(".jinja"))
        .collect();
    if templates.len() > MAX_TEMPLATES {
        return Err(too_many(
            fetching,
            "chat templates",
            templates.len(),
            MAX_TEMPLATES,
        ));
    }
    for name in WANTED {
        fetch(fetching, name)?;
    }
    if fetching.store.has(fetching.commit, TOKENIZER) != Some(true) {
        for name in VOCABULARY {
            fetch(fetching, name)?;
        }
    }
    for name in templates {
        fetch(fetching, name)?;
    }
    if fetch(fetching, SINGLE_FILE)?.is_some() {
        return Ok(());
    }
    let Some(index) = fetch(fetching, INDEX_FILE)? else {
        return Err(no_weights(fetching));
    };
    let index = open_index(&index, ".safetensors")?;
    let shards = index.shards();
    if shards.len() > MAX_SHARDS {
        return Err(too_many(fetching, "shards", shards.len(), MAX_SHARDS));
    }
    for shard in shards.into_iter().filter(|name| is_file(name)) {
        fetching.file(shard, progress)?;
    }
    Ok(())
}

/// The error for a model of more files of a kind than any real one.
fn too_many(fetching: &Fetching<'_>, kind: &str, found: usize, most: usize) -> HubError {
    let message = format!("a list of {found} {kind}, of which a model has at most {most}");
    answered(fetching.client, &fetching.spec.to_string(), message)
}

/// Refuses a snapshot with a file that is not what its name says: it would be found in the cache again and again.
fn check_content(snapshot: &Path) -> Result<(), HubError> {
    for name in WANTED.into_iter().chain([SINGLE_FILE, INDEX_FILE]) {
        let path = snapshot.join(name);
        // The link alone would be made again to the same bytes.
        let Ok(path) = path.canonicalize() else {
            continue;
        };
        if let Some(Fault { expected, found }) = fault(name, &path)? {
            return Err(HubError::Unreadable {
                path,
                expected,
                found,
            });
        }
    }
    Ok(())
}

/// Whether a commit's tokenizer is in the cache, or known not to exist.
fn has_tokenizer(store: &Store, commit: &str) -> bool {
    let has = |name: &str| store.has(commit, name) == Some(true);
    has("tokenizer.model")
        || VOCABULARY.iter().all(|name| has(name))
        || store.has(commit, TOKENIZER).is_some()
}

/// Whether a model in the cache may be used in spite of the error: the hub gives no information
/// about the model, or refuses to.
fn cache_serves(error: &HubError) -> bool {
    match error {
        HubError::NotFound { code, .. } => {
            code.as_deref().is_none_or(|code| code == "RepoNotFound")
        }
        HubError::Offline { .. }
        | HubError::Stalled { .. }
        | HubError::Cut { .. }
        | HubError::Damaged { .. }
        | HubError::Header { .. }
        | HubError::Redirect { .. }
        | HubError::Unauthorized { .. }
        | HubError::Answer { .. } => true,
        _ => false,
    }
}

/// The warning that a commit was not compared with the hub; none for a revision that cannot move.
fn unchecked(spec: &Spec, commit: &str, reason: &str) -> Vec<String> {
    if is_full_commit(&spec.revision) {
        return Vec::new();
    }
    vec![format!(
        "{}: commit {} of `{}` is from the cache and could not be checked: {reason}",
        spec.id,
        short(commit),
        spec.revision
    )]
}
