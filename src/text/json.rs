//! JSON as Python's `json` reads it, which is what wrote most of a model's files.
//!
//! Python accepts a byte order mark, `NaN`, `Infinity`, `-Infinity` and half of a surrogate pair,
//! none of which are JSON. A file that holds one of them is read all the same: the numbers become
//! the strings `"NaN"`, `"Infinity"` and `"-Infinity"`, so that a field that needs a number is
//! refused by name and every other field is as it was; half a pair becomes U+FFFD.
//!
//! A text of more than 1,048,576 values is refused before it is read: as a tree, a value takes up to 150 bytes however
//! short it is.

use std::borrow::Cow;

use serde::de::{DeserializeOwned, Error};

/// Values of a text that is read.
const MOST_VALUES: usize = 1 << 20;

/// U+FEFF at the start of a text.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Reads JSON as Python does.
///
/// # Errors
///
/// The error of `serde_json` for the unchanged text, where it is no JSON for Python either; more values than any real
/// file has.
pub(crate) fn from_str<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    check_values(text.as_bytes())?;
    match serde_json::from_str(text) {
        Ok(value) => Ok(value),
        Err(error) => match strict(text) {
            Cow::Borrowed(same) if same.len() == text.len() => Err(error),
            strict => serde_json::from_str(&strict).map_err(|_| error),
        },
    }
}

/// [`from_str`] of bytes, which have to be UTF-8.
///
/// # Errors
///
/// As [`from_str`]; bytes that are not UTF-8 are refused as `serde_json` does.
pub(crate) fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    match std::str::from_utf8(bytes) {
        Ok(text) => from_str(text),
        Err(_) => {
            check_values(bytes)?;
            serde_json::from_slice(bytes)
        }
    }
}

/// Refuses a text of more than [`MOST_VALUES`].
fn check_values(json: &[u8]) -> serde_json::Result<()> {
    match values_above(json, MOST_VALUES) {
        None => Ok(()),
        Some(found) => Err(serde_json::Error::custom(format!(
            "expected at most {MOST_VALUES} values, found {found}"
        ))),
    }
}

/// The number of values of a text, where it has more than `most`.
pub(crate) fn values_above(json: &[u8], most: usize) -> Option<usize> {
    // Each takes a byte at least.
    if json.len() <= most {
        return None;
    }
    Some(values(json)).filter(|&found| found > most)
}

/// How many values a text has, by the marks that begin or separate them. The outermost is not counted, and what is empty
/// counts twice.
fn values(json: &[u8]) -> usize {
    let (mut count, mut in_string) = (0, false);
    let mut bytes = json.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            // What is escaped ends no string.
            b'\\' if in_string => {
                bytes.next();
            }
            b'[' | b'{' | b',' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

/// The text with what only Python accepts replaced, and without a byte order mark; borrowed where
/// nothing is replaced.
pub(crate) fn strict(text: &str) -> Cow<'_, str> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let mut out = String::new();
    // Everything before this byte has been copied.
    let mut copied = 0;
    let mut at = 0;
    let bytes = text.as_bytes();
    let mut replace = |from: usize, to: usize, with: &str| {
        out.push_str(&text[copied..from]);
        out.push_str(with);
        copied = to;
    };
    while at < bytes.len() {
        let rest = &bytes[at..];
        if bytes[at] == b'"' {
            at = string(text, at, &mut replace);
        } else if let Some(name) = ["NaN", "-Infinity", "Infinity"]
            .into_iter()
            .find(|name| rest.starts_with(name.as_bytes()))
        {
            replace(at, at + name.len(), &format!("\"{name}\""));
            at += name.len();
        } else {
            at += 1;
        }
    }
    match copied {
        0 => Cow::Borrowed(text),
        _ => {
            out.push_str(&text[copied..]);
            Cow::Owned(out)
        }
    }
}

/// Passes over the string that begins at byte `start` and replaces halves of surrogate pairs in it.
/// Returns the byte behind it.
pub(crate) fn string(
    text: &str,
    start: usize,
    replace: &mut impl FnMut(usize, usize, &str),
) -> usize {
    let bytes = text.as_bytes();
    let unit = |at: usize| -> Option<u16> {
        let escape = bytes.get(at..at + 6)?;
        let digits = std::str::from_utf8(escape.strip_prefix(b"\\u")?).ok()?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => match unit(at) {
                Some(0xd800..=0xdbff) if matches!(unit(at + 6), Some(0xdc00..=0xdfff)) => at += 12,
                Some(0xd800..=0xdfff) => {
                    replace(at, at + 6, "\\ufffd");
                    at += 6;
                }
                _ => at += 2,
            },
            _ => at += 1,
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Expected values are what `json.loads` of CPython 3.11 gives, NaN and the like spelled out.
    #[test]
    fn reads_what_python_reads() {
        let cases = [
            ("\u{feff}{\"a\": 1}", json!({"a": 1})),
            (
                r#"{"a": NaN, "b": [Infinity, -Infinity, -1]}"#,
                json!({"a": "NaN", "b": ["Infinity", "-Infinity", -1]}),
            ),
            (r#"{"NaN": "Infinity NaN"}"#, json!({"NaN": "Infinity NaN"})),
            (
                r#"{"a": "\"NaN\\", "b": NaN}"#,
                json!({"a": "\"NaN\\", "b": "NaN"}),
            ),
            (
                r#"["\ud83d\ude00 \ud83d", 1]"#,
                json!(["\u{1f600} \u{fffd}", 1]),
            ),
            (r#"["\ude00x\ud83d\u0041"]"#, json!(["\u{fffd}x\u{fffd}A"])),
        ];
        for (text, expected) in cases {
            assert_eq!(from_str::<Value>(text).unwrap(), expected, "{text}");
            assert_eq!(from_slice::<Value>(text.as_bytes()).unwrap(), expected);
        }
    }

    #[test]
    fn refuses_what_python_refuses() {
        for text in [
            "",
            "{",
            "nan",
            "[+Infinity]",
            "{\"a\": NaNa}",
            "[1,]",
            "\u{feff}\u{feff}1",
            "[\"\\ud83d",
            "[\"\\ud8",
        ] {
            assert!(from_str::<Value>(text).is_err(), "{text:?}");
        }
        assert!(from_slice::<Value>(b"\"\xff\"").is_err());
    }

    #[test]
    fn values_are_counted_outside_strings() {
        for (text, expected) in [
            ("", 0),
            ("1", 0),
            ("[]", 1),
            ("[1, 2, 3]", 3),
            (r#"{"a": [1, {}], "b": 2}"#, 5),
            (r#"["a, [b", "{\", ,", "\\\\", 1]"#, 4),
            (r#"["\\\",", 1"#, 2),
            ("[\"not ended, [", 1),
            ("\\\"[", 0),
        ] {
            assert_eq!(values(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(values_above(b"[1, 2, 3]", 2), Some(3));
        assert_eq!(values_above(b"[1, 2, 3]", 3), None);
    }

    #[test]
    fn a_text_of_too_many_values_is_refused() {
        let text = |values: usize| format!("[0{}]", ",0".repeat(values - 1));
        assert!(from_str::<Vec<u8>>(&text(MOST_VALUES)).is_ok());
        let mut text = text(MOST_VALUES + 1).into_bytes();
        for json in [text.clone(), {
            text.extend(b"\xff");
            text
        }] {
            let error = from_slice::<Value>(&json).unwrap_err().to_string();
            assert_eq!(error, "expected at most 1048576 values, found 1048577");
        }
    }

    #[test]
    fn ordinary_json_is_not_copied() {
        let text = r#"{"a": "\u00e9 \\ \ud83d\ude00 NaN", "b": [1.5e3, null, true]}"#;
        assert!(matches!(strict(text), Cow::Borrowed(_)));
    }
}
