//! The header of a safetensors file, checked before anything in it is believed.
//!
//! The rules are those of the `safetensors` crate (its element types are used here) and stricter
//! in one place: a name that stands twice is refused, where a map would keep the last. Every
//! refusal says which tensor and by how much, because the usual cause is a download that broke
//! off, and a user can only see that from the numbers.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use safetensors::Dtype;
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::de::{Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::{Value, json};

/// The longest header that is read, in bytes; the limit of the `safetensors` crate.
pub const MAX_HEADER_LEN: u64 = 100_000_000;

/// The length field in front of the header, in bytes.
const LEN_FIELD: u64 = 8;

/// What is wrong with a safetensors header.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Not even a header length.
    #[error("expected at least 8 bytes of safetensors, found {file_len}")]
    TooShort {
        /// Length of the file in bytes.
        file_len: u64,
    },
    /// The header says it is longer than the file.
    #[error("expected a header of {header_len} bytes, found a file of {file_len} bytes in all")]
    BeyondFile {
        /// Length the header claims, in bytes.
        header_len: u64,
        /// Length of the file in bytes.
        file_len: u64,
    },
    /// The header is longer than any real one.
    #[error("expected a header of at most {MAX_HEADER_LEN} bytes, found one of {header_len}")]
    TooLarge {
        /// Length the header claims, in bytes.
        header_len: u64,
    },
    /// The header is not JSON of the expected form.
    #[error("expected a JSON header, found something else ({message})")]
    NotJson {
        /// What the JSON reader said.
        message: String,
    },
    /// One name stands twice.
    #[error("expected each tensor once, found `{name}` twice")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// An element type that safetensors does not have.
    #[error("tensor `{name}`: expected a safetensors element type, found `{found}`")]
    UnknownType {
        /// The tensor.
        name: String,
        /// The type named in the header.
        found: String,
    },
    /// Shape and offsets disagree.
    #[error("tensor `{name}`: shape {shape:?} of {dtype} takes {expected} bytes, found {found}")]
    WrongLen {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Its element type.
        dtype: String,
        /// Bytes that shape and type make.
        expected: u64,
        /// Bytes between the offsets.
        found: u64,
    },
    /// The number of bytes does not fit into 64 bits.
    #[error("tensor `{name}`: shape {shape:?} does not fit into 64 bits")]
    Overflow {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// Offsets that end before they begin, or behind the file.
    #[error(
        "tensor `{name}`: offsets {start}..{end} are not inside the file's {data_len} data bytes"
    )]
    OutOfRange {
        /// The tensor.
        name: String,
        /// First byte, from the start of the data.
        start: u64,
        /// Byte behind the last.
        end: u64,
        /// Data bytes the file holds.
        data_len: u64,
    },
    /// Two tensors share bytes.
    #[error(
        "tensors `{first}` and `{second}` overlap: `{second}` starts at byte {start}, before {end}"
    )]
    Overlap {
        /// The tensor that comes first.
        first: String,
        /// The one that begins inside it.
        second: String,
        /// Where the second starts.
        start: u64,
        /// Where the first ends.
        end: u64,
    },
    /// Bytes that belong to no tensor.
    #[error("bytes {start}..{end} of the data belong to no tensor")]
    Hole {
        /// First byte of the hole.
        start: u64,
        /// Byte behind the hole.
        end: u64,
    },
}

/// One tensor of a safetensors file.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name in the file.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape, outermost axis first.
    pub shape: Vec<usize>,
    /// Its first byte, counted from the start of the file.
    pub start: usize,
    /// The byte behind its last, counted from the start of the file.
    pub end: usize,
}

/// A checked safetensors header.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// The tensors in the order of their data.
    pub tensors: Vec<Entry>,
    /// The `__metadata__` map; empty where there is none.
    pub metadata: BTreeMap<String, String>,
}

impl Header {
    /// Reads and checks the header of a file of `file_len` bytes that begins with `bytes`.
    ///
    /// `bytes` may be the whole file; nothing behind the header is touched. What is allocated is
    /// bounded by the length of `bytes`.
    ///
    /// # Errors
    ///
    /// A [`HeaderError`] for the first rule the header breaks.
    pub fn parse(bytes: &[u8], file_len: u64) -> Result<Self, HeaderError> {
        let field = bytes
            .first_chunk::<{ LEN_FIELD as usize }>()
            .filter(|_| file_len >= LEN_FIELD)
            .ok_or(HeaderError::TooShort { file_len })?;
        let header_len = u64::from_le_bytes(*field);
        let beyond = HeaderError::BeyondFile {
            header_len,
            file_len,
        };
        let data_start = match header_len.checked_add(LEN_FIELD) {
            Some(end) if end <= file_len => end,
            _ => return Err(beyond),
        };
        if header_len > MAX_HEADER_LEN {
            return Err(HeaderError::TooLarge { header_len });
        }
        // `data_start` is at most MAX_HEADER_LEN + 8 here, so it fits any usize.
        let json = bytes
            .get(LEN_FIELD as usize..data_start as usize)
            .ok_or(beyond)?;
        let raw: RawHeader =
            serde_json::from_slice(json).map_err(|error| HeaderError::NotJson {
                message: error.to_string(),
            })?;

        let mut seen = HashSet::with_capacity(raw.tensors.len());
        for (name, _) in &raw.tensors {
            if !seen.insert(name.as_str()) {
                return Err(HeaderError::Duplicate { name: name.clone() });
            }
        }
        if raw.metadata.len() > 1 {
            return Err(HeaderError::Duplicate {
                name: METADATA.to_string(),
            });
        }
        let metadata = raw.metadata.into_iter().next().unwrap_or_default();
        let tensors = place(raw.tensors, data_start, file_len - data_start)?;
        Ok(Self { tensors, metadata })
    }
}

/// What stands before the data of a safetensors file: the length of the header, the header, and
/// spaces up to eight bytes; and the number of data bytes that the tensors take.
///
/// `tensors` are names, element types as safetensors calls them, shapes and lengths in bytes, in the
/// order of the data.
pub(crate) fn encode<'a>(
    metadata: Value,
    tensors: impl Iterator<Item = (&'a str, &'a str, &'a [usize], u64)>,
) -> (Vec<u8>, u64) {
    let (mut header, mut offset) = (serde_json::Map::new(), 0u64);
    header.insert(METADATA.into(), metadata);
    for (name, dtype, shape, byte_len) in tensors {
        let end = offset + byte_len;
        header.insert(
            name.into(),
            json!({ "dtype": dtype, "shape": shape, "data_offsets": [offset, end] }),
        );
        offset = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    (bytes, offset)
}

/// Checks each tensor alone, then that together they cover the data exactly.
fn place(
    raw: Vec<(String, RawTensor)>,
    data_start: u64,
    data_len: u64,
) -> Result<Vec<Entry>, HeaderError> {
    let mut sized = Vec::with_capacity(raw.len());
    for (name, tensor) in raw {
        let (start, end) = tensor.data_offsets;
        if start > end || end > data_len {
            return Err(HeaderError::OutOfRange {
                name,
                start,
                end,
                data_len,
            });
        }
        let kind: StrDeserializer<ValueError> = tensor.dtype.as_str().into_deserializer();
        let Ok(dtype) = Dtype::deserialize(kind) else {
            return Err(HeaderError::UnknownType {
                name,
                found: tensor.dtype,
            });
        };
        let bits = tensor
            .shape
            .iter()
            .try_fold(dtype.bitsize() as u64, |n, &dim| n.checked_mul(dim));
        let Some(bits) = bits else {
            return Err(HeaderError::Overflow {
                name,
                shape: tensor.shape,
            });
        };
        let expected = bits.div_ceil(8);
        if !bits.is_multiple_of(8) || expected != end - start {
            let (shape, dtype) = (tensor.shape, tensor.dtype);
            return Err(HeaderError::WrongLen {
                name,
                shape,
                dtype,
                expected,
                found: end - start,
            });
        }
        sized.push((start, end, name, dtype, tensor.shape));
    }
    sized.sort_by_key(|(start, end, ..)| (*start, *end));

    let mut tensors: Vec<Entry> = Vec::with_capacity(sized.len());
    let mut covered = 0;
    for (start, end, name, dtype, shape) in sized {
        if start < covered {
            let first = tensors.last().map(|t| t.name.clone()).unwrap_or_default();
            return Err(HeaderError::Overlap {
                first,
                second: name,
                start,
                end: covered,
            });
        }
        if start > covered {
            return Err(HeaderError::Hole {
                start: covered,
                end: start,
            });
        }
        covered = end;
        let too_wide = || HeaderError::Overflow {
            name: name.clone(),
            shape: shape.clone(),
        };
        let dims: Result<Vec<usize>, _> = shape.iter().map(|&dim| usize::try_from(dim)).collect();
        let place = |offset: u64| {
            data_start
                .checked_add(offset)
                .and_then(|at| usize::try_from(at).ok())
        };
        let (Ok(dims), Some(from), Some(to)) = (dims, place(start), place(end)) else {
            return Err(too_wide());
        };
        tensors.push(Entry {
            name,
            dtype,
            shape: dims,
            start: from,
            end: to,
        });
    }
    if covered != data_len {
        return Err(HeaderError::Hole {
            start: covered,
            end: data_len,
        });
    }
    Ok(tensors)
}

/// The key under which safetensors keeps free text.
const METADATA: &str = "__metadata__";

/// The header as it stands, in its order and with repeated names still visible.
#[derive(Default)]
struct RawHeader {
    tensors: Vec<(String, RawTensor)>,
    metadata: Vec<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader::default();
                while let Some(key) = map.next_key::<String>()? {
                    if key == METADATA {
                        header.metadata.push(map.next_value()?);
                    } else {
                        let tensor = map.next_value().map_err(|error| {
                            de::Error::custom(format_args!("tensor `{key}`: {error}"))
                        })?;
                        header.tensors.push((key, tensor));
                    }
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of `header` and `data` zero bytes.
    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn parse(header: &str, data: usize) -> Result<Header, HeaderError> {
        let bytes = file(header, data);
        let ours = Header::parse(&bytes, bytes.len() as u64);
        // Never more lenient than the crate that defines the format.
        if safetensors::SafeTensors::read_metadata(&bytes).is_err() {
            assert!(ours.is_err(), "accepted what safetensors refuses: {header}");
        }
        ours
    }

    #[test]
    fn reads_tensors_in_the_order_of_their_data() {
        let header = parse(
            r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},"a":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]}}  "#,
            12,
        )
        .unwrap();
        let names: Vec<&str> = header.tensors.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(header.tensors[1].end - header.tensors[1].start, 8);
        assert_eq!(header.metadata["format"], "pt");
    }

    #[test]
    fn refuses_what_does_not_fit_the_file() {
        assert_eq!(
            Header::parse(&[], 0),
            Err(HeaderError::TooShort { file_len: 0 })
        );
        assert_eq!(
            Header::parse(&[1, 0, 0], 3),
            Err(HeaderError::TooShort { file_len: 3 })
        );
        let long = u64::MAX.to_le_bytes();
        assert!(matches!(
            Header::parse(&long, 8),
            Err(HeaderError::BeyondFile { .. })
        ));
        let large = 200_000_000u64.to_le_bytes();
        assert!(matches!(
            Header::parse(&large, 1 << 40),
            Err(HeaderError::TooLarge { .. })
        ));
        let truncated = parse(
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
            7,
        );
        assert!(
            matches!(truncated, Err(HeaderError::OutOfRange { data_len: 7, .. })),
            "{truncated:?}"
        );
    }

    #[test]
    fn refuses_contradictions() {
        let twice = parse(
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#,
            2,
        );
        assert_eq!(twice, Err(HeaderError::Duplicate { name: "a".into() }));
        let overlap = parse(
            r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#,
            3,
        );
        assert!(
            matches!(overlap, Err(HeaderError::Overlap { .. })),
            "{overlap:?}"
        );
        let hole = parse(
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}"#,
            3,
        );
        assert_eq!(hole, Err(HeaderError::Hole { start: 1, end: 2 }));
        let tail = parse(
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#,
            3,
        );
        assert_eq!(tail, Err(HeaderError::Hole { start: 1, end: 3 }));
        let wrong = parse(
            r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
            8,
        );
        assert!(
            matches!(
                wrong,
                Err(HeaderError::WrongLen {
                    expected: 12,
                    found: 8,
                    ..
                })
            ),
            "{wrong:?}"
        );
        let wide = parse(
            r#"{"a":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,8]}}"#,
            8,
        );
        assert!(
            matches!(wide, Err(HeaderError::Overflow { .. })),
            "{wide:?}"
        );
        let kind = parse(
            r#"{"a":{"dtype":"F7","shape":[1],"data_offsets":[0,1]}}"#,
            1,
        );
        assert!(
            matches!(kind, Err(HeaderError::UnknownType { .. })),
            "{kind:?}"
        );
        for json in [
            "[]",
            "{",
            "\u{1}",
            r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#,
            r#"{"a":3}"#,
        ] {
            assert!(
                matches!(parse(json, 1), Err(HeaderError::NotJson { .. })),
                "{json}"
            );
        }
    }
}
