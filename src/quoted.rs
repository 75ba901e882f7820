//! Texts from files and paths in messages: on one line, and texts not too long.

use std::fmt::{self, Write};
use std::path::Path;

/// Characters of a text that a message shows.
const SHOWN: usize = 200;

/// A text from a file as a message shows it, by `Display` as it is and by `Debug` in quotes. Control characters, ends of
/// lines and marks that turn the direction of text are escaped; of a text of more than 200 characters the rest is left
/// out, which two dots say.
#[derive(Clone, Copy)]
pub(crate) struct Quoted<'a>(pub &'a str);

impl<'a> Quoted<'a> {
    /// What is shown, and what stands for the rest.
    fn cut(self) -> (&'a str, &'static str) {
        match self.0.char_indices().nth(SHOWN) {
            Some((end, _)) => (&self.0[..end], ".."),
            None => (self.0, ""),
        }
    }
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, rest) = self.cut();
        write_plain(shown, f)?;
        f.write_str(rest)
    }
}

impl fmt::Debug for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, rest) = self.cut();
        write!(f, "{shown:?}{rest}")
    }
}

/// Paths in messages.
pub(crate) trait QuotePath {
    /// The path as a message shows it: escaped as in [`Quoted`], and whole.
    fn quoted(&self) -> QuotedPath<'_>;
}

impl QuotePath for Path {
    fn quoted(&self) -> QuotedPath<'_> {
        QuotedPath(self)
    }
}

/// What [`QuotePath::quoted`] displays.
pub(crate) struct QuotedPath<'a>(&'a Path);

impl fmt::Display for QuotedPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_plain(&self.0.to_string_lossy(), f)
    }
}

fn write_plain(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for character in text.chars() {
        match is_plain(character) {
            true => f.write_char(character)?,
            false => write!(f, "{}", character.escape_default())?,
        }
    }
    Ok(())
}

/// What a value displays, at most `most` characters of it and escaped as in [`Quoted`]. Of a longer one no more text is
/// made, which three dots say.
pub(crate) fn cut(value: &dyn fmt::Display, most: usize) -> String {
    let mut start = Start {
        text: String::new(),
        left: most,
    };
    match write!(start, "{value}") {
        Ok(()) => start.text,
        Err(fmt::Error) => start.text + "...",
    }
}

/// A value as `Debug` shows it, cut as by [`cut`].
pub(crate) fn brief(value: &dyn fmt::Debug) -> String {
    cut(&format_args!("{value:?}"), SHOWN)
}

/// The first characters of what is written.
struct Start {
    text: String,
    left: usize,
}

impl Write for Start {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
            match is_plain(character) {
                true => self.text.push(character),
                false => self.text.extend(character.escape_default()),
            }
        }
        Ok(())
    }
}

/// Whether a character neither ends a line nor changes how those around it are shown.
fn is_plain(character: char) -> bool {
    !(character.is_control()
        || matches!(
            character,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_are_as_they_are() {
        for name in [
            "",
            "model.layers.0.mlp.weight",
            "ein Gerät",
            "\\ and \"quotes\"",
        ] {
            assert_eq!(Quoted(name).to_string(), name);
            assert_eq!(format!("{:?}", Quoted(name)), format!("{name:?}"));
        }
    }

    #[test]
    fn a_long_value_is_not_written_to_its_end() {
        struct Endless;
        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("é")?;
                }
            }
        }
        assert_eq!(cut(&Endless, 3), "ééé...");
        assert_eq!(cut(&"abc", 3), "abc");
        assert_eq!(cut(&"abcd", 3), "abc...");
        assert_eq!(cut(&[1, 2, 3].len(), 1), "3");
        assert_eq!(brief(&[1, 2, 3]), "[1, 2, 3]");
        assert_eq!(brief(&[0; SHOWN]).len(), SHOWN + 3);
        assert_eq!(cut(&"a\nb", 9), "a\\nb");
    }

    #[test]
    fn a_message_stays_one_line_and_short() {
        let shown = Quoted("a\nerror: b\r\u{1b}[2J\u{202e}c\u{2067}").to_string();
        assert_eq!(shown, "a\\nerror: b\\r\\u{1b}[2J\\u{202e}c\\u{2067}");
        let (longest, longer) = ("é".repeat(SHOWN), "é".repeat(SHOWN + 1));
        assert_eq!(Quoted(&longest).to_string(), longest);
        assert_eq!(Quoted(&longer).to_string(), format!("{longest}.."));
        assert_eq!(format!("{:?}", Quoted(&longer)), format!("\"{longest}\".."));
    }

    #[test]
    fn a_path_stays_on_its_line_and_whole() {
        let path = format!("{}/a b\nwarning: \u{2066}c", "é".repeat(SHOWN));
        let shown = Path::new(&path).quoted().to_string();
        let expected = path.replace('\n', "\\n").replace('\u{2066}', "\\u{2066}");
        assert_eq!(shown, expected);
    }
}
