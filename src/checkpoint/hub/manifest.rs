//! A fetched folder: the origin of its model, and the hash of its weights.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::error::HubError;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::folder::write_json;
use crate::checkpoint::listing::name_of;
use crate::checkpoint::local::is_commit;
use crate::checkpoint::progress::Progress;
use crate::hex;

/// Bytes read at a time.
const PART: usize = 1 << 17;

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
    /// Its commit on the hub; `None` of a package, or of a folder without it.
    pub commit: Option<String>,
    /// Warnings for the user, such as that the cache could not be compared with the hub.
    pub warnings: Vec<String>,
}

/// The file in a fetched folder with the model's origin.
const MANIFEST: &str = "apb-fetch.json";

/// Writes the origin of the model in `folder`.
pub(super) fn write_manifest(folder: &Path, report: &FetchReport) -> Result<(), HubError> {
    let (kind, name) = match &report.source {
        Origin::Hub { id } => ("hub", id),
        Origin::Package { requirement } => ("package", requirement),
    };
    let bytes = weight_bytes(&Checkpoint::open(folder)?);
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
pub(super) fn present(folder: &Path) -> Option<FetchReport> {
    let manifest: Json =
        serde_json::from_reader(File::open(folder.join(MANIFEST)).ok()?.take(1 << 16)).ok()?;
    let name = manifest["name"].as_str()?.to_string();
    let source = match manifest["source"].as_str()? {
        "hub" => Origin::Hub { id: name },
        "package" => Origin::Package { requirement: name },
        _ => return None,
    };
    let checkpoint = Checkpoint::open(folder).ok()?;
    let bytes = weight_bytes(&checkpoint);
    let whole =
        manifest["weight_bytes"].as_u64() == Some(bytes) && folder.join("config.json").is_file();
    let sha256 = manifest["sha256"].as_str()?.to_string();
    whole.then(|| FetchReport {
        path: folder.into(),
        sha256,
        source,
        commit: manifest["commit"]
            .as_str()
            .filter(|commit| is_commit(commit))
            .map(String::from),
        warnings: Vec::new(),
    })
}

/// Bytes of a checkpoint's files.
fn weight_bytes(checkpoint: &Checkpoint) -> u64 {
    let files = weight_files(checkpoint);
    let lengths = files.iter().flat_map(fs::metadata).map(|file| file.len());
    lengths.sum()
}

/// The files of a checkpoint, each once, sorted.
fn weight_files(checkpoint: &Checkpoint) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = checkpoint.tensors().map(|info| info.file.clone()).collect();
    files.sort();
    files.dedup();
    files
}

/// The `sha256` of [`FetchReport`].
pub(super) fn weights_sha256(
    checkpoint: &Checkpoint,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<String, HubError> {
    let files = weight_files(checkpoint);
    if let [single] = files.as_slice() {
        return file_sha256(single, progress);
    }
    let mut lines = Sha256::new();
    for file in &files {
        let hash = file_sha256(file, progress)?;
        lines.update(format!("{hash}  {}\n", name_of(file)));
    }
    Ok(hex::encode(&lines.finalize()))
}

/// The SHA-256 of a file.
fn file_sha256(path: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<String, HubError> {
    let mut file = File::open(path).map_err(HubError::at(path))?;
    let total = file.metadata().map_err(HubError::at(path))?.len();
    let (mut hash, mut done) = (Sha256::new(), 0);
    for_each_part(&mut file, HubError::at(path), |part| {
        hash.update(part);
        done += part.len() as u64;
        progress(Progress::new(&name_of(path), done, total));
        Ok(())
    })?;
    Ok(hex::encode(&hash.finalize()))
}

/// Reads to the end and passes what was read to `each`, a part at a time.
pub(super) fn for_each_part(
    reader: &mut impl Read,
    failed: impl Fn(io::Error) -> HubError,
    mut each: impl FnMut(&[u8]) -> Result<(), HubError>,
) -> Result<(), HubError> {
    let mut part = vec![0; PART];
    loop {
        match reader.read(&mut part) {
            Ok(0) => return Ok(()),
            Ok(count) => each(&part[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_is_none_is_not_taken_from_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let header = br#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let length = (header.len() as u64).to_le_bytes();
        let weights = [&length[..], &header[..], &[0u8; 8][..]].concat();
        fs::write(folder.path().join("model.safetensors"), weights).unwrap();
        fs::write(folder.path().join("config.json"), "{}").unwrap();
        let hash = "0123456789abcdef0123456789abcdef01234567".to_string();
        let escape = "\u{1b}[2J and so on".to_string();
        for (commit, expected) in [(&hash, Some(&hash)), (&escape, None)] {
            let report = FetchReport {
                path: folder.path().into(),
                sha256: String::new(),
                source: Origin::Hub {
                    id: "org/name".into(),
                },
                commit: Some(commit.clone()),
                warnings: Vec::new(),
            };
            write_manifest(folder.path(), &report).unwrap();
            let found = present(folder.path()).unwrap();
            assert_eq!(found.commit.as_ref(), expected);
        }
    }
}
