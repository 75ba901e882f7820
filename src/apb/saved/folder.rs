//! The names of a saved session's files, and which of them a folder holds.

use std::io;
use std::path::{Path, PathBuf};

use super::error::SavedError;
use crate::checkpoint::WeightsError;

/// A rank's file. Sorted, the files of rank 0, without which there is no session, come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RankFile {
    pub rank: usize,
    pub world: usize,
}

impl RankFile {
    fn parse(name: &str) -> Option<Self> {
        let numbers = name.strip_prefix("rank-")?.strip_suffix(".safetensors")?;
        let (rank, world) = numbers.split_once("-of-")?;
        let file = Self {
            rank: rank.parse().ok()?,
            world: world.parse().ok()?,
        };
        // A name with a sign or leading zeros is none of a save's.
        (file.name() == name).then_some(file)
    }

    fn name(self) -> String {
        format!("rank-{}-of-{}.safetensors", self.rank, self.world)
    }

    pub fn path(self, folder: &Path) -> PathBuf {
        folder.join(self.name())
    }

    /// Where it is until it is committed.
    pub fn partial(self, folder: &Path) -> PathBuf {
        self.path(folder).with_extension("safetensors.partial")
    }
}

/// The files of ranks in a folder, sorted; none where there is no folder.
pub(super) fn rank_files(folder: &Path) -> io::Result<Vec<RankFile>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        files.extend(name.to_str().and_then(RankFile::parse));
    }
    files.sort_unstable();
    Ok(files)
}

/// The number of ranks of a folder's one session, each of which has its file.
pub(super) fn world_size(folder: &Path) -> Result<usize, SavedError> {
    let files = rank_files(folder).map_err(|source| WeightsError::Open {
        path: folder.into(),
        source,
    })?;
    let Some(first) = files.first() else {
        return Err(SavedError::NotASession {
            path: folder.into(),
        });
    };
    let world = first.world;
    if let Some(other) = files.iter().find(|file| file.world != world) {
        return Err(SavedError::Mixed {
            path: other.path(folder),
            first: first.path(folder),
        });
    }
    let absent = |rank: &usize| files.get(*rank).is_none_or(|file| file.rank != *rank);
    if let Some(rank) = (0..world).find(absent) {
        return Err(SavedError::Missing {
            path: RankFile { rank, world }.path(folder),
            ranks: world,
        });
    }
    match files.get(world) {
        None => Ok(world),
        Some(foreign) => Err(SavedError::Damaged {
            path: foreign.path(folder),
            reason: format!("its name is of none of {world} ranks"),
        }),
    }
}

/// Removes what an unfinished save of `world` ranks left in a folder: files that were not committed
/// and, without rank 0's, those that were.
pub fn discard_unfinished(folder: &Path, world: usize) {
    let finished = RankFile { rank: 0, world }.path(folder).exists();
    // What is not there, or cannot be removed, is left.
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().and_then(|name| name.to_str());
        let committed = name.and_then(RankFile::parse);
        let of_save = |file: &RankFile| file.world == world && file.rank < world;
        let partial = committed.is_none()
            && name
                .and_then(|name| RankFile::parse(name.strip_suffix(".partial")?))
                .is_some_and(|file| of_save(&file));
        if partial || (!finished && committed.is_some_and(|file| of_save(&file))) {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        folder
    }

    #[test]
    fn other_names_are_no_rank_files() {
        let names = [
            "rank-1-of-2.safetensors",
            "rank-0-of-2.safetensors",
            "rank-0-of-10.safetensors",
            "rank-00-of-2.safetensors",
            "rank-+1-of-2.safetensors",
            "rank-1-of-2.safetensors.partial",
            "rank-1-of-2.txt",
            "rank--of-2.safetensors",
            "model.safetensors",
        ];
        let found = rank_files(folder(&names).path()).unwrap();
        let found: Vec<_> = found.iter().map(|file| (file.rank, file.world)).collect();
        assert_eq!(found, [(0, 2), (0, 10), (1, 2)]);
        assert_eq!(rank_files(Path::new("nowhere")).unwrap(), []);
    }

    #[test]
    fn every_rank_of_one_session_has_its_file() {
        let world = |names: &[&str]| world_size(folder(names).path());
        let whole = ["rank-0-of-2.safetensors", "rank-1-of-2.safetensors"];
        assert_eq!(world(&whole).unwrap(), 2);
        assert!(matches!(world(&[]), Err(SavedError::NotASession { .. })));
        let beside = |name| world(&[whole[0], whole[1], name]);
        let mixed = beside("rank-2-of-3.safetensors");
        assert!(matches!(mixed, Err(SavedError::Mixed { .. })), "{mixed:?}");
        let foreign = beside("rank-2-of-2.safetensors");
        assert!(
            matches!(foreign, Err(SavedError::Damaged { .. })),
            "{foreign:?}"
        );
        for rest in [&whole[1..], &["rank-2-of-2.safetensors"]] {
            let missing = world(rest);
            assert!(
                matches!(&missing, Err(SavedError::Missing { path, .. }) if path.ends_with(whole[0])),
                "{missing:?}"
            );
        }
        let many = format!("rank-0-of-{}.safetensors", usize::MAX);
        let missing = world(&[&many]);
        assert!(
            matches!(missing, Err(SavedError::Missing { .. })),
            "{missing:?}"
        );
    }
}
