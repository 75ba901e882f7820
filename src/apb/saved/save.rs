//! Writing a session's files, and making them the folder's session.

use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::error::SavedError;
use super::folder::{RankFile, discard_unfinished, rank_files};
use super::{Agreed, Header};
use crate::apb::session::{Prefilled, Session};
use crate::checkpoint::{FileError, create_private, encode};
use crate::hex::encode as hex;
use crate::model::{CachedRows, KvDType};
use crate::ranks::Ranks;

/// How a session is saved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SaveOptions {
    /// Replace the session that the folder holds; without it, such a folder is refused.
    pub replace: bool,
}

impl SaveOptions {
    /// The same, replacing the session that the folder holds, or refusing the folder.
    pub fn with_replace(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }

    /// Refuses a folder that a save with these options would refuse: to be asked before a long prefill.
    ///
    /// # Errors
    ///
    /// [`SavedError::Exists`], or [`SavedError::Write`] when the folder cannot be read.
    pub fn check(self, folder: &Path) -> Result<(), SavedError> {
        self.replaced(folder).map(|_| ())
    }

    /// The files of ranks in a folder that a save replaces.
    fn replaced(self, folder: &Path) -> Result<Vec<RankFile>, SavedError> {
        if folder.as_os_str().is_empty() {
            let empty = std::io::Error::from(std::io::ErrorKind::InvalidInput);
            return Err(FileError::at(folder)(empty).into());
        }
        let files = rank_files(folder).map_err(FileError::at(folder))?;
        match files.first() {
            Some(file) if !self.replace => Err(SavedError::Exists {
                path: folder.into(),
                file: file.path(folder),
            }),
            _ => Ok(files),
        }
    }
}

impl Session {
    /// Saves the document into `folder`, one file for each rank; returns the bytes written. All ranks
    /// are of this process; several processes call [`prepare_save`](Self::prepare_save). `model` is
    /// [`ModelSource::fingerprint`](crate::checkpoint::ModelSource::fingerprint).
    ///
    /// # Errors
    ///
    /// [`SavedError`] when nothing is prefilled, the folder holds a session that is not to be replaced,
    /// or a file cannot be written.
    pub fn save(
        &self,
        folder: &Path,
        model: &str,
        options: SaveOptions,
    ) -> Result<u64, SavedError> {
        self.prepare_save(folder, model, options)?.commit()
    }

    /// Writes what the ranks of this process hold under other names, which [`PreparedSave::commit`]
    /// makes the session's: several processes write first, and commit once all have written, the one
    /// of rank 0 last. Until then a session that the folder holds stays whole.
    ///
    /// # Errors
    ///
    /// As [`Self::save`].
    pub fn prepare_save(
        &self,
        folder: &Path,
        model: &str,
        options: SaveOptions,
    ) -> Result<PreparedSave, SavedError> {
        let prefilled = self.prefilled.as_ref().ok_or(SavedError::NoDocument)?;
        let (dtype, model_dtype) = (self.kv_dtype(), self.model.dtype());
        let agreed = Agreed::of(prefilled, model, self.settings, dtype, model_dtype);
        options.check(folder)?;
        std::fs::create_dir_all(folder).map_err(FileError::at(folder))?;
        let mut prepared = PreparedSave {
            folder: folder.into(),
            world: prefilled.plan.ranks,
            ranks: self.ranks(),
            options,
            bytes: 0,
            complete: false,
        };
        let mut start = 0;
        for rank in self.ranks() {
            let rows = prefilled.plan.owned_len(rank);
            let header = Header {
                agreed: agreed.clone(),
                rank,
            };
            let path = prepared.file(rank).partial(folder);
            prepared.bytes += self.save_rank(&path, prefilled, &header, start..start + rows)?;
            start += rows;
        }
        Ok(prepared)
    }

    fn save_rank(
        &self,
        path: &Path,
        prefilled: &Prefilled,
        header: &Header,
        rows: Range<usize>,
    ) -> Result<u64, SavedError> {
        let layers = self.model.shape().layers;
        let names: Vec<String> = (0..layers)
            .flat_map(|layer| ["key", "value"].map(|what| format!("layers.{layer}.{what}")))
            .collect();
        // Twice through the cache, so that no second copy of it is prefilled: the hash stands in front.
        let mut hash = Sha256::new();
        let (mut shape, mut byte_len) = ([0; 4], 0);
        for layer in 0..layers {
            for data in host_data(prefilled.document_rows(layer, rows.clone())?)? {
                shape = data.shape().dims();
                byte_len = data.as_bytes().len() as u64;
                hash.update(data.as_bytes());
            }
        }
        // Blocks are bytes to safetensors.
        let dtype = match self.kv_dtype() {
            KvDType::Q8_0 => "U8",
            _ => header.agreed.dtype.as_str(),
        };
        let tokens: Vec<String> = prefilled.document.iter().map(u32::to_string).collect();
        let metadata = json!({
            "session": json!(header).to_string(),
            "tokens": tokens.join(" "),
            "sha256": hex(&hash.finalize()),
        });
        let tensors = names
            .iter()
            .map(|name| (name.as_str(), dtype, &shape[..], byte_len));
        let (front, data) = encode(metadata, tensors);
        let failed = FileError::at(path);
        let mut file = BufWriter::new(create_private(path).map_err(failed)?);
        file.write_all(&front).map_err(failed)?;
        for layer in 0..layers {
            for data in host_data(prefilled.document_rows(layer, rows.clone())?)? {
                file.write_all(data.as_bytes()).map_err(failed)?;
            }
        }
        let file = file
            .into_inner()
            .map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)?;
        Ok(front.len() as u64 + data)
    }
}

/// The files of one process's ranks, written but not yet part of a session. Dropped without
/// [`commit`](Self::commit) they are removed, and so are other processes' in the same folder.
#[derive(Debug)]
#[must_use = "dropped, it removes its files"]
pub struct PreparedSave {
    folder: PathBuf,
    world: usize,
    /// The ranks of this process.
    ranks: Ranks,
    options: SaveOptions,
    bytes: u64,
    complete: bool,
}

impl PreparedSave {
    /// Bytes written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn file(&self, rank: usize) -> RankFile {
        RankFile {
            rank,
            world: self.world,
        }
    }

    /// Gives the files their names; returns the bytes that this process wrote.
    ///
    /// The process of rank 0 commits last. It removes the session that is replaced, and names the files
    /// of all processes that share its folder: another process that fails before leaves the earlier
    /// session whole. Files of rank 0 go first and come last, so that at no time the folder reads as
    /// a session of parts of both.
    ///
    /// # Errors
    ///
    /// [`SavedError::Exists`] when another save was faster, [`SavedError::Write`] when a file cannot
    /// be removed or renamed; the folder then holds the earlier session or none.
    pub fn commit(mut self) -> Result<u64, SavedError> {
        let folder = &self.folder;
        let ranks: Ranks = match self.ranks.contains(0) {
            true => {
                for file in self.options.replaced(folder)? {
                    let path = file.path(folder);
                    std::fs::remove_file(&path).map_err(FileError::at(&path))?;
                }
                (0..self.world).into()
            }
            // Rank 0 is in this folder: its process names these files, too.
            false if self.file(0).partial(folder).exists() => (0..0).into(),
            false => self.ranks.clone(),
        };
        let written =
            |file: &RankFile| self.ranks.contains(file.rank) || file.partial(folder).exists();
        let files: Vec<_> = ranks.map(|rank| self.file(rank)).filter(written).collect();
        for file in files.into_iter().rev() {
            let path = file.path(folder);
            std::fs::rename(file.partial(folder), &path).map_err(FileError::at(&path))?;
        }
        self.complete = true;
        Ok(self.bytes)
    }
}

impl Drop for PreparedSave {
    fn drop(&mut self) {
        if !self.complete {
            discard_unfinished(&self.folder, self.world);
        }
    }
}

/// Keys and values of rows as they are stored.
fn host_data(rows: CachedRows) -> Result<[TensorData; 2], SavedError> {
    rows.into_data().map_err(|e| SavedError::Device {
        reason: e.to_string(),
    })
}
