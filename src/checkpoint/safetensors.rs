//! The header of a safetensors file.
//!
//! The `safetensors` crate reads and checks it. Two things are added: a repeated name is refused,
//! where the crate keeps the last tensor of that name, and the lengths in the file are compared
//! here, so that a download that broke off is reported with its length.

use std::collections::BTreeMap;

use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::index::{Pairs, repeated};
use crate::quoted::{Quoted, cut};

/// The longest header that is read, in bytes; the limit of the `safetensors` crate.
pub const MAX_HEADER_LEN: u64 = 100_000_000;

/// The length field in front of the header, in bytes.
const LEN_FIELD: usize = 8;

/// Characters of a parser's message that an error shows: it may repeat a text of the file.
const SHOWN: usize = 400;

/// Why a safetensors header is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The file is shorter or longer than its header and tensors.
    #[error("expected {expected} bytes of safetensors, found {found}")]
    FileLen {
        /// Bytes of header and tensors; where the header is cut, those up to its end.
        expected: u64,
        /// Length of the file in bytes.
        found: u64,
    },
    /// The header is longer than any real one.
    #[error("expected a header of at most {MAX_HEADER_LEN} bytes, found one of {found}")]
    TooLarge {
        /// Length the header claims, in bytes.
        found: u64,
    },
    /// The header is not JSON of the expected form, or its shapes and offsets contradict each other.
    #[error(
        "expected a header of tensors that cover the data, found another ({})",
        cut(message, SHOWN)
    )]
    Invalid {
        /// The error of the `safetensors` crate.
        message: String,
    },
    /// A repeated name.
    #[error("expected each tensor once, found `{}` twice", Quoted(name))]
    Duplicate {
        /// The name.
        name: String,
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
    /// Reads and checks the header of the file with the content `bytes`.
    ///
    /// Tensor data is not touched. What is allocated is bounded by the length of `bytes`.
    ///
    /// # Errors
    ///
    /// A [`HeaderError`] for the first rule the header breaks.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let file_len = |expected: u64| HeaderError::FileLen {
            expected,
            found: bytes.len() as u64,
        };
        let field = bytes.first_chunk().ok_or(file_len(LEN_FIELD as u64))?;
        let len = u64::from_le_bytes(*field);
        if len > MAX_HEADER_LEN {
            return Err(HeaderError::TooLarge { found: len });
        }
        let data_start = LEN_FIELD + len as usize;
        let json = bytes
            .get(LEN_FIELD..data_start)
            .ok_or(file_len(data_start as u64))?;
        let invalid = |error: serde_json::Error| HeaderError::Invalid {
            message: error.to_string(),
        };
        let header: Metadata = serde_json::from_slice(json).map_err(invalid)?;
        let names: Pairs<IgnoredAny> = serde_json::from_slice(json).map_err(invalid)?;
        if let Some(name) = repeated(&names.0) {
            return Err(HeaderError::Duplicate { name });
        }
        let end = data_start.saturating_add(header.data_len());
        if end != bytes.len() {
            return Err(file_len(end as u64));
        }
        // The tensors cover the data, so that no sum below overflows.
        let mut tensors: Vec<Entry> = header
            .tensors()
            .into_iter()
            .map(|(name, info)| Entry {
                name,
                dtype: info.dtype,
                shape: info.shape.clone(),
                start: data_start + info.data_offsets.0,
                end: data_start + info.data_offsets.1,
            })
            .collect();
        // By name, too, because tensors without elements may share a place.
        tensors.sort_by(|a, b| (a.start, a.end, &a.name).cmp(&(b.start, b.end, &b.name)));
        let metadata = header.metadata().clone().unwrap_or_default();
        Ok(Self {
            tensors,
            metadata: metadata.into_iter().collect(),
        })
    }
}

/// Encodes what precedes the data of a safetensors file: the length of the header, and the header,
/// padded with spaces to a multiple of eight bytes. Also returns the number of data bytes.
///
/// `tensors` are names, element types as safetensors calls them, shapes and lengths in bytes, in the
/// order of the data.
pub(crate) fn encode<'a>(
    metadata: Value,
    tensors: impl Iterator<Item = (&'a str, &'a str, &'a [usize], u64)>,
) -> (Vec<u8>, u64) {
    let (mut header, mut offset) = (serde_json::Map::new(), 0u64);
    header.insert("__metadata__".into(), metadata);
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
        let ours = Header::parse(&bytes);
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
        let cut = |expected: u64, found: u64| Err(HeaderError::FileLen { expected, found });
        assert_eq!(Header::parse(&[]), cut(8, 0));
        assert_eq!(Header::parse(&[1, 0, 0]), cut(8, 3));
        assert_eq!(Header::parse(&[9, 0, 0, 0, 0, 0, 0, 0]), cut(17, 8));
        for len in [u64::MAX, 200_000_000] {
            let large = Header::parse(&len.to_le_bytes());
            assert_eq!(large, Err(HeaderError::TooLarge { found: len }));
        }
        let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let whole = 8 + header.len() as u64 + 8;
        assert_eq!(parse(header, 7), cut(whole, whole - 1));
        assert_eq!(parse(header, 9), cut(whole, whole + 1));
    }

    #[test]
    fn refuses_a_repeated_name() {
        for second in ["[1,2]", "[0,1]"] {
            let twice = parse(
                &format!(
                    r#"{{"a":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}},"a":{{"dtype":"U8","shape":[1],"data_offsets":{second}}}}}"#
                ),
                1,
            );
            assert!(twice.is_err(), "{twice:?}");
        }
        let same = parse(
            r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}"#,
            1,
        );
        assert_eq!(same, Err(HeaderError::Duplicate { name: "a".into() }));
    }

    #[test]
    fn refuses_contradictions() {
        for (header, data) in [
            // Overlap, hole, a length that is not the shape's, a shape that overflows, other JSON.
            (
                r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#,
                3,
            ),
            (
                r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}"#,
                3,
            ),
            (
                r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
                8,
            ),
            (
                r#"{"a":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,8]}}"#,
                8,
            ),
            (
                r#"{"a":{"dtype":"F7","shape":[1],"data_offsets":[0,1]}}"#,
                1,
            ),
            (
                r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#,
                1,
            ),
            (r#"{"a":3}"#, 1),
            ("[]", 1),
            ("{", 1),
            ("\u{1}", 1),
        ] {
            let found = parse(header, data);
            assert!(
                matches!(found, Err(HeaderError::Invalid { .. })),
                "{header}: {found:?}"
            );
        }
    }
}
