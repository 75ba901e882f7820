//! Results on disk, a line of JSON for each case.
//!
//! The first line says what all results depend on. A file whose first line says something else is refused. A last
//! line that a killed process left unfinished is cut off; a case that a line holds is not computed again.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{AtPath, CliError};
use crate::escape;
use crate::output;

/// Most bytes of a file of results that is read, and of a line of it.
const MOST_BYTES: u64 = 256 << 20;
const MOST_LINE_BYTES: usize = 4 << 20;

/// Results by case.
#[derive(Debug)]
pub struct Log {
    /// Fields that name a case.
    names: &'static [&'static str],
    /// As they are written: as values they would take many times as much memory.
    rows: HashMap<String, Box<str>>,
    file: Option<(PathBuf, File)>,
}

impl Log {
    /// Opens or makes a file of results; without a path they are kept in memory. `names` are the fields that name a
    /// case.
    pub fn open(
        path: Option<&Path>,
        header: Map<String, Value>,
        names: &'static [&'static str],
    ) -> Result<Self, CliError> {
        let mut log = Self {
            names,
            rows: HashMap::new(),
            file: None,
        };
        if let Some(path) = path {
            log.open_file(path, header).at(path)?;
        }
        Ok(log)
    }

    fn open_file(&mut self, path: &Path, header: Map<String, Value>) -> Result<(), CliError> {
        let shown = escape::path(path);
        let failed =
            |error: std::io::Error| CliError::usage(format!("cannot open {shown}: {error}"));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(CliError::usage(format!(
                "{shown} is no regular file; results are read again when a run goes on"
            )));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(CliError::usage(format!(
                    "another process writes {shown}; wait for it, or give another --out"
                )));
            }
            Err(TryLockError::Error(error)) => {
                tracing::warn!("{shown} cannot be locked: {error}");
            }
        }
        let text = read(path, &mut file, &header)?;
        self.read(path, &text, &header)?;
        file.set_len(text.len() as u64).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        self.file = Some((path.to_owned(), file));
        match text.is_empty() {
            true => self.write(&Value::Object(header).to_string()),
            false => Ok(()),
        }
    }

    /// Reads the lines of a file.
    fn read(
        &mut self,
        path: &Path,
        text: &str,
        header: &Map<String, Value>,
    ) -> Result<(), CliError> {
        let wrong = |number: usize, what: String| {
            CliError::usage(format!(
                "{}: line {number}: {what}; give another --out, or mend the file",
                escape::path(path)
            ))
        };
        let mut lines = (1..).zip(text.lines());
        let long = |(_, line): &(usize, &str)| line.len() > MOST_LINE_BYTES;
        if let Some((number, _)) = lines.clone().find(long) {
            let most = output::bytes(MOST_LINE_BYTES as u64);
            return Err(wrong(number, format!("longer than {most}")));
        }
        let Some((_, first)) = lines.next() else {
            return Ok(());
        };
        let found: Map<String, Value> = serde_json::from_str(first)
            .ok()
            .filter(|found: &Map<String, Value>| found.contains_key("eval"))
            .ok_or_else(|| wrong(1, "expected the settings of an evaluation".into()))?;
        if let Some(difference) = difference(header, &found) {
            return Err(wrong(
                1,
                format!("its results are of other settings: {difference}"),
            ));
        }
        for (number, line) in lines {
            let row: Value = serde_json::from_str(line)
                .map_err(|error| wrong(number, format!("no line of JSON: {error}")))?;
            if !row.is_object() {
                return Err(wrong(number, "expected a JSON object".into()));
            }
            self.rows.insert(self.key(&row), line.into());
        }
        Ok(())
    }

    /// Whether there is a result of a case, whose fields are `case`.
    pub fn holds(&self, case: &Value) -> bool {
        self.rows.contains_key(&self.key(case))
    }

    /// The result of a case, whose fields are `case`.
    pub fn find(&self, case: &Value) -> Option<Value> {
        let row = self.rows.get(&self.key(case))?;
        serde_json::from_str(row).ok()
    }

    /// Adds a result, which has a case's fields.
    pub fn push(&mut self, row: Value) -> Result<(), CliError> {
        let line = row.to_string();
        self.write(&line)?;
        self.rows.insert(self.key(&row), line.into());
        Ok(())
    }

    /// Writes a line in one call, which a full disk may leave unfinished: it is then cut off when the file is next
    /// opened.
    fn write(&mut self, row: &str) -> Result<(), CliError> {
        let Some((path, file)) = &mut self.file else {
            return Ok(());
        };
        file.write_all(format!("{row}\n").as_bytes())
            .map_err(|error| {
                CliError::failed(format!(
                    "cannot write {}: {error}; what it holds is kept",
                    escape::path(path)
                ))
                .at(path.as_path())
            })
    }

    fn key(&self, row: &Value) -> String {
        let fields = self.names.iter().map(|name| row[*name].to_string());
        fields.collect::<Vec<_>>().join(" ")
    }
}

/// The whole lines of a file of results.
///
/// A file without a whole line must be the beginning of one with these settings: what another program wrote is not cut off.
fn read(path: &Path, file: &mut File, header: &Map<String, Value>) -> Result<String, CliError> {
    let shown = escape::path(path);
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| CliError::usage(format!("cannot read {shown}: {error}")))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(CliError::usage(format!(
            "{shown} is larger than {}, which no file of results is",
            output::bytes(MOST_BYTES)
        )));
    }
    // An unfinished last line may end within a character.
    let complete = bytes.iter().rposition(|byte| *byte == b'\n');
    let begun = || Value::Object(header.clone()).to_string();
    if complete.is_none() && !begun().as_bytes().starts_with(&bytes) {
        return Err(CliError::usage(format!(
            "{shown}: line 1: expected the settings of an evaluation; give another --out"
        )));
    }
    bytes.truncate(complete.map_or(0, |end| end + 1));
    String::from_utf8(bytes).map_err(|error| {
        CliError::usage(format!(
            "{shown} is not UTF-8 at byte {}; it is no file of results",
            error.utf8_error().valid_up_to()
        ))
    })
}

/// The first setting that differs.
fn difference(asked: &Map<String, Value>, found: &Map<String, Value>) -> Option<String> {
    let names = asked.keys().chain(found.keys());
    for name in names {
        let [asked, found] = [asked, found].map(|settings| settings.get(name));
        let [asked, found] = [asked, found].map(|value| value.unwrap_or(&Value::Null));
        if asked != found {
            return Some(format!("{name} is {found} there and {asked} here"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NAMES: &[&str] = &["task", "index"];

    fn header(seed: u64) -> Map<String, Value> {
        let Value::Object(header) = json!({ "eval": "test", "seed": seed }) else {
            unreachable!("an object");
        };
        header
    }

    fn case(index: usize) -> Value {
        json!({ "task": "a", "index": index })
    }

    fn row(index: usize, score: f64) -> Value {
        json!({ "task": "a", "index": index, "score": score })
    }

    #[test]
    fn a_run_goes_on_after_an_unfinished_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        let mut log = Log::open(Some(&path), header(1), NAMES).unwrap();
        log.push(row(0, 0.5)).unwrap();
        log.push(row(1, 1.0)).unwrap();
        drop(log);
        let whole = std::fs::read(&path).unwrap();
        // However the last line was cut, the one before it is kept and the file ends with it.
        let ends: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] == b'\n').collect();
        for end in ends[1] + 1..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            let mut log = Log::open(Some(&path), header(1), NAMES).unwrap();
            assert_eq!(log.find(&case(0)).unwrap()["score"], 0.5);
            assert!(log.find(&case(1)).is_none());
            log.push(row(1, 1.0)).unwrap();
            drop(log);
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
        // A header that was cut is written anew.
        for end in 0..ends[0] {
            std::fs::write(&path, &whole[..end]).unwrap();
            drop(Log::open(Some(&path), header(1), NAMES).unwrap());
            assert_eq!(std::fs::read(&path).unwrap(), whole[..=ends[0]]);
        }
    }

    #[test]
    fn other_settings_and_other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        drop(Log::open(Some(&path), header(1), NAMES).unwrap());
        let error = Log::open(Some(&path), header(2), NAMES)
            .unwrap_err()
            .to_string();
        assert!(error.contains("seed is 1 there and 2 here"), "{error}");
        let long = format!("{}\n", " ".repeat(MOST_LINE_BYTES + 1));
        for (content, expected) in [
            ("notes\n", "line 1"),
            ("{\"a\":1}\n", "line 1"),
            ("\u{fffd}\n", "line 1"),
            ("{\"eval\":\"test\",\"seed\":1}\nnotes\n", "line 2"),
            ("{\"eval\":\"test\",\"seed\":1}\n3\n", "line 2"),
            (long.as_str(), "line 1: longer than 4 MiB"),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = Log::open(Some(&path), header(1), NAMES)
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{content}: {error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        std::fs::write(&path, b"\xff\xfe\n").unwrap();
        let error = Log::open(Some(&path), header(1), NAMES)
            .unwrap_err()
            .to_string();
        assert!(error.contains("not UTF-8"), "{error}");
    }

    #[test]
    fn a_file_has_one_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        let first = Log::open(Some(&path), header(1), NAMES).unwrap();
        let error = Log::open(Some(&path), header(1), NAMES)
            .unwrap_err()
            .to_string();
        assert!(error.contains("another process"), "{error}");
        drop(first);
        Log::open(Some(&path), header(1), NAMES).unwrap();
    }
}
