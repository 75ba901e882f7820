//! A file of samples, of which only the positions are held in memory.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::error::DataError;
use super::formats;
use super::report::{DataReport, MAX_PROBLEMS, Problem, ProblemKind};
use super::scan::{Content, Entry, scan};
use crate::tasks::TextSample;

/// The most bytes of a line, or of an element of an array: some 16 million tokens. One line at a time is
/// in memory.
pub(crate) const MAX_LINE_BYTES: usize = 64 << 20;

/// A file with one sample a line, or one JSON array of samples. Its texts stay on disk.
///
/// The objects may have any of these forms, also mixed; other keys are ignored:
///
/// | keys | document, question and answer |
/// |---|---|
/// | `document` or `context`, `question` or `query`, `answer` | their values; of a list of answers the first |
/// | `messages`, as in [LongAlign](https://arxiv.org/abs/2401.18058) | the last answered user message is split by its paragraphs, the assistant's is the answer |
/// | `instruction`, `output`, as in [LongAlpaca](https://arxiv.org/abs/2309.12307) | the instruction is split at "The paper begins." and "Now the paper ends.", or by its paragraphs; where there is an `input`, it is the document |
///
/// In a text with both, the question is the last paragraph; where that is longer than
/// 600 characters, the first; where that is too, the last line, then
/// the first line. The rest is the document, and must have
/// 200 characters.
///
/// Blank lines, Windows line ends and a byte order mark are accepted. A file whose first
/// visible characters are `[` and `{` is one array.
#[derive(Debug, Clone)]
pub struct SampleFile {
    path: PathBuf,
    places: Vec<Place>,
    report: DataReport,
}

/// The position of a sample.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    length: usize,
    line: usize,
}

impl SampleFile {
    /// Reads the file once and checks every line. With `strict`, a line that is not a sample is an
    /// error; without, such lines are skipped, and [`Self::report`] lists them.
    ///
    /// # Errors
    ///
    /// [`DataError::Read`], [`DataError::NotAFile`], [`DataError::Refused`] with `strict`, and
    /// [`DataError::Empty`] for a file without a single sample.
    pub fn open(path: impl AsRef<Path>, strict: bool) -> Result<Self, DataError> {
        Self::open_with_limit(path.as_ref(), strict, MAX_LINE_BYTES)
    }

    fn open_with_limit(path: &Path, strict: bool, limit: usize) -> Result<Self, DataError> {
        let read = |source| DataError::Read {
            path: path.into(),
            source,
        };
        // Before opening, because opening a pipe waits for a writer.
        let kind = std::fs::metadata(path).map_err(read)?;
        if !kind.is_file() {
            return Err(DataError::NotAFile {
                path: path.into(),
                found: if kind.is_dir() {
                    "a folder"
                } else {
                    "a pipe or a device"
                },
            });
        }
        let mut places = Vec::new();
        let mut report = DataReport::default();
        let input = BufReader::with_capacity(1 << 16, File::open(path).map_err(read)?);
        let scanned = scan(input, limit, |entry| match check(&entry, limit) {
            Ok(place) => places.push(place),
            Err(what) => {
                report.skipped += 1;
                if report.problems.len() < MAX_PROBLEMS {
                    let line = entry.line;
                    report.problems.push(Problem { line, what });
                }
            }
        });
        report.lines = scanned.map_err(read)?;
        let path = path.to_path_buf();
        let first = report.problems.first().cloned();
        if let Some(problem) = first.clone().filter(|_| strict) {
            return Err(DataError::Refused { path, problem });
        }
        report.samples = places.len();
        if places.is_empty() {
            return Err(DataError::Empty {
                path,
                skipped: report.skipped,
                first,
            });
        }
        Ok(Self {
            path,
            places,
            report,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The contents of the file.
    pub fn report(&self) -> &DataReport {
        &self.report
    }

    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none; an opened file has at least one.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The line of a sample, from one; zero for an index beyond the last.
    pub fn line(&self, index: usize) -> usize {
        self.places.get(index).map_or(0, |place| place.line)
    }

    /// Reads a sample, `index` from zero.
    ///
    /// # Errors
    ///
    /// [`DataError::NoSuchSample`], [`DataError::Read`], and [`DataError::Changed`] where the
    /// file has changed since.
    pub fn get(&self, index: usize) -> Result<TextSample, DataError> {
        let place = self.places.get(index).ok_or(DataError::NoSuchSample {
            index,
            samples: self.places.len(),
        })?;
        let bytes = self.read(place).map_err(|source| DataError::Read {
            path: self.path.clone(),
            source,
        })?;
        formats::parse(&bytes).map_err(|found| DataError::Changed {
            path: self.path.clone(),
            line: place.line,
            found,
        })
    }

    /// The bytes at a position, fewer where the file has become shorter.
    fn read(&self, place: &Place) -> io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(place.offset))?;
        let mut bytes = Vec::with_capacity(place.length);
        file.take(place.length as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// The position of an entry that is a sample.
fn check(entry: &Entry<'_>, limit: usize) -> Result<Place, ProblemKind> {
    match entry.content {
        Content::Bytes(bytes) => formats::parse(bytes).map(|_| Place {
            offset: entry.offset,
            length: bytes.len(),
            line: entry.line,
        }),
        Content::TooLong => Err(ProblemKind::TooLong { limit }),
        Content::Unfinished => Err(ProblemKind::Unfinished),
        Content::AfterArray => Err(ProblemKind::AfterArray),
    }
}

#[cfg(test)]
mod tests;
