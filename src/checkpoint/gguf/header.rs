//! The header of a GGUF file: metadata and tensor descriptions, read with every length checked
//! against the file before anything is allocated.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. candle-core's reader
//! (`gguf_file::Content`) is not used because it allocates by the lengths that a file claims.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use super::error::GgufError;
use super::kind::GgmlType;
use crate::quoted::brief;

/// Most metadata keys that are read; real files have about 30.
pub const MAX_KEYS: u64 = 1 << 16;

/// Most tensors that are read; a model of 126 layers has about 1,100.
pub const MAX_TENSORS: u64 = 1 << 20;

/// Most bytes that metadata and the names of tensors take in memory; those of the largest vocabularies take 40 MiB.
const MAX_METADATA: u64 = 256 << 20;

/// Most axes of a tensor, as in ggml.
const MAX_AXES: u32 = 4;

/// Alignment of tensor data where the file does not name one, in bytes.
const DEFAULT_ALIGNMENT: u64 = 32;

/// A metadata value. Integers and floats are widened; arrays keep one type.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// Either float; an `f32` is kept so that its shortest decimal can be written.
    Float(f32),
    /// A double.
    Double(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// Several integers.
    Integers(Vec<i64>),
    /// Several floats.
    Floats(Vec<f32>),
}

/// The description of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    /// Its name in the file, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Its shape, outermost axis first (the file has it the other way round).
    pub shape: Vec<usize>,
    /// How its elements are stored.
    pub kind: GgmlType,
    /// Its first byte, counted from the start of the file.
    pub start: usize,
    /// The byte behind its last, counted from the start of the file.
    pub end: usize,
}

/// A checked GGUF header.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufHeader {
    /// Version of the format, 2 or 3.
    pub version: u32,
    /// The metadata.
    pub metadata: BTreeMap<String, Value>,
    /// The tensors in the file's order.
    pub tensors: Vec<Described>,
}

impl GgufHeader {
    /// Reads and checks the header of the file that `bytes` is, the whole of it.
    ///
    /// Tensor data is not touched, only its place checked. What is allocated is bounded by eight
    /// times the length of the header, and by 256 MiB.
    ///
    /// # Errors
    ///
    /// A [`GgufError`] for the first rule the file breaks.
    pub fn parse(bytes: &[u8]) -> Result<Self, GgufError> {
        let mut reader = Reader::new(bytes, 0);
        if !bytes.starts_with(b"GGUF") {
            let start = bytes.get(..4).unwrap_or(bytes);
            return Err(GgufError::NotGguf {
                found: start.escape_ascii().to_string(),
            });
        }
        reader.at = 4;
        let version = reader.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version { found: version });
        }
        let tensor_count = reader.count("tensors", MAX_TENSORS)?;
        let key_count = reader.count("metadata keys", MAX_KEYS)?;

        let mut metadata = BTreeMap::new();
        for _ in 0..key_count {
            let key = reader.text("a metadata key")?;
            let value = reader.value(&key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(GgufError::Duplicate {
                    what: "metadata key",
                    name: key,
                });
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(&Value::Unsigned(n)) if n.is_power_of_two() && (8..=1 << 16).contains(&n) => n,
            Some(other) => {
                return Err(GgufError::WrongValue {
                    key: "general.alignment".into(),
                    expected: "a power of two from 8 to 65536",
                    found: brief(other),
                });
            }
        };
        let (mut described, mut names) = (Vec::new(), HashSet::new());
        for _ in 0..tensor_count {
            let tensor = reader.tensor()?;
            if !names.insert(tensor.name.clone()) {
                return Err(GgufError::Duplicate {
                    what: "tensor",
                    name: tensor.name,
                });
            }
            described.push(tensor);
        }
        let data_start = (reader.at as u64).next_multiple_of(alignment);
        let tensors = place(described, data_start, alignment, bytes.len() as u64)?;
        Ok(Self {
            version,
            metadata,
            tensors,
        })
    }
}

/// Where the values of the metadata lie in a file that [`GgufHeader::parse`] has accepted, in the file's order, each
/// with its type in front.
pub(in crate::checkpoint) fn places(
    bytes: &[u8],
) -> Result<Vec<(String, Range<usize>)>, GgufError> {
    let mut reader = Reader::new(bytes, 4);
    reader.u32("the version")?;
    reader.count("tensors", MAX_TENSORS)?;
    let count = reader.count("metadata keys", MAX_KEYS)?;
    let mut places = Vec::new();
    for _ in 0..count {
        let key = reader.text("a metadata key")?;
        let start = reader.at;
        reader.value(&key)?;
        places.push((key, start..reader.at));
    }
    Ok(places)
}

/// A tensor's description in the file.
struct Raw {
    name: String,
    shape: Vec<usize>,
    kind: GgmlType,
    len: u64,
    offset: u64,
}

/// Checks that every tensor lies inside the file and over no other.
fn place(
    raw: Vec<Raw>,
    data_start: u64,
    alignment: u64,
    file_len: u64,
) -> Result<Vec<Described>, GgufError> {
    let mut tensors = Vec::with_capacity(raw.len());
    for Raw {
        name,
        shape,
        kind,
        len,
        offset,
    } in raw
    {
        if !offset.is_multiple_of(alignment) {
            let expected = format!("an offset that is a multiple of {alignment}");
            return Err(GgufError::Tensor {
                name,
                expected,
                found: offset.to_string(),
            });
        }
        let start = data_start.saturating_add(offset);
        let end = start.saturating_add(len);
        if end > file_len {
            return Err(GgufError::Truncated {
                what: format!("tensor `{name}`"),
                needed: end,
                file_len,
            });
        }
        tensors.push(Described {
            name,
            shape,
            kind,
            // Inside the file, which is in memory.
            start: start as usize,
            end: end as usize,
        });
    }
    let mut order: Vec<&Described> = tensors.iter().collect();
    order.sort_by_key(|t| t.start);
    for pair in order.windows(2) {
        if pair[1].start < pair[0].end {
            return Err(GgufError::Tensor {
                name: pair[1].name.clone(),
                expected: format!(
                    "a start behind byte {}, where `{}` ends",
                    pair[0].end, pair[0].name
                ),
                found: pair[1].start.to_string(),
            });
        }
    }
    Ok(tensors)
}

/// A position in the file; every step forward is checked.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Bytes in memory of what was read.
    held: u64,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, held: 0 }
    }

    /// Counts what is about to be kept.
    fn hold(&mut self, bytes: u64) -> Result<(), GgufError> {
        self.held = self.held.saturating_add(bytes);
        match self.held > MAX_METADATA {
            true => Err(GgufError::MetadataTooLarge {
                limit: MAX_METADATA,
            }),
            false => Ok(()),
        }
    }

    fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8], GgufError> {
        let needed = (self.at as u64).saturating_add(len);
        let truncated = || GgufError::Truncated {
            what: what.into(),
            needed,
            file_len: self.bytes.len() as u64,
        };
        let end = usize::try_from(needed).map_err(|_| truncated())?;
        let part = self.bytes.get(self.at..end).ok_or_else(truncated)?;
        self.at = end;
        Ok(part)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn count(&mut self, what: &'static str, limit: u64) -> Result<u64, GgufError> {
        let found = self.u64(what)?;
        if found > limit {
            Err(GgufError::TooMany { what, limit, found })
        } else {
            Ok(found)
        }
    }

    fn text(&mut self, what: &str) -> Result<String, GgufError> {
        let len = self.u64(what)?;
        let bytes = self.take(len, what)?;
        self.hold(len.saturating_add(size_of::<String>() as u64))?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_string()),
            Err(_) => Err(GgufError::NotUtf8 { what: what.into() }),
        }
    }

    fn value(&mut self, key: &str) -> Result<Value, GgufError> {
        let kind = self.u32(key)?;
        Ok(match kind {
            8 => Value::Text(self.text(key)?),
            7 => Value::Bool(self.array::<1>(key)?[0] != 0),
            9 => return self.values(key),
            _ => {
                let width = width(kind).ok_or(GgufError::ValueType {
                    key: key.into(),
                    found: kind,
                })?;
                scalar(kind, self.take(width, key)?)
            }
        })
    }

    fn values(&mut self, key: &str) -> Result<Value, GgufError> {
        let kind = self.u32(key)?;
        let count = self.u64(key)?;
        if kind == 8 {
            // Each text takes at least its length field, so that a false count fails at the end of
            // the file, before the vector has grown further.
            let mut texts = Vec::new();
            for _ in 0..count {
                texts.push(self.text(key)?);
            }
            return Ok(Value::Texts(texts));
        }
        let width = width(kind).ok_or(GgufError::ValueType {
            key: key.into(),
            found: kind,
        })?;
        let part = self.take(count.saturating_mul(width), key)?;
        let held = match kind {
            6 | 12 => size_of::<f32>(),
            _ => size_of::<i64>(),
        };
        self.hold(count.saturating_mul(held as u64))?;
        let items = part.chunks_exact(width as usize);
        Ok(match kind {
            6 | 12 => Value::Floats(
                items
                    .map(|item| match scalar(kind, item) {
                        Value::Double(x) => x as f32,
                        Value::Float(x) => x,
                        _ => f32::NAN,
                    })
                    .collect(),
            ),
            _ => Value::Integers(
                items
                    .map(|item| match scalar(kind, item) {
                        Value::Unsigned(n) => i64::try_from(n).unwrap_or(i64::MAX),
                        Value::Signed(n) => n,
                        _ => i64::MAX,
                    })
                    .collect(),
            ),
        })
    }

    fn tensor(&mut self) -> Result<Raw, GgufError> {
        let name = self.text("a tensor's name")?;
        let axes = self.u32(&name)?;
        if axes == 0 || axes > MAX_AXES {
            let expected = format!("1 to {MAX_AXES} axes");
            return Err(GgufError::Tensor {
                name,
                expected,
                found: axes.to_string(),
            });
        }
        let mut dims = Vec::new();
        for _ in 0..axes {
            dims.push(self.u64(&name)?);
        }
        let id = self.u32(&name)?;
        let offset = self.u64(&name)?;
        let kind = GgmlType::from_id(id).map_err(|found| GgufError::Quantization {
            name: name.clone(),
            found,
        })?;
        let wrong = |expected: &str| GgufError::Tensor {
            name: name.clone(),
            expected: expected.into(),
            found: format!("{dims:?}"),
        };
        let elements = dims
            .iter()
            .try_fold(1u64, |n, &dim| n.checked_mul(dim))
            .filter(|&n| n > 0);
        let elements = elements.ok_or_else(|| wrong("a shape of 1 to 2^64 elements"))?;
        if !dims[0].is_multiple_of(kind.block_len()) {
            return Err(wrong(&format!(
                "rows in whole blocks of {} elements",
                kind.block_len()
            )));
        }
        let len = (elements / kind.block_len()).checked_mul(kind.block_bytes());
        let len = len.ok_or_else(|| wrong("a shape that fits into 64 bits"))?;
        let shape: Result<Vec<usize>, _> =
            dims.iter().rev().map(|&dim| usize::try_from(dim)).collect();
        let shape = shape.map_err(|_| wrong("a shape that fits into memory"))?;
        Ok(Raw {
            name,
            shape,
            kind,
            len,
            offset,
        })
    }
}

/// Bytes of a fixed-width metadata type; `None` for text, arrays and numbers GGUF does not have.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// A fixed-width value; `item` has [`width`] bytes.
fn scalar(kind: u32, item: &[u8]) -> Value {
    let mut wide = [0u8; 8];
    wide[..item.len()].copy_from_slice(item);
    let bits = u64::from_le_bytes(wide);
    match kind {
        1 => Value::Signed(i64::from(bits as i8)),
        3 => Value::Signed(i64::from(bits as i16)),
        5 => Value::Signed(i64::from(bits as i32)),
        11 => Value::Signed(bits as i64),
        6 => Value::Float(f32::from_bits(bits as u32)),
        12 => Value::Double(f64::from_bits(bits)),
        _ => Value::Unsigned(bits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one array of `count` bytes.
    fn with_bytes(count: u64) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        for number in [0u64, 1, 1] {
            file.extend(number.to_le_bytes());
        }
        file.push(b'a');
        for kind in [9u32, 0] {
            file.extend(kind.to_le_bytes());
        }
        file.extend(count.to_le_bytes());
        file.resize(file.len() + count as usize, 7);
        file
    }

    #[test]
    fn metadata_has_a_limit_in_memory() {
        let header = GgufHeader::parse(&with_bytes(2)).unwrap();
        assert_eq!(header.metadata["a"], Value::Integers(vec![7, 7]));
        let error = GgufHeader::parse(&with_bytes(MAX_METADATA / 8)).unwrap_err();
        let limit = MAX_METADATA;
        assert_eq!(error, GgufError::MetadataTooLarge { limit });
        assert!(error.to_string().contains("at most 256 MiB"), "{error}");
    }
}
