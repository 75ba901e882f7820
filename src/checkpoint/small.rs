//! Small files, read whole.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::size::size;

/// The bytes of a regular file that has at most `most` of them.
///
/// # Errors
///
/// The file cannot be read; of kind [`io::ErrorKind::FileTooLarge`] where it is longer, and of kind
/// [`io::ErrorKind::InvalidInput`] for a folder, device or pipe, which is not opened.
pub(crate) fn read_limited(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    check_regular(path)?;
    let mut bytes = Vec::new();
    let mut file = File::open(path)?.take(most.saturating_add(1));
    file.read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("expected at most {}, found more", size(most)),
        ));
    }
    Ok(bytes)
}

/// Refuses what is no regular file. Called before opening, because opening a pipe would wait for a writer.
///
/// # Errors
///
/// There is no such file; of kind [`io::ErrorKind::InvalidInput`] for a folder, device or pipe.
pub(crate) fn check_regular(path: &Path) -> io::Result<()> {
    match std::fs::metadata(path)?.is_file() {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "expected a regular file, found a folder, device or pipe",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_file_and_what_is_no_file_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert_eq!(
            read_limited(&path, 4).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        std::fs::write(&path, "1234").unwrap();
        assert_eq!(read_limited(&path, 4).unwrap(), b"1234");
        let error = read_limited(&path, 3).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(error.to_string(), "expected at most 3 B, found more");
        let error = read_limited(folder.path(), 4).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        #[cfg(unix)]
        assert!(read_limited(Path::new("/dev/zero"), 4).is_err());
    }
}
