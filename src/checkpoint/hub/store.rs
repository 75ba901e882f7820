//! The cache on disk, in the layout of Python's `huggingface_hub`.
//!
//! ```text
//! models--org--name/
//!     blobs/ETAG                  the files' bytes; ETAG.incomplete while they arrive
//!     refs/main                   the commit a branch was at
//!     snapshots/COMMIT/FILE       a link to the blob, or the file itself
//!     .no_exist/COMMIT/FILE       a file that the commit is known not to have
//! .locks/models--org--name/ETAG.lock
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::error::HubError;
use super::spec::Spec;
use crate::checkpoint::file::{FileError, write_file};
use crate::checkpoint::folder::FolderError;
use crate::checkpoint::local::{self, is_commit};
use crate::checkpoint::small::read_limited;

/// The longest file in `refs` that is read, in bytes; it holds a commit's hash.
const MAX_REF_LEN: u64 = 128;

/// How often a lock that another process holds is tried.
const POLL: Duration = Duration::from_millis(100);

/// The cache of one model.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    locks: PathBuf,
    symlinks: bool,
}

/// A lock on a blob, held until it is dropped.
pub(super) struct Lock {
    /// None where the file system has no locks.
    file: Option<File>,
}

impl Lock {
    /// Whether no other process can write the blob now.
    pub(super) fn is_exclusive(&self) -> bool {
        self.file.is_some()
    }
}

impl Store {
    /// The cache of `spec`'s model in the cache folder `root`.
    pub(super) fn new(root: &Path, spec: &Spec, symlinks: bool) -> Self {
        let name = format!("models--{}", spec.id.replace('/', "--"));
        Self {
            folder: root.join(&name),
            locks: root.join(".locks").join(name),
            symlinks,
        }
    }

    /// Refuses a cache whose own folders are links, through which files would be written elsewhere. The model's folder itself
    /// may be one: it may lie on another disk.
    pub(super) fn refuse_links(&self, commit: &str) -> Result<(), HubError> {
        let snapshots = self.folder.join("snapshots");
        let folders = [
            self.folder.join("blobs"),
            self.folder.join("refs"),
            self.folder.join(".no_exist"),
            snapshots.join(commit),
            snapshots,
            self.locks.clone(),
        ];
        match folders.iter().find(|folder| folder.is_symlink()) {
            None => Ok(()),
            Some(link) => Err(HubError::at(link)(io::Error::other(
                "a folder of the cache is a link; remove it",
            ))),
        }
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// The commit of a revision when it was last requested; a commit is its own.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_full_commit(revision) {
            return Some(revision.to_string());
        }
        let text = self.read_ref(revision)?;
        let commit = text.trim();
        is_commit(commit).then(|| commit.to_string())
    }

    fn read_ref(&self, revision: &str) -> Option<String> {
        let bytes = read_limited(&self.folder.join("refs").join(revision), MAX_REF_LEN).ok()?;
        String::from_utf8(bytes).ok()
    }

    /// Whether a commit's configuration and weights are there.
    pub(super) fn is_complete(&self, commit: &str) -> bool {
        local::missing(&self.snapshot(commit)).is_empty()
    }

    /// Stores the commit a revision is at.
    pub(super) fn set_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        // Not written again, so that a cache that is complete may be read-only.
        if self.read_ref(revision).is_some_and(|found| found == commit) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).map_err(HubError::at(folder))?;
        remove_other(&path).map_err(HubError::at(&path))?;
        let written: Result<(), FileError> = write_file(&path, |file| {
            file.write_all(commit.as_bytes())
                .map_err(FileError::at(&path))
        });
        Ok(written.map_err(FolderError::from)?)
    }

    /// Stores that a commit has no such file.
    pub(super) fn set_absent(&self, commit: &str, name: &str) {
        let path = self.folder.join(".no_exist").join(commit).join(name);
        // It only saves a request.
        if !path.exists() {
            let _ = path.parent().map(fs::create_dir_all);
            let _ = File::create_new(path);
        }
    }

    /// Whether a commit has a file, as far as is known.
    pub(super) fn has(&self, commit: &str, name: &str) -> Option<bool> {
        if self.snapshot(commit).join(name).exists() {
            return Some(true);
        }
        let absent = self.folder.join(".no_exist").join(commit).join(name);
        absent.exists().then_some(false)
    }

    /// Locks a blob. While another process holds it, `waiting` is given the length of what has
    /// arrived there; `stall` is how long that may stay the same.
    pub(super) fn lock(
        &self,
        blob: &str,
        stall: Duration,
        waiting: &mut dyn FnMut(u64),
    ) -> Result<Lock, HubError> {
        let path = self.locks.join(format!("{blob}.lock"));
        let failed = HubError::at(&path);
        fs::create_dir_all(&self.locks).map_err(failed)?;
        let file = open_own(&path, false).map_err(failed)?;
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { file: Some(file) }),
                Err(TryLockError::Error(_)) => return Ok(Lock { file: None }),
                Err(TryLockError::WouldBlock) => {}
            }
            let length = self.arrived(blob);
            if length != seen {
                (seen, since) = (length, Instant::now());
                waiting(length);
            } else if since.elapsed() > stall {
                return Err(HubError::Locked {
                    path,
                    waited: since.elapsed(),
                });
            }
            thread::sleep(POLL);
        }
    }

    /// Bytes of a blob that have arrived in its unfinished files, whichever process writes them.
    fn arrived(&self, blob: &str) -> u64 {
        let mine = |name: &str| name.starts_with(blob) && name.ends_with(".incomplete");
        fs::read_dir(self.folder.join("blobs"))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(mine))
            .filter_map(|entry| entry.metadata().ok())
            .map(|metadata| metadata.len())
            .sum()
    }

    /// Puts a blob into a snapshot as `name`: a relative link, or the bytes where links cannot be
    /// made. `new`: no other snapshot has it yet.
    pub(super) fn link(
        &self,
        etag: &str,
        commit: &str,
        name: &str,
        new: bool,
    ) -> Result<PathBuf, HubError> {
        let (blob, path) = (self.blob(etag), self.snapshot(commit).join(name));
        let failed = HubError::at(&path);
        make_room(&path).map_err(failed)?;
        let up = "../".repeat(2 + name.split('/').count() - 1);
        let target = format!("{up}blobs/{etag}");
        if self.symlinks {
            match symlink(Path::new(&target), &path) {
                Ok(()) => return Ok(path),
                // Another process was faster.
                Err(_) if path.exists() => return Ok(path),
                Err(_) => {}
            }
        }
        if new {
            fs::rename(&blob, &path).map_err(failed)?;
        } else if let Err(error) = fs::copy(&blob, &path) {
            // Half a copy would be taken for the file.
            let _ = fs::remove_file(&path);
            return Err(failed(error));
        }
        Ok(path)
    }

    /// Puts a finished file without a blob's name into a snapshot.
    pub(super) fn place(&self, file: &Path, commit: &str, name: &str) -> Result<PathBuf, HubError> {
        let path = self.snapshot(commit).join(name);
        make_room(&path)
            .and_then(|()| fs::rename(file, &path))
            .map_err(HubError::at(&path))?;
        Ok(path)
    }
}

/// Whether a revision is a commit's whole hash, which never moves.
pub(super) fn is_full_commit(revision: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    revision.len() == 40 && revision.bytes().all(hex)
}

/// Opens one of the cache's own files to read and write, and makes it where there is none.
///
/// The cache may be shared: a link in the file's place is not followed, because it could lead to any file of the user's.
pub(super) fn open_own(path: &Path, empty: bool) -> io::Result<File> {
    remove_other(path)?;
    let mut options = File::options();
    options.create(true).truncate(empty).read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW);
    options.open(path)
}

/// Removes what is in the place of a file and is none, such as a link.
fn remove_other(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(()),
        // A link to a folder is a folder to some systems.
        Ok(_) => fs::remove_file(path).or_else(|_| fs::remove_dir(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes a file's folder, and takes away a broken link in its place.
fn make_room(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if path.is_symlink() && !path.exists() {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(unix)]
fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(windows)]
fn symlink(target: &Path, path: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, path)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
