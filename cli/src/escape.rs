//! Text of files, of the hub and of the command line, as it is shown: without what a terminal would obey.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::Path;

/// Whether a terminal takes the character as a command, or shows what follows it in another order.
fn commands(char: char) -> bool {
    match char {
        '\n' | '\t' => false,
        // Marks and embeddings of the bidirectional algorithm; separators of lines and paragraphs.
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        '\u{061c}' | '\u{2028}' | '\u{2029}' => true,
        _ => char.is_control(),
    }
}

/// The text with such characters as `\u{1b}`. Line ends and tabs stay.
pub fn shown(text: &str) -> Cow<'_, str> {
    if !text.contains(commands) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        match commands(char) {
            true => shown.extend(char.escape_unicode()),
            false => shown.push(char),
        }
    }
    Cow::Owned(shown)
}

/// The text on one line: with ends of lines and tabs escaped, too.
pub fn line(text: &str) -> String {
    let escape = |char: char| match commands(char) || matches!(char, '\n' | '\t') {
        true => char.escape_default().to_string(),
        false => char.into(),
    };
    text.chars().map(escape).collect()
}

/// A path on one line.
pub fn path(path: &Path) -> String {
    line(&path.to_string_lossy())
}

/// A JSON text with such characters as `\u009b`, which stand in its strings alone. It stays the same JSON.
pub fn json(text: &str) -> Cow<'_, str> {
    if !text.contains(commands) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        match commands(char) {
            // All of them lie below U+10000, so that one escape is enough.
            true => shown.push_str(&format!("\\u{:04x}", u32::from(char))),
            false => shown.push(char),
        }
    }
    Cow::Owned(shown)
}

/// Shows what is written to it, a piece of valid UTF-8 at a time.
pub struct Shown<W: Write> {
    inner: W,
    /// The beginning of a character whose end is still to come.
    rest: Vec<u8>,
}

impl<W: Write> Shown<W> {
    /// Writes to `inner`.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            rest: Vec::new(),
        }
    }
}

impl<W: Write> Write for Shown<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.rest.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.rest);
        let mut text = String::with_capacity(pending.len());
        let mut chunks = pending.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(&shown(chunk.valid()));
            let invalid = chunk.invalid();
            let unfinished = std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
            if chunks.peek().is_none() && unfinished {
                self.rest = invalid.to_vec();
            } else if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.inner.write_all(text.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        let cases = [
            ("plain text, tab\tand line\n", "plain text, tab\tand line\n"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("a\rb\u{8}", "a\\u{d}b\\u{8}"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
            ("x\u{202e}y\u{2066}", "x\\u{202e}y\\u{2066}"),
            ("größer 字 😀", "größer 字 😀"),
        ];
        for (text, expected) in cases {
            assert_eq!(shown(text), expected);
        }
        assert!(matches!(shown("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_line_stays_one() {
        let cases = [
            ("größer 字/a b.txt", "größer 字/a b.txt"),
            ("a\nerror: b\tc\r", "a\\nerror: b\\tc\\r"),
            ("x\u{202e}\u{2028}", "x\\u{202e}\\u{2028}"),
        ];
        for (text, expected) in cases {
            assert_eq!(line(text), expected);
            assert_eq!(path(Path::new(text)), expected);
        }
    }

    #[test]
    fn json_stays_the_same_value() {
        let value = serde_json::json!({ "a\u{9b}": "\u{1b}[2J\u{7f}\u{202e}\u{2028} 字" });
        let text = value.to_string();
        let escaped = json(&text);
        assert!(!escaped.contains(commands), "{escaped}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&escaped).unwrap(),
            value
        );
    }

    #[test]
    fn characters_may_come_in_pieces() {
        let text = "字\u{1b}x\u{9b}é";
        for size in 1..5 {
            let mut out = Vec::new();
            let mut writer = Shown::new(&mut out);
            for piece in text.as_bytes().chunks(size) {
                writer.write_all(piece).unwrap();
            }
            assert_eq!(String::from_utf8(out).unwrap(), "字\\u{1b}x\\u{9b}é");
        }
        let mut out = Vec::new();
        Shown::new(&mut out).write_all(b"a\xffb").unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a\u{fffd}b");
    }
}
