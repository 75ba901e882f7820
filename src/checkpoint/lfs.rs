//! Git LFS pointers: the short texts in place of large files that were not fetched.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// A pointer is shorter than this; a longer file is never one.
pub const MAX_POINTER_LEN: u64 = 1024;

/// How a pointer begins, today and in Git LFS's first releases.
const BEGINNINGS: [&str; 2] = [
    "version https://git-lfs.github.com/spec/",
    "version https://hawser.github.com/spec/",
];

/// A Git LFS pointer, which stands for a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pointer {
    /// The file's length in bytes.
    pub size: Option<u64>,
}

impl Pointer {
    /// Reads a pointer; `None` for anything else.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() as u64 >= MAX_POINTER_LEN {
            return None;
        }
        let text = std::str::from_utf8(bytes).ok()?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if !BEGINNINGS.iter().any(|start| text.starts_with(start)) {
            return None;
        }
        Some(Self {
            size: text.lines().find_map(|line| {
                let size = line.strip_prefix("size ")?;
                size.trim().parse().ok()
            }),
        })
    }

    /// Reads the pointer in a file; `None` if the file is something else.
    ///
    /// # Errors
    ///
    /// The file cannot be read. A folder, device or pipe is not opened and is no pointer.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() || metadata.len() >= MAX_POINTER_LEN {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        File::open(path)?
            .take(MAX_POINTER_LEN)
            .read_to_end(&mut bytes)?;
        Ok(Self::parse(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OID: &str = "sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";

    #[test]
    fn reads_a_pointer_with_either_line_end() {
        let text =
            format!("version https://git-lfs.github.com/spec/v1\noid {OID}\nsize 538090408\n");
        let expected = Pointer {
            size: Some(538_090_408),
        };
        assert_eq!(Pointer::parse(text.as_bytes()), Some(expected));
        let windows = text.replace('\n', "\r\n");
        assert_eq!(Pointer::parse(windows.as_bytes()), Some(expected));
        let old = format!("version https://hawser.github.com/spec/v1\noid {OID}\nsize 1\n");
        assert!(Pointer::parse(old.as_bytes()).is_some());
    }

    #[test]
    fn a_pointer_without_its_size_is_still_one() {
        let pointer = Pointer::parse(b"version https://git-lfs.github.com/spec/v1\nsize many\n");
        assert_eq!(pointer, Some(Pointer::default()));
    }

    #[test]
    fn other_files_are_none() {
        let long = format!(
            "version https://git-lfs.github.com/spec/v1\n{}",
            "x".repeat(2000)
        );
        for other in [
            &b""[..],
            b"{}",
            b"\xff\xfe",
            b"version 1\n",
            long.as_bytes(),
        ] {
            assert!(Pointer::parse(other).is_none());
        }
    }

    #[test]
    fn a_folder_is_none_and_a_missing_file_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Pointer::read(folder.path()).unwrap(), None);
        let missing = Pointer::read(&folder.path().join("x"));
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
