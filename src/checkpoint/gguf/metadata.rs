//! Values of GGUF metadata, with their types checked.

use std::collections::BTreeMap;

use super::error::GgufError;
use super::header::Value;
use crate::quoted::cut;

/// The tokens of the vocabulary.
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";

/// A file's metadata. Every function takes a key and fails for a value of another type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metadata<'a>(pub(super) &'a BTreeMap<String, Value>);

impl<'a> Metadata<'a> {
    fn read<T>(
        self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.0.get(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(found) => Ok(Some(found)),
            None => Err(wrong(key, expected, value)),
        }
    }

    pub(super) fn integer(self, key: &str) -> Result<Option<usize>, GgufError> {
        self.read(key, "one non-negative integer", |value| match value {
            Value::Unsigned(n) => usize::try_from(*n).ok(),
            Value::Signed(n) => usize::try_from(*n).ok(),
            _ => None,
        })
    }

    /// A float as the shortest decimal that its stored type reads back: 1e-5 and not 9.9999997e-6.
    pub(super) fn float(self, key: &str) -> Result<Option<f64>, GgufError> {
        self.read(key, "one finite float", |value| match value {
            Value::Float(x) if x.is_finite() => x.to_string().parse().ok(),
            Value::Double(x) if x.is_finite() => Some(*x),
            _ => None,
        })
    }

    pub(super) fn flag(self, key: &str) -> Result<Option<bool>, GgufError> {
        self.read(key, "true or false", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    pub(super) fn text(self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.read(key, "a text", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An array of texts that the model cannot do without.
    pub(super) fn texts(self, key: &str) -> Result<&'a [String], GgufError> {
        let texts = self.read(key, "an array of texts", |value| match value {
            Value::Texts(texts) => Some(texts.as_slice()),
            _ => None,
        });
        texts?.ok_or_else(|| missing(key))
    }

    /// The id of a special token, such as `eos`.
    pub(super) fn token_id(self, name: &str) -> Result<Option<usize>, GgufError> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let id = match self.0.get(&key) {
            // llama.cpp writes -1, also as an unsigned number, for "none".
            Some(Value::Signed(-1)) => return Ok(None),
            Some(Value::Unsigned(id)) if *id == u64::from(u32::MAX) => return Ok(None),
            _ => self.integer(&key)?,
        };
        match (id, self.0.get(TOKENS)) {
            (Some(id), Some(Value::Texts(tokens))) if id >= tokens.len() => {
                Err(GgufError::WrongValue {
                    key,
                    expected: "an id inside the vocabulary",
                    found: id.to_string(),
                })
            }
            (id, _) => Ok(id),
        }
    }
}

/// The error for a key that the model cannot do without.
pub(super) fn missing(key: &str) -> GgufError {
    GgufError::MissingKey { key: key.into() }
}

/// The error for a value of another type.
pub(super) fn wrong(key: &str, expected: &'static str, found: &Value) -> GgufError {
    /// Characters of a value that an error shows.
    const SHOWN: usize = 80;
    GgufError::WrongValue {
        key: key.into(),
        expected,
        found: cut(&format_args!("{found:?}"), SHOWN),
    }
}
