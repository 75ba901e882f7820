//! Memory-mapped files: the operating system reads the pages that are used.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;

use super::error::WeightsError;
use super::local::refuse_pointer;
use crate::quoted::QuotePath;

/// A memory-mapped file, read-only. Where the file system has no mappings, as some network drives, the file is read.
///
/// The file must not be changed while it is mapped; if it is shortened, the operating system ends
/// a process that touches the missing part (SIGBUS; the command line says so). Files are therefore replaced by renaming,
/// never rewritten, by everything in this crate.
#[derive(Debug, Clone)]
pub(crate) struct MappedFile {
    path: PathBuf,
    bytes: bytes::Bytes,
    /// The mapping behind `bytes`; none where they are no file's.
    map: Option<Arc<Mmap>>,
}

/// What `bytes::Bytes` asks of its owner.
struct Shared(Arc<Mmap>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
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
        // Before opening, because opening a pipe would wait for a writer.
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
        refuse_pointer(path)?;
        let mut file = File::open(path).map_err(failed)?;
        // What is open now may be another file than the one that was looked at.
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            let error = io::Error::other("it was replaced by a device or pipe");
            return Err(failed(error));
        }
        if metadata.len() == 0 {
            return Ok(Self::in_memory(path, &[]));
        }
        // SAFETY: the mapping is read-only; the contract that the file is not changed meanwhile
        // stands in the type's documentation.
        let map = match unsafe { Mmap::map(&file) } {
            Ok(map) => Arc::new(map),
            Err(error) => {
                let bytes = read_whole(&mut file, metadata.len()).map_err(failed)?;
                tracing::warn!(
                    "{}: cannot be mapped ({error}), and was read into memory: it takes {} MiB there",
                    path.quoted(),
                    metadata.len() >> 20
                );
                return Ok(Self {
                    path: path.into(),
                    bytes: bytes.into(),
                    map: None,
                });
            }
        };
        Ok(Self {
            path: path.into(),
            bytes: bytes::Bytes::from_owner(Shared(Arc::clone(&map))),
            map: Some(map),
        })
    }

    /// Bytes that are in memory already, as if they were a file at `path`.
    pub(crate) fn in_memory(path: &Path, bytes: &[u8]) -> Self {
        Self {
            path: path.into(),
            bytes: bytes::Bytes::copy_from_slice(bytes),
            map: None,
        }
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

    /// Releases the memory that a part of the file occupies. Reading it again reads the file again.
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Some(map) = &self.map
            && range.start <= range.end
            && range.end <= map.len()
        {
            let len = range.end - range.start;
            // SAFETY: the mapping is of a file and read-only, so what is dropped comes back from the
            // file with the same bytes; nothing can have been written to be lost.
            let released =
                unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, len) };
            if let Err(error) = released {
                tracing::debug!("{}: {error}", self.path.quoted());
            }
        }
        #[cfg(not(unix))]
        let _ = (range, &self.map);
    }
}

/// A file's bytes, in memory that is asked for before it is filled.
fn read_whole(file: &mut File, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let len = usize::try_from(len).map_err(io::Error::other)?;
    bytes.try_reserve_exact(len).map_err(io::Error::other)?;
    file.take(len as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
