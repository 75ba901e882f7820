//! Names that a hub gives, checked before they become paths.

use crate::checkpoint::index::is_plain_file_name;
use crate::quoted::Quoted;

/// The longest name of a file that every usual file system takes, less a lock's ending.
const MAX_NAME: usize = 200;

/// How the cache's own files beside a blob end, which no blob may be taken for.
const OWN_ENDINGS: [&str; 2] = [".incomplete", ".lock"];

/// The names that Windows takes for devices in every folder; serial and parallel ports have them, too.
const DEVICES: [&str; 6] = ["con", "prn", "aux", "nul", "conin$", "conout$"];

/// Whether the text can be the name of a blob: one component, of letters, digits and marks that mean
/// nothing to a file system.
pub(super) fn is_blob(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.+=~".contains(&b);
    let lower = text.to_ascii_lowercase();
    (1..=MAX_NAME).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(plain)
        && !OWN_ENDINGS.iter().any(|ending| lower.ends_with(ending))
        && means_itself(text)
}

/// Whether the text is the path of a file below a model's folder: plain names with `/` between.
pub(super) fn is_file(path: &str) -> bool {
    path.len() <= 4 * MAX_NAME
        && path.split('/').all(|name| {
            is_plain_file_name(name)
                && name.len() <= MAX_NAME
                && !name.starts_with("..")
                && !name.chars().any(char::is_control)
                && means_itself(name)
        })
}

/// Whether Windows takes a name as it stands: it leaves out dots and blanks at the end, and opens
/// devices.
fn means_itself(name: &str) -> bool {
    !name.ends_with(['.', ' ']) && !is_device(name)
}

/// Whether the name is a device's on Windows, whatever follows a dot in it.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name);
    let stem = stem.trim_end().to_lowercase();
    let port = stem.strip_prefix("com").or(stem.strip_prefix("lpt"));
    let numbered = port.is_some_and(|number| {
        let mut digits = number.chars();
        let digit = matches!(digits.next(), Some('1'..='9' | '¹' | '²' | '³'));
        digit && digits.next().is_none()
    });
    numbered || DEVICES.contains(&stem.as_str())
}

/// The SHA-256 that a blob's name is, if it is one: those of large files are.
pub(super) fn sha256_of(blob: &str) -> Option<&str> {
    (blob.len() == 64 && is_lower_hex(blob)).then_some(blob)
}

/// The git id that a blob's name is, if it is one: those of small files are. It is the SHA-1 of the
/// file with its length in front.
pub(super) fn git_id_of(blob: &str) -> Option<&str> {
    (blob.len() == 40 && is_lower_hex(blob)).then_some(blob)
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// An ETag with the digits of a git id or a SHA-256 in lower case: where a disk does not tell cases
/// apart, others would name the same file. Anything else stays.
pub(super) fn with_lower_hash(etag: &str) -> String {
    let lower = etag.to_ascii_lowercase();
    let is_hash = sha256_of(&lower).is_some() || git_id_of(&lower).is_some();
    if is_hash { lower } else { etag.to_string() }
}

/// A text out of an answer as an error shows it: without control characters, and not too long.
pub(super) fn shown(text: &str) -> String {
    Quoted(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_one_plain_name() {
        let sha256 = "a".repeat(64);
        for good in [
            sha256.as_str(),
            "5f3a-12ab",
            "d41d8cd98f00b204e9800998ecf8427e-12",
            "a==",
        ] {
            assert!(is_blob(good), "{good}");
        }
        let long = "a".repeat(300);
        for bad in [
            "", ".", "..", "../x", "../../x", "/abs/x", "a/b", "a\\b", "C:x", "a\0b", "a b",
            ".hidden", "a\nb", "ä", &long,
        ] {
            assert!(!is_blob(bad), "{bad:?}");
        }
        for own in ["a.incomplete", "a.lock", "a.1.Incomplete", "a.LOCK"] {
            assert!(!is_blob(own), "{own}");
        }
    }

    #[test]
    fn hashes_are_told_from_other_names_and_in_lower_case() {
        let (sha256, git) = ("0a".repeat(32), "0a".repeat(20));
        assert_eq!(sha256_of(&sha256), Some(sha256.as_str()));
        assert_eq!(git_id_of(&git), Some(git.as_str()));
        for hash in [&sha256, &git] {
            let upper = hash.to_uppercase();
            assert_eq!((sha256_of(&upper), git_id_of(&upper)), (None, None));
            assert_eq!(with_lower_hash(&upper), *hash);
        }
        for other in ["abc", "0A", &"0G".repeat(20), &"AB".repeat(16)] {
            assert_eq!((sha256_of(other), git_id_of(other)), (None, None));
            assert_eq!(with_lower_hash(other), other);
        }
    }

    #[test]
    fn names_that_windows_takes_for_others_are_refused() {
        for bad in [
            "con",
            "NUL",
            "nul.json",
            "Aux.tar.gz",
            "prn .txt",
            "com1",
            "LPT9.x",
            "com¹",
            "lpt³.json",
            "CONIN$",
            "conout$.txt",
            "a.",
            "a ",
        ] {
            assert!(!is_file(bad) && !is_blob(bad), "{bad:?}");
            assert!(!is_file(&format!("sub/{bad}")), "{bad:?}");
            assert!(!is_file(&format!("{bad}/x.json")), "{bad:?}");
        }
        for good in ["null", "console.json", "com", "com0", "com10", "lpt.x"] {
            assert!(is_file(good) && is_blob(good), "{good}");
        }
    }

    #[test]
    fn a_file_is_below_its_folder() {
        for good in [
            "config.json",
            "sub/model-1.safetensors",
            "a b.json",
            ".gitattributes",
        ] {
            assert!(is_file(good), "{good}");
        }
        for bad in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "../a",
            "a/../../b",
            "a/./b",
            "a\\..\\b",
            "C:a",
            "a\nb",
        ] {
            assert!(!is_file(bad), "{bad:?}");
        }
    }

    #[test]
    fn what_is_shown_has_no_control_characters() {
        assert_eq!(shown("a\u{1b}[31m\n"), "a\\u{1b}[31m\\n");
        assert!(shown(&"x".repeat(10_000)).len() < 300);
    }
}
