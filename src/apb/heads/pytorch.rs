//! PyTorch files as lists of tensors, never executed.
//!
//! The reading is done by Burn's `pytorch-reader`. Of the two maintained readers it is the one that
//! holds against hostile files: it compares every length with the file, bounds nesting and copies
//! through the memo, and gathers strided views. candle-core's `pickle` takes memory by the length a
//! string claims, copies through the memo without bound, and panics on short argument tuples.
//!
//! What is stricter here: every entry of the archive must be as small as the file (`torch.save` does
//! not compress), the pickle may only ask for tensors (see `pickle`), and a tensor that would take
//! more memory than the file has bytes, as an expanded view can, is not read.

use std::collections::HashSet;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use pytorch_reader::{PytorchReader, Tensor};
use zip::{ZipArchive, ZipReadOptions};

use super::error::ConvertHeadsError;
use super::format::within_prefix;
use super::pickle;
use crate::checkpoint::{WeightsError, open_index};
use crate::quoted::Quoted;

/// The name of the index of a folder with shards.
pub(super) const INDEX_FILE: &str = "pytorch_model.bin.index.json";

/// The longest pickle that is read, in bytes; the reader behind this reads no longer one.
const MAX_PICKLE_LEN: u64 = 100 << 20;

/// One tensor of a PyTorch file.
pub(super) struct PytorchTensor {
    /// The file.
    pub(super) file: PathBuf,
    /// The file's length in bytes, which bounds what is read.
    pub(super) file_len: u64,
    /// The tensor.
    pub(super) tensor: Tensor,
}

/// The tensors of one zip file as `torch.save` writes it, sorted by name.
pub(super) fn open(path: &Path) -> Result<Vec<PytorchTensor>, ConvertHeadsError> {
    let file_len = refuse_hostile(path)?;
    let tensors = PytorchReader::new(path)
        .map_err(damaged(path))?
        .into_tensors();
    let mut tensors: Vec<PytorchTensor> = tensors
        .into_values()
        .map(|tensor| PytorchTensor {
            file: path.into(),
            file_len,
            tensor,
        })
        .collect();
    tensors.sort_by(|a, b| a.tensor.name.cmp(&b.tensor.name));
    Ok(tensors)
}

/// Makes the error for what a reader of `path` reports.
pub(super) fn damaged<E: Display>(path: &Path) -> impl Fn(E) -> ConvertHeadsError + '_ {
    move |error| ConvertHeadsError::Pytorch {
        path: path.into(),
        message: error.to_string(),
    }
}

/// Refuses an archive whose entries claim to be longer than the file, or whose pickle asks for more
/// than tensors; returns the file's length.
fn refuse_hostile(path: &Path) -> Result<u64, ConvertHeadsError> {
    // Before opening, because opening a pipe would wait for a writer.
    if !path.is_file() {
        return Err(ConvertHeadsError::Weights(WeightsError::NotAFile {
            path: path.into(),
            found: "a folder, device or pipe",
        }));
    }
    let file = File::open(path).map_err(damaged(path))?;
    let file_len = file.metadata().map_err(damaged(path))?.len();
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(damaged(path))?;
    let mut pickles = Vec::new();
    for at in 0..archive.len() {
        let entry = archive.by_index_raw(at).map_err(damaged(path))?;
        let name = entry.name().map_err(damaged(path))?;
        if entry.size() > file_len {
            return Err(ConvertHeadsError::Claim {
                path: path.into(),
                what: format!("entry `{}`", Quoted(&name)),
                claimed: entry.size(),
                file_len,
            });
        }
        if name == "data.pkl" || name.ends_with("/data.pkl") {
            // torch.save(.., compute_crc32=False) writes 0 for every entry.
            pickles.push((at, entry.crc32() == 0));
        }
    }
    let &[(at, unchecked)] = pickles.as_slice() else {
        let found = format!(
            "expected one data.pkl in the archive, found {}",
            pickles.len()
        );
        return Err(damaged(path)(found));
    };
    let mut bytes = Vec::new();
    let options = ZipReadOptions::new().ignore_crc32(unchecked);
    let entry = archive
        .by_index_with_options(at, options)
        .map_err(damaged(path))?;
    entry
        .take(file_len.min(MAX_PICKLE_LEN + 1))
        .read_to_end(&mut bytes)
        .map_err(damaged(path))?;
    if bytes.len() as u64 > MAX_PICKLE_LEN {
        return Err(ConvertHeadsError::Claim {
            path: path.into(),
            what: "data.pkl".into(),
            claimed: bytes.len() as u64,
            file_len: MAX_PICKLE_LEN,
        });
    }
    pickle::check(&bytes).map_err(|source| ConvertHeadsError::Pickle {
        path: path.into(),
        source,
    })?;
    Ok(file_len)
}

/// The tensors of the shards that the index in `folder` names.
pub(super) fn open_shards(folder: &Path) -> Result<Vec<PytorchTensor>, ConvertHeadsError> {
    let path = folder.join(INDEX_FILE);
    let index = open_index(&path, ".bin")?;
    let missing = |what: String| ConvertHeadsError::Shards {
        path: path.clone(),
        what,
    };
    let mut tensors = Vec::new();
    for shard in index.shards() {
        let file = folder.join(shard);
        if !file.is_file() {
            let shard = Quoted(shard);
            return Err(missing(format!("{shard}, which is not in the folder")));
        }
        tensors.extend(open(&file)?);
    }
    let held: HashSet<(&str, PathBuf)> = tensors
        .iter()
        .map(|t| (t.tensor.name.as_str(), t.file.clone()))
        .collect();
    for (name, shard) in &index.weight_map {
        let heads = within_prefix(name).is_some();
        if heads && !held.contains(&(name.as_str(), folder.join(shard))) {
            return Err(missing(format!(
                "`{}` in {}, which does not hold it",
                Quoted(name),
                Quoted(shard)
            )));
        }
    }
    Ok(tensors)
}
