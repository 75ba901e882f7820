//! Names that a hub gives, checked before they become paths.

use crate::checkpoint::index::is_plain_file_name;

/// The longest name of a file that every usual file system takes, less a lock's ending.
const MAX_NAME: usize = 200;

/// Whether the text can be the name of a blob: one component, of letters, digits and marks that mean
/// nothing to a file system.
pub(super) fn is_blob(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.+=~".contains(&b);
    (1..=MAX_NAME).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(plain)
}

/// Whether the text is the path of a file below a model's folder: plain names with `/` between.
pub(super) fn is_file(path: &str) -> bool {
    path.len() <= 4 * MAX_NAME
        && path.split('/').all(|name| {
            is_plain_file_name(name)
                && name.len() <= MAX_NAME
                && !name.starts_with("..")
                && !name.chars().any(char::is_control)
        })
}

/// The SHA-256 that a blob's name is, if it is one: those of large files are.
pub(super) fn sha256_of(blob: &str) -> Option<&str> {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (blob.len() == 64 && blob.bytes().all(hex)).then_some(blob)
}

/// A name out of an answer as an error shows it: without control characters, and not too long.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text.escape_debug().take(MAX_NAME).collect();
    if shown.len() >= MAX_NAME {
        shown.push_str("..");
    }
    shown
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
        assert_eq!(sha256_of(&sha256), Some(sha256.as_str()));
        assert_eq!(sha256_of("abc"), None);
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
