//! A file that appears whole or not at all.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, PersistError};

/// Why a file was not written. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot be written: {source}{}; nothing was kept", path.display(), if source.kind() == io::ErrorKind::StorageFull { " (free some space or choose another disk)" } else { "" })]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// The operating system's error.
    pub source: io::Error,
}

impl FileError {
    /// Makes errors for `path`.
    pub fn at(path: &Path) -> impl Fn(io::Error) -> Self + Copy + '_ {
        move |source| Self {
            path: path.into(),
            source,
        }
    }
}

/// Lets `write` fill a file that then appears at `out` in one step, durable, in the place of the
/// file that may be there.
///
/// # Errors
///
/// What `write` returns; [`FileError`] for `out`.
pub fn write_file<T, E: From<FileError>>(
    out: &Path,
    write: impl FnOnce(&mut UnfinishedFile) -> Result<T, E>,
) -> Result<T, E> {
    let mut file = UnfinishedFile::create(out)?;
    let written = write(&mut file)?;
    file.finish()?;
    Ok(written)
}

/// As [`write_file`], for a file that is not there yet: one that appears meanwhile is left as it is, and the error's kind is
/// [`io::ErrorKind::AlreadyExists`].
///
/// # Errors
///
/// As [`write_file`].
pub(super) fn write_new_file<T, E: From<FileError>>(
    out: &Path,
    write: impl FnOnce(&mut UnfinishedFile) -> Result<T, E>,
) -> Result<T, E> {
    let mut file = UnfinishedFile::create(out)?;
    let written = write(&mut file)?;
    file.place(|file, out| file.persist_noclobber(out))?;
    Ok(written)
}

/// A file that is being written; removed when it is dropped unfinished.
#[derive(Debug)]
pub struct UnfinishedFile {
    out: PathBuf,
    file: BufWriter<NamedTempFile>,
}

impl UnfinishedFile {
    /// Begins a file that will appear at `out`.
    ///
    /// # Errors
    ///
    /// No file can be created in the folder of `out`.
    pub fn create(out: &Path) -> Result<Self, FileError> {
        let mut builder = tempfile::Builder::new();
        // The result is an ordinary file, not a private one.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        // Beside the target, because renaming works within one file system only.
        let file = builder
            .tempfile_in(parent(out))
            .map_err(FileError::at(out))?;
        Ok(Self {
            out: out.into(),
            file: BufWriter::new(file),
        })
    }

    /// Gives the file its name.
    ///
    /// # Errors
    ///
    /// The rest cannot be written, or the file not be renamed.
    pub fn finish(self) -> Result<(), FileError> {
        self.place(|file, out| file.persist(out))
    }

    fn place(
        self,
        place: impl FnOnce(NamedTempFile, &Path) -> Result<File, PersistError>,
    ) -> Result<(), FileError> {
        let finish = || {
            let file = self.file.into_inner()?;
            file.as_file().sync_all()?;
            place(file, &self.out)?;
            Ok(())
        };
        finish().map_err(FileError::at(&self.out))
    }
}

impl Write for UnfinishedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The folder in which `path` is.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
