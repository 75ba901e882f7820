//! The lines of a file, or the elements of its array, in one pass and with memory for one of them.

use std::io::{self, BufRead, Read, Seek, SeekFrom};

/// One line or element.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    /// Its first byte in the file.
    pub(super) offset: u64,
    /// The line it starts on, from one.
    pub(super) line: usize,
    /// Its content.
    pub(super) content: Content<'a>,
}

/// The content of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content<'a> {
    /// The bytes, without white space around them; never empty.
    Bytes(&'a [u8]),
    /// More bytes than are kept.
    TooLong,
    /// The file ends before the array does.
    Unfinished,
    /// The array ends before the file does.
    AfterArray,
}

/// Written before a text by some programs.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Calls `visit` with the entries of `input`, in order, and returns the number of lines. The bytes of
/// entries of more than `limit` bytes are not kept. The input is an array if its first two visible
/// characters are `[` and `{`, and lines otherwise: no line that is a sample begins so.
pub(super) fn scan(
    mut input: impl BufRead + Seek,
    limit: usize,
    visit: impl FnMut(Entry<'_>),
) -> io::Result<usize> {
    let mut start = Vec::new();
    (&mut input)
        .take(BYTE_ORDER_MARK.len() as u64)
        .read_to_end(&mut start)?;
    let offset = match start == BYTE_ORDER_MARK {
        true => start.len() as u64,
        false => 0,
    };
    input.seek(SeekFrom::Start(offset))?;
    let is_array = begins_array(&mut input)?;
    input.seek(SeekFrom::Start(offset))?;

    let mut scanner = Scanner {
        visit,
        limit,
        held: Vec::new(),
        length: 0,
        offset,
        line: 1,
    };
    match is_array {
        true => scanner.array(input, offset),
        false => scanner.lines(input, offset),
    }
}

fn begins_array(input: &mut impl BufRead) -> io::Result<bool> {
    let mut visible: Vec<u8> = Vec::new();
    while visible.len() < 2 {
        let chunk = input.fill_buf()?;
        if chunk.is_empty() {
            break;
        }
        let found = chunk.iter().filter(|byte| !byte.is_ascii_whitespace());
        visible.extend(found.take(2 - visible.len()));
        let read = chunk.len();
        input.consume(read);
    }
    Ok(visible == b"[{")
}

/// The state of the parser of an array: where the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the opening bracket.
    Before,
    /// Between elements.
    Between,
    /// In an element, within `depth` of its brackets.
    Element { depth: u64 },
    /// In a string of an element.
    Text { depth: u64 },
    /// In a string, after a backslash.
    Escaped { depth: u64 },
    /// After the closing bracket.
    After,
    /// In text after the array.
    Beyond,
}

struct Scanner<F> {
    visit: F,
    limit: usize,
    /// The entry's bytes, up to the limit.
    held: Vec<u8>,
    /// The length of the entry.
    length: u64,
    /// Where the entry starts.
    offset: u64,
    /// The line it starts on.
    line: usize,
}

impl<F: FnMut(Entry<'_>)> Scanner<F> {
    fn lines(&mut self, mut input: impl BufRead, mut offset: u64) -> io::Result<usize> {
        loop {
            let chunk = input.fill_buf()?;
            if chunk.is_empty() {
                // Text after the last line end is a line.
                let last = usize::from(self.length > 0);
                self.end();
                return Ok(self.line - 1 + last);
            }
            let (part, ends) = match chunk.iter().position(|&byte| byte == b'\n') {
                Some(end) => (&chunk[..end], true),
                None => (chunk, false),
            };
            self.push(part);
            let read = part.len() + usize::from(ends);
            input.consume(read);
            offset += read as u64;
            if ends {
                self.end();
                self.offset = offset;
                self.line += 1;
            }
        }
    }

    fn array(&mut self, mut input: impl BufRead, mut offset: u64) -> io::Result<usize> {
        let (mut place, mut line, mut last) = (Place::Before, 1, b'\n');
        loop {
            let chunk = input.fill_buf()?;
            if chunk.is_empty() {
                break;
            }
            for &byte in chunk {
                place = self.byte(place, byte, offset, line);
                offset += 1;
                line += usize::from(byte == b'\n');
                last = byte;
            }
            let read = chunk.len();
            input.consume(read);
        }
        if !matches!(place, Place::After | Place::Beyond) {
            let line = if matches!(place, Place::Between) {
                line
            } else {
                self.line
            };
            self.give(offset, line, Content::Unfinished);
        }
        Ok(line - usize::from(last == b'\n'))
    }

    /// Reads one byte of an array and returns the place of the next.
    fn byte(&mut self, place: Place, byte: u8, offset: u64, line: usize) -> Place {
        if let Place::Element { depth: 0 } = place
            && matches!(byte, b',' | b']')
        {
            self.end();
            return self.byte(Place::Between, byte, offset, line);
        }
        let next = match (place, byte) {
            (Place::Before, b'[') => return Place::Between,
            (Place::Before | Place::Beyond, _) => return place,
            (Place::Between, b']') => return Place::After,
            (Place::Between, b',') => return place,
            (Place::Between | Place::After, byte) if byte.is_ascii_whitespace() => {
                return place;
            }
            (Place::After, _) => {
                self.give(offset, line, Content::AfterArray);
                return Place::Beyond;
            }
            (Place::Between, byte) => {
                (self.offset, self.line) = (offset, line);
                match byte {
                    b'{' | b'[' => Place::Element { depth: 1 },
                    b'"' => Place::Text { depth: 0 },
                    _ => Place::Element { depth: 0 },
                }
            }
            (Place::Element { depth }, b'{' | b'[') => Place::Element { depth: depth + 1 },
            (Place::Element { depth }, b'}' | b']') => Place::Element {
                depth: depth.saturating_sub(1),
            },
            (Place::Element { depth }, b'"') => Place::Text { depth },
            (Place::Text { depth }, b'"') => Place::Element { depth },
            (Place::Text { depth }, b'\\') => Place::Escaped { depth },
            (Place::Escaped { depth }, _) => Place::Text { depth },
            (place, _) => place,
        };
        self.push(&[byte]);
        next
    }

    fn push(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        if self.length <= self.limit as u64 {
            self.held.extend_from_slice(bytes);
        }
    }

    /// Ends the entry and begins another.
    fn end(&mut self) {
        let held = std::mem::take(&mut self.held);
        let before = held.len() - held.trim_ascii_start().len();
        let start = self.offset + before as u64;
        match held.trim_ascii() {
            _ if self.length > self.limit as u64 => {
                self.give(self.offset, self.line, Content::TooLong);
            }
            [] => {}
            bytes => self.give(start, self.line, Content::Bytes(bytes)),
        }
        self.held = held;
        self.held.clear();
        self.length = 0;
    }

    fn give(&mut self, offset: u64, line: usize, content: Content<'_>) {
        (self.visit)(Entry {
            offset,
            line,
            content,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Cursor};

    /// The entries as texts, with offset and line, and the number of lines.
    fn scanned(text: &str, limit: usize) -> (Vec<(u64, usize, String)>, usize) {
        let mut results = Vec::new();
        // Buffers of one byte and of many must give the same.
        for capacity in [1, 3, 4096] {
            let mut found = Vec::new();
            let input = BufReader::with_capacity(capacity, Cursor::new(text));
            let lines = scan(input, limit, |entry| {
                let shown = match entry.content {
                    Content::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                    other => format!("{other:?}"),
                };
                found.push((entry.offset, entry.line, shown));
            });
            results.push((found, lines.unwrap()));
        }
        assert!(results.iter().all(|result| *result == results[0]), "{text}");
        results.swap_remove(0)
    }

    fn entries(found: &[(u64, usize, &str)]) -> Vec<(u64, usize, String)> {
        let owned = found
            .iter()
            .map(|&(offset, line, text)| (offset, line, text.into()));
        owned.collect()
    }

    #[test]
    fn lines_with_their_places() {
        let found = scanned("a\r\n\n  b c \n\td", 100);
        assert_eq!(
            found,
            (entries(&[(0, 1, "a"), (6, 3, "b c"), (12, 4, "d")]), 4)
        );
        assert_eq!(scanned("\u{feff}a\n", 100), (entries(&[(3, 1, "a")]), 1));
        assert_eq!(
            scanned("12345\n1234\n123456", 5).0[2],
            (11, 3, "TooLong".into())
        );
        for (text, lines) in [("", 0), ("\n", 1), (" \n\n ", 3), ("\u{feff}", 0)] {
            assert_eq!(scanned(text, 100), (vec![], lines), "{text:?}");
        }
        assert_eq!(scanned("[1]\n[\"{\"]", 100).0.len(), 2);
    }

    #[test]
    fn elements_with_their_places() {
        let text = "\u{feff}\n[\n {\"a\": \"]},\\\"\"} ,\n{\"b\":\n[{}]}, 7 ,\"x]\",]\n\n";
        let expected = [
            (7, 3, "{\"a\": \"]},\\\"\"}"),
            (24, 4, "{\"b\":\n[{}]}"),
            (37, 5, "7"),
            (40, 5, "\"x]\""),
        ];
        assert_eq!(scanned(text, 100), (entries(&expected), 6));
        let found = scanned("[{\"a\": 1}, {\"aa\": 1}]", 8);
        let expected = entries(&[(1, 1, "{\"a\": 1}"), (11, 1, "TooLong")]);
        assert_eq!(found, (expected, 1));
    }

    #[test]
    fn arrays_that_do_not_end_where_the_file_does() {
        for text in ["[{", "[{}", "[{},", "[{\"a\": \"", "[{\"a\\"] {
            let found = scanned(text, 100).0;
            assert_eq!(found.last().unwrap().2, "Unfinished", "{text}");
        }
        let expected = entries(&[(1, 1, "{}"), (5, 2, "AfterArray")]);
        assert_eq!(scanned("[{}]\n[{}] x", 100).0, expected);
    }
}
