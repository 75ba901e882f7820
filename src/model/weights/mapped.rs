//! A file in memory without reading it: the operating system brings in what is touched.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::error::WeightsError;

/// A memory-mapped file, read-only.
///
/// The file must not be shortened while it is mapped: the operating system then ends a process
/// that touches the missing part. Files are therefore replaced by renaming, never rewritten, by
/// everything in this crate.
#[derive(Debug, Clone)]
pub(crate) struct MappedFile {
    path: PathBuf,
    bytes: bytes::Bytes,
}

impl MappedFile {
    /// Maps the regular file at `path`; symbolic links are followed.
    pub(crate) fn open(path: &Path) -> Result<Self, WeightsError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => WeightsError::NotFound { path: path.into() },
            _ => WeightsError::Open {
                path: path.into(),
                source,
            },
        };
        // Asked before opening: opening a pipe would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if !metadata.is_file() {
            let found = if metadata.is_dir() {
                "a folder"
            } else {
                "a device or pipe"
            };
            return Err(WeightsError::NotAFile {
                path: path.into(),
                found,
            });
        }
        let file = File::open(path).map_err(failed)?;
        let bytes = if metadata.len() == 0 {
            bytes::Bytes::new()
        } else {
            // SAFETY: the mapping is read-only and private to this process's view; the contract
            // that the file is not shortened meanwhile stands in the type's documentation.
            let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
            bytes::Bytes::from_owner(map)
        };
        Ok(Self {
            path: path.into(),
            bytes,
        })
    }

    /// Where the file lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A part of the file that keeps the mapping alive; `None` if it is not inside the file.
    pub(crate) fn slice(&self, range: Range<usize>) -> Option<bytes::Bytes> {
        (range.start <= range.end && range.end <= self.bytes.len()).then(|| self.bytes.slice(range))
    }
}
