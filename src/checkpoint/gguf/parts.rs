//! Models that are split over several GGUF files, and the one model that a folder holds.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::error::GgufError;
use super::header::GgufHeader;
use super::metadata::{Metadata, missing};
use crate::checkpoint::error::WeightsError;
use crate::checkpoint::listing::name_of;
use crate::checkpoint::mapped::MappedFile;
use crate::quoted::brief;

/// The name of a part of a split model, such as `model-00001-of-00003.gguf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PartName<'a> {
    prefix: &'a str,
    /// From 1 on.
    number: u32,
    count: u32,
}

impl<'a> PartName<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        /// Digits of each number.
        const DIGITS: usize = 5;
        let stem = name.strip_suffix(".gguf")?;
        let digits = |text: &str| match text.len() == DIGITS {
            true if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        };
        let (stem, count) = stem.rsplit_once("-of-")?;
        let (prefix, number) = stem.rsplit_once('-')?;
        Some(Self {
            prefix,
            number: digits(number)?,
            count: digits(count)?,
        })
    }

    fn file_name(prefix: &str, number: u32, count: u32) -> String {
        format!("{prefix}-{number:05}-of-{count:05}.gguf")
    }
}

/// The one GGUF model in a folder: the file, or the first file of the parts. `None` if there is no
/// GGUF file.
///
/// Projectors of images and sound (`mmproj*.gguf`) are no models of their own and skipped.
///
/// # Errors
///
/// [`WeightsError::SeveralGguf`] with the names when there is more than one model;
/// [`WeightsError::Open`] when the folder cannot be listed.
pub fn find(folder: &Path) -> Result<Option<PathBuf>, WeightsError> {
    let failed = |source| WeightsError::Open {
        path: folder.into(),
        source,
    };
    // The first file of each model by what its parts have in common.
    let mut models: BTreeMap<(String, u32), String> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // A name that is not Unicode cannot be one of several parts, but may be the only file.
        let name = entry.file_name().to_string_lossy().into_owned();
        let gguf = Path::new(&name)
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
        if !gguf || name.starts_with("mmproj") || !entry.path().is_file() {
            continue;
        }
        let key = match PartName::parse(&name) {
            Some(part) if part.count > 1 => (part.prefix.to_string(), part.count),
            _ => (name.clone(), 0),
        };
        let first = models.entry(key).or_insert_with(|| name.clone());
        if name < *first {
            *first = name;
        }
    }
    let mut names = models.into_values();
    match (names.next(), names.next()) {
        (None, _) => Ok(None),
        (Some(only), None) => Ok(Some(folder.join(only))),
        (Some(first), Some(second)) => Err(WeightsError::SeveralGguf {
            path: folder.into(),
            found: [first, second].into_iter().chain(names).collect(),
        }),
    }
}

/// A file of a model and its header.
pub(crate) type Part = (MappedFile, GgufHeader);

/// All parts of the model that `file` is a part of, the first part first; one part if the model is
/// not split.
pub(crate) fn open_all(file: MappedFile) -> Result<Vec<Part>, WeightsError> {
    let (file, header) = open_one(file)?;
    let path = file.path().to_path_buf();
    let wrong = |path: &Path, source| WeightsError::Gguf {
        path: path.into(),
        source,
    };
    let count = integer(&header, COUNT).map_err(|e| wrong(&path, e))?;
    // What llama.cpp writes when it merges parts is 0.
    let Some(count) = count.filter(|&count| count > 1) else {
        return Ok(vec![(file, header)]);
    };
    let place = Place::of(&path, &header, count).map_err(|e| wrong(&path, e))?;

    let absent: Vec<String> = place
        .others()
        .filter(|n| !place.path(*n).exists())
        .map(|n| place.name(n))
        .collect();
    if !absent.is_empty() {
        return Err(WeightsError::GgufPartMissing {
            path,
            part: place.number,
            count: place.count,
            missing: absent,
        });
    }
    let mut parts = Vec::new();
    let mut this = Some((file, header));
    for number in 1..=place.count {
        let part = match number == place.number {
            true => this.take(),
            false => None,
        };
        parts.push(match part {
            Some(part) => part,
            None => open_one(MappedFile::open(&place.path(number))?)?,
        });
    }
    for (number, part) in (1..).zip(&parts) {
        check(number, &place, &parts[0].1, part).map_err(|e| wrong(part.0.path(), e))?;
    }
    let mut names = HashSet::new();
    for (file, header) in &parts {
        for tensor in &header.tensors {
            if !names.insert(tensor.name.as_str()) {
                let (what, name) = ("tensor of all parts", tensor.name.clone());
                return Err(wrong(file.path(), GgufError::Duplicate { what, name }));
            }
        }
    }
    let expected = integer(&parts[0].1, TENSORS).map_err(|e| wrong(parts[0].0.path(), e))?;
    match expected {
        Some(expected) if expected != names.len() as u64 => {
            let found = names.len() as u64;
            Err(wrong(
                parts[0].0.path(),
                GgufError::PartTensors { expected, found },
            ))
        }
        _ => Ok(parts),
    }
}

/// Number of a part, from 0 on.
const NUMBER: &str = "split.no";
/// Number of parts.
const COUNT: &str = "split.count";
/// Number of tensors in all parts.
const TENSORS: &str = "split.tensors.count";

/// The place of a part among the others.
struct Place {
    folder: PathBuf,
    prefix: String,
    number: u32,
    count: u32,
}

impl Place {
    /// By the file's name and header, which must agree: the other parts are found by the name.
    fn of(path: &Path, header: &GgufHeader, count: u64) -> Result<Self, GgufError> {
        let number = integer(header, NUMBER)?.ok_or_else(|| missing(NUMBER))?;
        if number >= count {
            return Err(GgufError::WrongValue {
                key: NUMBER.into(),
                expected: "a number below split.count",
                found: number.to_string(),
            });
        }
        let name = name_of(path);
        let number = number + 1;
        match PartName::parse(&name) {
            Some(part) if (u64::from(part.number), u64::from(part.count)) == (number, count) => {
                Ok(Self {
                    folder: path.parent().unwrap_or(Path::new("")).into(),
                    prefix: part.prefix.into(),
                    number: part.number,
                    count: part.count,
                })
            }
            part => Err(GgufError::PartName {
                number,
                count,
                expected: format!(
                    "{}-{number:05}-of-{count:05}.gguf",
                    part.map_or("NAME", |part| part.prefix)
                ),
                found: name.into(),
            }),
        }
    }

    fn name(&self, number: u32) -> String {
        PartName::file_name(&self.prefix, number, self.count)
    }

    fn path(&self, number: u32) -> PathBuf {
        self.folder.join(self.name(number))
    }

    fn others(&self) -> impl Iterator<Item = u32> {
        let this = self.number;
        (1..=self.count).filter(move |&number| number != this)
    }
}

/// Checks that a part has the number in its name and belongs to the first part's model.
fn check(
    number: u32,
    place: &Place,
    first: &GgufHeader,
    (_, part): &Part,
) -> Result<(), GgufError> {
    let (found, count) = (integer(part, NUMBER)?, integer(part, COUNT)?);
    let named = |number: Option<u64>, count: Option<u64>| match (number, count) {
        (Some(number), Some(count)) => format!("part {} of {count}", number.saturating_add(1)),
        _ => "a file that is no part".into(),
    };
    let expected = (u64::from(number) - 1, u64::from(place.count));
    if (found, count) != (Some(expected.0), Some(expected.1)) {
        return Err(GgufError::OtherPart {
            expected: named(Some(expected.0), Some(expected.1)),
            found: named(found, count),
        });
    }
    for key in ["general.architecture", TENSORS] {
        if let (Some(ours), Some(theirs)) = (first.metadata.get(key), part.metadata.get(key))
            && ours != theirs
        {
            return Err(GgufError::OtherPart {
                expected: format!("{key} of {} as in the first part", brief(ours)),
                found: brief(theirs),
            });
        }
    }
    Ok(())
}

fn open_one(file: MappedFile) -> Result<Part, WeightsError> {
    match GgufHeader::parse(file.bytes()) {
        Ok(header) => Ok((file, header)),
        Err(source) => Err(WeightsError::Gguf {
            path: file.path().into(),
            source,
        }),
    }
}

fn integer(header: &GgufHeader, key: &str) -> Result<Option<u64>, GgufError> {
    let found = Metadata(&header.metadata).integer(key)?;
    Ok(found.map(|n| n as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_hold_the_number_of_the_part() {
        let part = PartName::parse("a-of-b-00002-of-00003.gguf").unwrap();
        assert_eq!((part.prefix, part.number, part.count), ("a-of-b", 2, 3));
        assert_eq!(
            PartName::file_name(part.prefix, 2, 3),
            "a-of-b-00002-of-00003.gguf"
        );
        for other in [
            "a.gguf",
            "a-2-of-3.gguf",
            "a-00002-of-00003.bin",
            "a-+0002-of-00003.gguf",
        ] {
            assert_eq!(PartName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_folder_holds_one_model_or_they_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let found = || find(folder.path());
        assert_eq!(found().unwrap(), None);
        for name in [
            "m-00002-of-00002.gguf",
            "m-00001-of-00002.gguf",
            "mmproj-F16.gguf",
            "x.txt",
        ] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let first = folder.path().join("m-00001-of-00002.gguf");
        assert_eq!(found().unwrap(), Some(first));
        std::fs::write(folder.path().join("other.gguf"), "x").unwrap();
        let error = found().unwrap_err().to_string();
        assert!(
            error.contains("m-00001-of-00002.gguf, other.gguf"),
            "{error}"
        );
    }
}
