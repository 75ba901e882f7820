//! A file that appears whole or not at all.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, PersistError};

use crate::quoted::QuotePath;

/// Why a file was not written. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot be written: {source}{}; nothing was kept", path.quoted(), if source.kind() == io::ErrorKind::StorageFull { " (free some space or choose another disk)" } else { "" })]
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
#[cfg(feature = "gguf")]
pub(super) fn write_new_file<T, E: From<FileError>>(
    out: &Path,
    write: impl FnOnce(&mut UnfinishedFile) -> Result<T, E>,
) -> Result<T, E> {
    let mut file = UnfinishedFile::create(out)?;
    let written = write(&mut file)?;
    file.place(|file, out| file.persist_noclobber(out))?;
    Ok(written)
}

/// A file that is being written; removed when it is dropped unfinished. What is written to a device or a pipe stays there.
#[derive(Debug)]
pub struct UnfinishedFile {
    out: PathBuf,
    file: BufWriter<Destination>,
}

/// Where the bytes go.
#[derive(Debug)]
enum Destination {
    /// A file beside the one that is made, which takes its name when it is whole.
    Beside(NamedTempFile),
    /// A device or a pipe, which must not be replaced by a file.
    Itself(File),
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Beside(file) => file.write(bytes),
            Self::Itself(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Beside(file) => file.flush(),
            Self::Itself(file) => file.flush(),
        }
    }
}

impl UnfinishedFile {
    /// Begins a file that will appear at `out`. Where `out` is a device or a pipe, it is written to as it is, a pipe once
    /// a process reads it; where it is a link, the file that it names is replaced.
    ///
    /// # Errors
    ///
    /// `out` is a folder, or no file can be created in its folder.
    pub fn create(out: &Path) -> Result<Self, FileError> {
        let failed = FileError::at(out);
        let (out, found) = match std::fs::metadata(out) {
            Ok(found) if found.is_dir() => {
                return Err(failed(io::ErrorKind::IsADirectory.into()));
            }
            Ok(found) if found.is_file() && out.is_symlink() => {
                (std::fs::canonicalize(out).map_err(failed)?, Some(found))
            }
            // A link to a file that is not there yet makes that file.
            Err(_) if out.is_symlink() => {
                let target = std::fs::read_link(out).map_err(failed)?;
                (parent(out).join(target), None)
            }
            found => (out.to_owned(), found.ok()),
        };
        let file = match found {
            Some(found) if !found.is_file() => {
                let file = File::options().write(true).open(&out).map_err(failed)?;
                Destination::Itself(file)
            }
            found => {
                let file = beside(&out).map_err(failed)?;
                if let Some(replaced) = found {
                    // It stays as private as it was.
                    let kept = file.as_file().set_permissions(replaced.permissions());
                    kept.map_err(failed)?;
                }
                Destination::Beside(file)
            }
        };
        Ok(Self {
            out,
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
            match self.file.into_inner()? {
                Destination::Beside(file) => {
                    file.as_file().sync_all()?;
                    place(file, &self.out)?;
                }
                Destination::Itself(mut file) => file.flush()?,
            }
            Ok(())
        };
        finish().map_err(FileError::at(&self.out))
    }
}

/// A temporary file in the folder of `out`, because renaming works within one file system only.
fn beside(out: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    // The result is an ordinary file, not a private one.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(parent(out))
}

impl Write for UnfinishedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Creates a file that its owner alone can read, where the system has permissions; one that is there is emptied.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    // One that was there keeps its permissions otherwise.
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(file)
}

/// The folder in which `path` is.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(out: &Path, bytes: &[u8]) -> Result<(), FileError> {
        write_file(out, |file| {
            file.write_all(bytes).map_err(FileError::at(out))
        })
    }

    #[test]
    fn files_are_replaced_whole_and_folders_refused() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        write(&out, b"first").unwrap();
        write(&out, b"second").unwrap();
        assert_eq!(std::fs::read(&out).unwrap(), b"second");
        let failed = write_file(&out, |file| {
            file.write_all(b"third").unwrap();
            Err::<(), _>(FileError::at(&out)(io::ErrorKind::StorageFull.into()))
        });
        assert!(failed.unwrap_err().to_string().contains("free some space"));
        assert_eq!(std::fs::read(&out).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write(folder.path(), b"x").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn devices_and_links_stay_what_they_are() {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

        let null = Path::new("/dev/null");
        write(null, b"gone").unwrap();
        let found = std::fs::metadata(null).unwrap();
        assert!(found.file_type().is_char_device());

        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::fs::write(&target, "old").unwrap();
        symlink("target", &link).unwrap();
        write(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&target).unwrap(), b"new");

        let (target, link) = (folder.path().join("new"), folder.path().join("dangling"));
        symlink("new", &link).unwrap();
        write(&link, b"new").unwrap();
        assert!(link.is_symlink() && target.is_file());

        let kept = folder.path().join("kept");
        std::fs::write(&kept, "old").unwrap();
        std::fs::set_permissions(&kept, PermissionsExt::from_mode(0o640)).unwrap();
        write(&kept, b"new").unwrap();
        let mode = std::fs::metadata(&kept).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);

        let private = folder.path().join("private");
        std::fs::write(&private, "open to all").unwrap();
        drop(create_private(&private).unwrap());
        let mode = std::fs::metadata(&private).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
