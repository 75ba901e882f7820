//! A file that appears whole or not at all.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Why a file was not written. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot be written: {source}{}; nothing was kept", path.display(), if source.kind() == io::ErrorKind::StorageFull { " (free some space or choose another disk)" } else { "" })]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: io::Error,
}

/// Lets `write` fill a file that then appears at `out` in one step, in the place of the file that
/// may be there.
#[cfg_attr(not(any(feature = "pytorch", feature = "train")), allow(dead_code))]
pub(crate) fn write_file<T, E: From<FileError>>(
    out: &Path,
    write: impl FnOnce(&mut File) -> Result<T, E>,
) -> Result<T, E> {
    let failed = |source| FileError {
        path: out.into(),
        source,
    };
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // The result is an ordinary file, not a private one.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    // Beside the target, because renaming works within one file system only. Removed when dropped.
    let mut file = builder.tempfile_in(parent).map_err(failed)?;
    let written = write(file.as_file_mut())?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(out).map_err(|error| failed(error.error))?;
    Ok(written)
}
