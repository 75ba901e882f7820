//! The hub, through `hf-hub`: its cache, its token, `HF_ENDPOINT`, resumed downloads.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::api::{Progress as HubProgress, RepoInfo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::error::HubError;
use super::spec::Spec;
use crate::model::weights::index::{INDEX_FILE, Index, IndexError, MAX_INDEX_LEN};
use crate::model::weights::{Progress, SINGLE_FILE, WeightsError, is_plain_file_name};

/// How long the hub may take to answer a question.
const ANSWER: Duration = Duration::from_secs(30);

/// How long a download may stand still.
const STALL: Duration = Duration::from_secs(60);

/// How often a broken download is taken up again, by hf-hub.
const RETRIES: usize = 3;

/// Files beside the weights that are fetched where the model has them.
const WANTED: [&str; 9] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// A Hugging Face hub and the cache of what was fetched from it.
#[derive(Debug, Clone)]
pub struct Hub {
    endpoint: Option<String>,
    cache: Cache,
    token: Option<String>,
    offline: bool,
    answer: Duration,
    stall: Duration,
}

/// The folder of a model on the hub, fetched if it is not in the cache: [`Hub::resolve`] of
/// [`Hub::from_env`].
///
/// # Errors
///
/// As [`Hub::resolve`], and [`HubError::Spec`] for a name that is not `org/name[@revision]`.
pub fn resolve(spec: &str, progress: &mut dyn FnMut(Progress<'_>)) -> Result<PathBuf, HubError> {
    Hub::from_env().resolve(&Spec::parse(spec)?, progress)
}

impl Hub {
    /// The hub as the environment says: `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` (or the token file of
    /// `hf auth login`), `HF_HUB_OFFLINE`.
    pub fn from_env() -> Self {
        let set = |name: &str| {
            std::env::var(name)
                .ok()
                .filter(|value| !value.trim().is_empty())
        };
        let cache = Cache::from_env();
        let token = set("HF_TOKEN")
            .map(|token| token.trim().to_string())
            .or_else(|| cache.token());
        let offline = set("HF_HUB_OFFLINE").is_some_and(|v| {
            matches!(v.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on")
        });
        Self {
            endpoint: set("HF_ENDPOINT"),
            cache,
            token,
            offline,
            answer: ANSWER,
            stall: STALL,
        }
    }

    /// Another hub, such as a mirror.
    pub fn with_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(endpoint.into());
        self
    }

    /// Another folder for the cache.
    pub fn with_cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache = Cache::new(folder.into());
        self
    }

    /// Other limits: how long the hub may take to answer, and how long a download may stand still.
    pub fn with_timeouts(mut self, answer: Duration, stall: Duration) -> Self {
        (self.answer, self.stall) = (answer, stall);
        self
    }

    /// Whether the hub may not be asked at all.
    pub fn with_offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    fn endpoint(&self) -> String {
        self.endpoint
            .clone()
            .unwrap_or_else(|| "https://huggingface.co".to_string())
    }

    /// The folder of a model, with configuration, tokenizer and safetensors.
    ///
    /// What is in the cache is not fetched again; a download that broke off is taken up where it
    /// ended. Where the hub cannot be reached, a complete model in the cache serves.
    ///
    /// # Errors
    ///
    /// The hub unreachable or silent, access refused, no such model, no safetensors in it. No call
    /// waits longer than the limits for a sign of life.
    pub fn resolve(
        &self,
        spec: &Spec,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<PathBuf, HubError> {
        let repo = Repo::with_revision(spec.id.clone(), RepoType::Model, spec.revision.clone());
        let cached = self.cache.repo(repo.clone());
        if self.offline {
            return complete(&cached).ok_or_else(|| HubError::NotCached {
                id: spec.to_string(),
            });
        }
        let api = self.api(spec)?;
        // The version in the cache stays the one that is used, and a first fetch is pinned to the
        // version that was described: two versions are never mixed in one folder.
        let present = cached.get("config.json").and_then(|path| commit_of(&path));
        let described = Repo::with_revision(
            spec.id.clone(),
            RepoType::Model,
            present.clone().unwrap_or_else(|| spec.revision.clone()),
        );
        let info = match self.info(&api, &described, spec) {
            Ok(info) => info,
            Err(error @ (HubError::Offline { .. } | HubError::Stalled { .. })) => {
                let folder = complete(&cached).ok_or(error)?;
                tracing::warn!("{spec}: the hub cannot be reached, using the cache");
                return Ok(folder);
            }
            Err(error) => return Err(error),
        };
        let commit = present.unwrap_or(info.sha);
        if !is_commit(&commit) {
            let message = format!("a version that is no commit, `{commit}`");
            return Err(HubError::Answer {
                id: spec.to_string(),
                message,
            });
        }
        let pinned = Fetching {
            repo: Arc::new(api.repo(Repo::with_revision(
                spec.id.clone(),
                RepoType::Model,
                commit.clone(),
            ))),
            folder: cached.pointer_path(&commit),
            spec,
        };
        let names: BTreeSet<&str> = info
            .siblings
            .iter()
            .map(|file| file.rfilename.as_str())
            .collect();
        let no_weights = || {
            let mut found: Vec<&str> = names.iter().copied().take(20).collect();
            if names.len() > found.len() {
                found.push("..");
            }
            HubError::NoSafetensors {
                id: spec.to_string(),
                found: found.join(", "),
            }
        };
        if !names.contains("config.json") {
            return Err(no_weights());
        }
        let mut files: Vec<String> = WANTED
            .iter()
            .filter(|name| names.contains(*name))
            .map(|name| name.to_string())
            .collect();
        if names.contains(SINGLE_FILE) {
            files.push(SINGLE_FILE.into());
        } else if names.contains(INDEX_FILE) {
            files.push(INDEX_FILE.into());
            files.extend(shards(&self.file(&pinned, INDEX_FILE, progress)?)?);
        } else {
            return Err(no_weights());
        }
        for name in &files {
            self.file(&pinned, name, progress)?;
        }
        let failed = |source| HubError::Io {
            path: pinned.folder.clone(),
            source,
        };
        cached.create_ref(&commit).map_err(failed)?;
        Ok(pinned.folder)
    }

    fn api(&self, spec: &Spec) -> Result<Api, HubError> {
        ApiBuilder::from_cache(self.cache.clone())
            .with_endpoint(self.endpoint())
            .with_token(self.token.clone())
            .with_progress(false)
            .with_retries(RETRIES)
            .with_user_agent("burn-apb", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| self.failed(spec, error))
    }

    fn info(&self, api: &Api, repo: &Repo, spec: &Spec) -> Result<RepoInfo, HubError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let repo = api.repo(repo.clone());
        spawn(move || {
            // Nobody waits any more if this fails.
            let _ = sender.send(repo.info());
        })?;
        match receiver.recv_timeout(self.answer) {
            Ok(info) => info.map_err(|error| self.failed(spec, error)),
            Err(RecvTimeoutError::Timeout) => Err(self.stalled("the list of files", self.answer)),
            Err(RecvTimeoutError::Disconnected) => Err(broke_off(spec)),
        }
    }

    /// One file in the cache, downloaded if it is not there.
    fn file(
        &self,
        fetching: &Fetching<'_>,
        name: &str,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<PathBuf, HubError> {
        let (path, spec) = (fetching.folder.join(name), fetching.spec);
        if path.exists() {
            return Ok(path);
        }
        let (sender, receiver) = mpsc::sync_channel(64);
        let (repo, file) = (Arc::clone(&fetching.repo), name.to_string());
        spawn(move || {
            let report = Report(sender.clone());
            let _ = sender.send(Event::Done(repo.download_with_progress(&file, report)));
        })?;
        let (mut done, mut total) = (0, 0);
        // hf-hub's requests have no time limit of their own and cannot be ended from outside, so
        // one that is given up goes on in its thread; it ends with the process.
        loop {
            match receiver.recv_timeout(self.stall) {
                Ok(Event::Size(size)) => (done, total) = (0, size),
                Ok(Event::Bytes(count)) => done += count,
                Ok(Event::Done(result)) => return result.map_err(|error| self.failed(spec, error)),
                Err(RecvTimeoutError::Timeout) => return Err(self.stalled(name, self.stall)),
                Err(RecvTimeoutError::Disconnected) => return Err(broke_off(spec)),
            }
            progress(Progress {
                item: name,
                done,
                total,
            });
        }
    }

    fn stalled(&self, item: &str, waited: Duration) -> HubError {
        HubError::Stalled {
            endpoint: self.endpoint(),
            item: item.to_string(),
            waited,
        }
    }

    /// What an error of hf-hub means for the user.
    fn failed(&self, spec: &Spec, error: ApiError) -> HubError {
        let id = spec.to_string();
        let error = match error {
            ApiError::TooManyRetries(last) => *last,
            other => other,
        };
        match &error {
            ApiError::RequestError(request) => {
                let message = request.to_string();
                // hf-hub does not name its HTTP library's error type; this is how that one writes
                // a status.
                match message
                    .strip_prefix("http status: ")
                    .and_then(|status| status.parse().ok())
                {
                    Some(status @ (401 | 403)) => HubError::Unauthorized { id, status },
                    Some(404) => HubError::NotFound { id },
                    Some(status) => HubError::Answer {
                        id,
                        message: format!("HTTP {status}"),
                    },
                    None => HubError::Offline {
                        endpoint: self.endpoint(),
                        message,
                    },
                }
            }
            ApiError::IoError(_) | ApiError::LockAcquisition(_) => HubError::Io {
                path: self.cache.path().clone(),
                source: std::io::Error::other(error.to_string()),
            },
            ApiError::InvalidResume => HubError::Answer {
                id,
                message: format!(
                    "a file shorter than the part in {}: remove the .part file there",
                    self.cache.path().display()
                ),
            },
            _ => HubError::Answer {
                id,
                message: error.to_string(),
            },
        }
    }
}

/// A model that is being fetched in one version.
struct Fetching<'a> {
    repo: Arc<ApiRepo>,
    /// Where hf-hub puts that version's files.
    folder: PathBuf,
    spec: &'a Spec,
}

/// The commit whose snapshot a cached file lies in.
fn commit_of(path: &Path) -> Option<String> {
    let name = path.parent()?.file_name()?.to_str()?;
    is_commit(name).then(|| name.to_string())
}

/// Whether the text is a commit's hash; it becomes the name of a folder.
fn is_commit(text: &str) -> bool {
    text.len() >= 7 && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The shards an index names.
fn shards(path: &Path) -> Result<Vec<String>, HubError> {
    let failed = |source| HubError::Io {
        path: path.into(),
        source,
    };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    let index = if length > MAX_INDEX_LEN {
        Err(IndexError::TooLarge { found: length })
    } else {
        Index::parse(&std::fs::read(path).map_err(failed)?)
    };
    let index = index.map_err(|source| WeightsError::Index {
        path: path.into(),
        source,
    })?;
    Ok(index
        .shards()
        .into_iter()
        .filter(|name| is_plain_file_name(name))
        .map(String::from)
        .collect())
}

/// The folder of a model in the cache if nothing it needs is missing.
fn complete(cached: &CacheRepo) -> Option<PathBuf> {
    let folder = cached.get("config.json")?.parent()?.to_path_buf();
    if cached.get(SINGLE_FILE).is_some() {
        return Some(folder);
    }
    let names = shards(&cached.get(INDEX_FILE)?).ok()?;
    names
        .iter()
        .all(|name| folder.join(name).exists())
        .then_some(folder)
}

fn broke_off(spec: &Spec) -> HubError {
    HubError::Answer {
        id: spec.to_string(),
        message: "something hf-hub did not expect".into(),
    }
}

fn spawn(run: impl FnOnce() + Send + 'static) -> Result<(), HubError> {
    let started = thread::Builder::new().name("hub".into()).spawn(run);
    started.map(drop).map_err(|source| HubError::Io {
        path: PathBuf::new(),
        source,
    })
}

/// What a download's thread tells.
enum Event {
    Size(u64),
    Bytes(u64),
    Done(Result<PathBuf, ApiError>),
}

struct Report(SyncSender<Event>);

impl HubProgress for Report {
    fn init(&mut self, size: usize, _filename: &str) {
        let _ = self.0.send(Event::Size(size as u64));
    }

    fn update(&mut self, size: usize) {
        let _ = self.0.send(Event::Bytes(size as u64));
    }

    fn finish(&mut self) {}
}
