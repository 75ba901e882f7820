//! The JSON objects of a file, one at a time: one a line, or in one array.

use std::io::{self, BufRead, Read};

use serde::de::DeserializeOwned;

use super::error::{Place, PublishedError};

/// The most bytes of an object, several times those of a novel.
const LONGEST: usize = 64 << 20;

/// The text of an object.
#[derive(Debug)]
pub(in crate::tasks) struct Record {
    pub(in crate::tasks) place: Place,
    text: String,
}

/// Reads the objects of a file.
pub(in crate::tasks) struct Records<R> {
    reader: R,
    longest: usize,
    /// The line of the next byte, and the number of the next object.
    place: Place,
    layout: Layout,
}

/// How the rest of a file is laid out.
#[derive(Clone, Copy)]
enum Layout {
    /// Its first byte is not yet read.
    Unknown,
    Lines,
    /// In an array, after an object.
    Array,
    Ended,
}

impl<R: BufRead> Records<R> {
    pub(in crate::tasks) fn new(reader: R) -> Self {
        Self::with_longest(reader, LONGEST)
    }

    /// With another number of bytes that an object may have.
    pub(super) fn with_longest(reader: R, longest: usize) -> Self {
        Self {
            reader,
            longest,
            place: Place { line: 1, sample: 0 },
            layout: Layout::Unknown,
        }
    }

    /// Makes something of each object, and ends after the first error.
    pub(in crate::tasks) fn samples<T>(
        mut self,
        make: impl Fn(Record) -> Result<T, PublishedError>,
    ) -> impl Iterator<Item = Result<T, PublishedError>> {
        std::iter::from_fn(move || {
            // Stays so after an error.
            let layout = std::mem::replace(&mut self.layout, Layout::Ended);
            let made = self.next(layout).and_then(|read| {
                let Some((layout, record)) = read else {
                    return Ok(None);
                };
                let made = make(record)?;
                self.place.sample += 1;
                self.layout = layout;
                Ok(Some(made))
            });
            made.transpose()
        })
    }

    /// The next object, and the layout of what follows it.
    fn next(&mut self, layout: Layout) -> Result<Option<(Layout, Record)>, PublishedError> {
        let (layout, record) = match layout {
            Layout::Ended => return Ok(None),
            Layout::Lines => (Layout::Lines, self.line()?),
            Layout::Array => (Layout::Array, self.item()?),
            Layout::Unknown => match self.peek()? {
                None => return Err(PublishedError::Empty),
                Some(b'[') => {
                    self.reader.consume(1);
                    if self.peek()? == Some(b']') {
                        return Err(PublishedError::Empty);
                    }
                    (Layout::Array, Some(self.object()?))
                }
                Some(_) => (Layout::Lines, self.line()?),
            },
        };
        Ok(record.map(|record| (layout, record)))
    }

    /// The next line that is not empty.
    fn line(&mut self) -> Result<Option<Record>, PublishedError> {
        loop {
            let mut bytes = Vec::new();
            let most = u64::try_from(self.longest).unwrap_or(u64::MAX);
            let mut limited = self.reader.by_ref().take(most.saturating_add(1));
            if let Err(source) = limited.read_until(b'\n', &mut bytes) {
                return Err(self.unreadable(source));
            }
            if bytes.is_empty() {
                return Ok(None);
            }
            let place = self.place;
            match bytes.last() {
                Some(b'\n') => {
                    bytes.pop();
                    self.place.line += 1;
                }
                _ if bytes.len() > self.longest => return Err(self.too_long(place)),
                _ => {}
            }
            if !bytes.trim_ascii().is_empty() {
                return Record::new(place, bytes).map(Some);
            }
        }
    }

    /// The next object of an array, after the first.
    fn item(&mut self) -> Result<Option<Record>, PublishedError> {
        let next = self.peek()?;
        match next {
            Some(b',') => {
                self.reader.consume(1);
                self.peek()?;
                self.object().map(Some)
            }
            Some(b']') => {
                self.reader.consume(1);
                match self.peek()? {
                    None => Ok(None),
                    after => Err(self.unexpected("the end of the file after the array", after)),
                }
            }
            _ => Err(self.unexpected("a comma or the end of the array", next)),
        }
    }

    /// An object of an array. Only its braces, brackets and strings are looked at, to find its end.
    fn object(&mut self) -> Result<Record, PublishedError> {
        let place = self.place;
        match self.peek()? {
            Some(b'{') => {}
            other => return Err(self.unexpected("an object", other)),
        }
        let mut bytes = Vec::new();
        let mut end = End::default();
        loop {
            let buffer = self.fill()?;
            if buffer.is_empty() {
                return Err(self.unexpected("the rest of the object", None));
            }
            let found = buffer.iter().position(|&byte| end.is_after(byte));
            let read = buffer.get(..found.map_or(buffer.len(), |last| last + 1));
            let read = read.unwrap_or_default();
            bytes.extend_from_slice(read);
            let (length, lines) = (read.len(), lines(read));
            self.reader.consume(length);
            self.place.line += lines;
            if bytes.len() > self.longest {
                return Err(self.too_long(place));
            }
            if found.is_some() {
                return Record::new(place, bytes);
            }
        }
    }

    /// The next byte that is not white space, which is left in the reader.
    fn peek(&mut self) -> Result<Option<u8>, PublishedError> {
        loop {
            let buffer = self.fill()?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let white = buffer.len() - buffer.trim_ascii_start().len();
            let next = buffer.get(white).copied();
            let lines = lines(buffer.get(..white).unwrap_or_default());
            self.reader.consume(white);
            self.place.line += lines;
            if next.is_some() {
                return Ok(next);
            }
        }
    }

    fn fill(&mut self) -> Result<&[u8], PublishedError> {
        loop {
            match self.reader.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.unreadable(source)),
            }
        }
        // What is buffered, without reading again.
        let place = self.place;
        self.reader
            .fill_buf()
            .map_err(|source| PublishedError::Read { place, source })
    }

    fn unreadable(&self, source: io::Error) -> PublishedError {
        PublishedError::Read {
            place: self.place,
            source,
        }
    }

    fn too_long(&self, place: Place) -> PublishedError {
        PublishedError::TooLong {
            place,
            limit: self.longest,
        }
    }

    fn unexpected(&self, expected: &'static str, found: Option<u8>) -> PublishedError {
        PublishedError::Structure {
            place: self.place,
            expected,
            found: match found {
                Some(byte) => format!("{:?}", char::from(byte)),
                None => "the end of the file".into(),
            },
        }
    }
}

impl Record {
    fn new(place: Place, bytes: Vec<u8>) -> Result<Self, PublishedError> {
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { place, text }),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let before = error.as_bytes().get(..valid).unwrap_or_default();
                let line = place.line + lines(before);
                let place = Place { line, ..place };
                Err(PublishedError::Utf8 { place, valid })
            }
        }
    }

    /// The fields. Those that `T` has not are ignored.
    pub(in crate::tasks) fn fields<T: DeserializeOwned>(self) -> Result<T, PublishedError> {
        let Self { place, text } = self;
        if !text.trim_start().starts_with('{') {
            return Err(PublishedError::Structure {
                place,
                expected: "an object",
                found: format!("{:?}", text.trim_start().chars().next().unwrap_or_default()),
            });
        }
        serde_json::from_str(&text).map_err(|error| {
            let message = error.to_string();
            let found = message.rsplit_once(" at line ").map(|(found, _)| found);
            PublishedError::Json {
                place: Place {
                    line: place.line + error.line().saturating_sub(1),
                    ..place
                },
                column: error.column(),
                found: found.unwrap_or(&message).into(),
            }
        })
    }
}

/// Finds the end of an object.
#[derive(Default)]
struct End {
    depth: usize,
    in_text: bool,
    escaped: bool,
}

impl End {
    /// Whether the object ends with this byte, the next one.
    fn is_after(&mut self, byte: u8) -> bool {
        if self.in_text {
            self.in_text = self.escaped || byte != b'"';
            self.escaped = !self.escaped && byte == b'\\';
            return false;
        }
        match byte {
            b'"' => self.in_text = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

/// The line ends of some bytes.
fn lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}
