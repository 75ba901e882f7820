//! A folder that appears whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::file::{FileError, parent, write_file};
use super::listing::{listing, name_of};
use crate::quoted::QuotePath;

/// Why a folder was not written. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// The target is neither new nor an empty folder.
    #[error("{}: expected a new or empty folder, found {found}; remove it or choose another name", path.quoted())]
    InTheWay {
        /// The target.
        path: PathBuf,
        /// What it is, or holds.
        found: String,
    },
    /// Writing failed.
    #[error(transparent)]
    Io(#[from] FileError),
}

/// Lets `write` fill a folder that then appears at `out` in one step.
pub(crate) fn write_folder<T, E: From<FolderError>>(
    out: &Path,
    write: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    let failed = |source| FolderError::from(FileError::at(out)(source));
    refuse_occupied(out)?;
    // A link to a folder stays one: the folder that it names is made.
    let target = match out.is_symlink() {
        true => fs::canonicalize(out).map_err(failed)?,
        false => out.to_owned(),
    };
    let out = target.as_path();
    let parent = parent(out);
    fs::create_dir_all(parent).map_err(failed)?;
    // Beside the target, because renaming works within one file system only. Removed when dropped.
    let prefix = format!(".{}.", name_of(out));
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(".partial");
    // The result is an ordinary folder, not a private one.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    let folder = builder.tempdir_in(parent).map_err(failed)?;
    let written = write(folder.path())?;
    sync_folder(folder.path()).map_err(failed)?;
    refuse_occupied(out)?;
    if out.exists() {
        fs::remove_dir(out).map_err(failed)?;
    }
    fs::rename(folder.path(), out).map_err(failed)?;
    // Nothing is left under the temporary name, so there is nothing to remove.
    let _ = folder.keep();
    sync_folder(parent).map_err(failed)?;
    Ok(written)
}

/// Refuses a target that is neither new nor an empty folder.
pub(crate) fn refuse_occupied(out: &Path) -> Result<(), FolderError> {
    let in_the_way = |found: String| FolderError::InTheWay {
        path: out.into(),
        found,
    };
    match fs::read_dir(out) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(in_the_way(listing(out))),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) if out.exists() => Err(in_the_way("a file".into())),
        Err(source) => Err(FileError::at(out)(source).into()),
    }
}

/// Makes a folder's entries durable, where the system can.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(path)?.sync_all()
    } else {
        Ok(())
    }
}

/// Writes JSON, indented.
pub(crate) fn write_json(path: &Path, json: &Json) -> Result<(), FolderError> {
    write_file(path, |file| {
        serde_json::to_writer_pretty(&mut *file, json)
            .map_err(io::Error::from)
            .and_then(|()| file.write_all(b"\n"))
            .map_err(|error| FileError::at(path)(error).into())
    })
}
