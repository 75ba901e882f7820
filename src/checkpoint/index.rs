//! `model.safetensors.index.json`: which shard holds which tensor.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::quoted::Quoted;
use crate::text::json;

/// The name of a single-file checkpoint in a model's folder.
pub const SINGLE_FILE: &str = "model.safetensors";

/// The name of the index in a model's folder.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// The longest index that is read, in bytes. That of a 400-billion-parameter model is 0.2 MiB.
pub const MAX_INDEX_LEN: u64 = 64 << 20;

/// Why a shard index is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// Longer than any real index.
    #[error("expected an index of at most {MAX_INDEX_LEN} bytes, found {found}")]
    TooLarge {
        /// Length in bytes.
        found: u64,
    },
    /// Not JSON with a `weight_map` from tensors to files.
    #[error(
        "expected JSON with a `weight_map` of tensor names to shard names, found something else ({})",
        Quoted(message)
    )]
    NotJson {
        /// The error of the JSON reader.
        message: String,
    },
    /// No tensors at all.
    #[error("expected a `weight_map` with tensors, found an empty one")]
    Empty,
    /// A repeated tensor.
    #[error("expected each tensor once, found `{}` twice", Quoted(name))]
    Duplicate {
        /// The tensor.
        name: String,
    },
    /// A shard that is not inside the index's own folder.
    #[error(
        "tensor `{}`: expected the path of a {extension} file inside the index's own folder, such as `model-00001-of-00002{extension}` or `sub/model-00001-of-00002{extension}`, found `{}`, which would lead elsewhere",
        Quoted(tensor),
        Quoted(shard)
    )]
    Outside {
        /// The tensor.
        tensor: String,
        /// The name given for its shard.
        shard: String,
        /// How shards' names end.
        extension: &'static str,
    },
}

/// A checked shard index.
#[derive(Debug, Clone, PartialEq)]
pub struct Index {
    /// Tensor name and the shard's path from the index's folder, in the index's order.
    pub weight_map: Vec<(String, String)>,
}

impl Index {
    /// Reads and checks the text of an index.
    ///
    /// # Errors
    ///
    /// An [`IndexError`] for the first rule the index breaks.
    pub fn parse(bytes: &[u8]) -> Result<Self, IndexError> {
        Self::parse_shards(bytes, ".safetensors")
    }

    /// [`Self::parse`] for shards whose names end in `extension`.
    pub(crate) fn parse_shards(bytes: &[u8], extension: &'static str) -> Result<Self, IndexError> {
        if bytes.len() as u64 > MAX_INDEX_LEN {
            return Err(IndexError::TooLarge {
                found: bytes.len() as u64,
            });
        }
        let raw: RawIndex = json::from_slice(bytes).map_err(|error| IndexError::NotJson {
            message: error.to_string(),
        })?;
        let weight_map = raw.weight_map.0;
        if weight_map.is_empty() {
            return Err(IndexError::Empty);
        }
        if let Some(name) = repeated(&weight_map) {
            return Err(IndexError::Duplicate { name });
        }
        for (tensor, shard) in &weight_map {
            if !is_inside_path(shard) || !shard.ends_with(extension) {
                return Err(IndexError::Outside {
                    tensor: tensor.clone(),
                    shard: shard.clone(),
                    extension,
                });
            }
        }
        Ok(Self { weight_map })
    }

    /// The shards' paths from the index's folder, each once, sorted.
    pub fn shards(&self) -> Vec<&str> {
        let names: BTreeSet<&str> = self
            .weight_map
            .iter()
            .map(|(_, shard)| shard.as_str())
            .collect();
        names.into_iter().collect()
    }
}

/// Whether `name` is one ordinary path component on every system this crate runs on.
///
/// Checked by its characters and not by the path library, so that an index that is harmless on one
/// system is not a way out of the folder on another. A hub cache keeps its files behind symbolic
/// links, which is why the link's name is what is checked and not where it leads.
pub(crate) fn is_plain_file_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', ':', '\0'])
}

/// Whether `path` is a file in the folder it is joined to or in a folder below, by its characters:
/// plain names with `/` between them.
pub(crate) fn is_inside_path(path: &str) -> bool {
    path.split('/').all(is_plain_file_name)
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: Pairs<String>,
}

/// A JSON object as pairs, so that a repeated key can be seen.
pub(super) struct Pairs<V>(pub(super) Vec<(String, V)>);

/// The first repeated key.
pub(super) fn repeated<V>(pairs: &[(String, V)]) -> Option<String> {
    let mut seen = HashSet::with_capacity(pairs.len());
    let twice = pairs.iter().find(|(key, _)| !seen.insert(key.as_str()));
    twice.map(|(key, _)| key.clone())
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Pairs<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<V>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Index, IndexError> {
        Index::parse(text.as_bytes())
    }

    #[test]
    fn reads_an_index() {
        let index = parse(
            r#"{"metadata":{"total_size":8},"weight_map":{"b":"model-00002-of-00002.safetensors","a":"model-00001-of-00002.safetensors","c":"model-00002-of-00002.safetensors"}}"#,
        )
        .unwrap();
        assert_eq!(index.weight_map[0].0, "b");
        assert_eq!(
            index.shards(),
            [
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors"
            ]
        );
    }

    #[test]
    fn refuses_names_that_leave_the_folder() {
        for shard in [
            "../x.safetensors",
            "/etc/x.safetensors",
            "a/../b.safetensors",
            "./b.safetensors",
            "a//b.safetensors",
            "a/..",
            "..",
            "",
            "C:x.safetensors",
            "a\\\\b.safetensors",
            "x.bin",
        ] {
            let found = parse(&format!(r#"{{"weight_map":{{"a":"{shard}"}}}}"#));
            assert!(
                matches!(found, Err(IndexError::Outside { .. })),
                "{shard}: {found:?}"
            );
        }
    }

    #[test]
    fn shards_may_lie_in_folders_below() {
        let index = parse(r#"{"weight_map":{"a":"sub/b/model-00001-of-00001.safetensors"}}"#);
        assert_eq!(
            index.unwrap().shards(),
            ["sub/b/model-00001-of-00001.safetensors"]
        );
    }

    #[test]
    fn refuses_what_is_not_an_index() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"weight_map":3}"#,
            r#"{"weight_map":{"a":1}}"#,
        ] {
            assert!(
                matches!(parse(text), Err(IndexError::NotJson { .. })),
                "{text}"
            );
        }
        assert_eq!(parse(r#"{"weight_map":{}}"#), Err(IndexError::Empty));
        let twice = parse(r#"{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}"#);
        assert_eq!(twice, Err(IndexError::Duplicate { name: "a".into() }));
    }

    #[test]
    fn what_an_index_says_is_cut_in_errors() {
        let long = format!("\\u001b[2J{}", "x".repeat(10_000));
        for text in [
            format!(r#"{{"weight_map":{{"{long}":"{long}"}}}}"#),
            format!(r#"{{"weight_map":{{"{long}":"a","{long}":"b"}}}}"#),
            format!(r#"{{"weight_map":"{long}"}}"#),
        ] {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.len() < 1000, "{} bytes", error.len());
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }
}
