//! GGUF files as Hugging Face models: tensors, `config.json`, tokenizer.
//!
//! | file | holds |
//! |---|---|
//! | `parts` | the files of a split model, and the one model in a folder: [`find`] |
//! | `header` | the file's metadata and tensor descriptions, bounded by the file's length: [`Header`] |
//! | `kind`, `blocks`, `iq4` | stored types, and blocks to elements (dequantised by candle-core but for IQ4) |
//! | `open`, `names` | tensor names and llama.cpp's row order, per architecture |
//! | `config`, `rope`, `scaling` | `config.json` and `generation_config.json` from metadata |
//! | `tokenizer` | `tokenizer.json` and `tokenizer_config.json` from metadata: [`GgufTokenizer`] |
//!
//! candle's own reader is not used: it allocates what the file says before it knows that the file
//! is that long.

mod blocks;
mod config;
mod error;
mod header;
mod iq4;
mod kind;
mod names;
mod open;
mod parts;
mod rope;
mod scaling;
mod tokenizer;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value as Json};

pub(super) use blocks::BlockTensor;
pub use error::GgufError;
pub use header::{Described, Header, MAX_KEYS, MAX_TENSORS, Value};
pub use kind::Kind;
pub(super) use open::open;
pub use parts::find;
pub(super) use parts::open_all;
pub use tokenizer::GgufTokenizer;

use super::mapped::MappedFile;
use rope::Llama3;

/// What a GGUF file says about its model beside the tensors.
#[derive(Debug, Clone)]
pub struct Gguf {
    /// The name of the architecture in the file.
    name: &'static str,
    architecture: Architecture,
    metadata: BTreeMap<String, Value>,
    /// Rows of the embedding.
    vocab_size: usize,
    /// Whether the output projection is the embedding.
    tied: bool,
    /// Llama 3's frequency scaling, recovered from its factors.
    llama3: Option<Llama3>,
    /// The projections of a layer that have biases, by their Hugging Face names, and whether a bias
    /// of any layer is not 0.
    biases: BTreeMap<String, bool>,
}

/// The families of models that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Architecture {
    /// Llama 2, 3, 3.1, 3.2, Yi, SmolLM2, Mistral without sliding window.
    Llama,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3.
    Qwen3,
}

impl Architecture {
    /// Its name in GGUF metadata and in `model_type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

impl Gguf {
    /// Reads what the GGUF file that `bytes` is, the whole of it, says about its model; tensors'
    /// names, shapes and places are checked, their data not touched but for biases. Of a split model, what the one
    /// part says.
    ///
    /// [`Checkpoint::open`](super::Checkpoint::open) is the way to read tensors.
    ///
    /// # Errors
    ///
    /// A [`GgufError`] for the first thing that does not hold.
    pub fn parse(bytes: &[u8]) -> Result<Self, GgufError> {
        let file = MappedFile::in_memory(Path::new("memory"), bytes);
        let header = Header::parse(file.bytes())?;
        open(vec![(file, header)]).map(|opened| opened.gguf)
    }

    /// The family of the model.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// A metadata value by its key in the file.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// The chat template as `tokenizer_config.json` has it: a text, or, where the file has further ones
    /// by name, an object; null where there is none.
    pub fn chat_template(&self) -> Json {
        const KEY: &str = "tokenizer.chat_template";
        let text = |value: &Value| match value {
            Value::Text(text) => Some(Json::from(text.as_str())),
            _ => None,
        };
        let default = self.get(KEY).and_then(text);
        let named = self.metadata.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix(KEY)?.strip_prefix('.')?;
            Some((name.to_owned(), text(value)?))
        });
        let mut named: Map<String, Json> = named.collect();
        if named.is_empty() {
            return default.unwrap_or_default();
        }
        named.extend(default.map(|default| ("default".to_owned(), default)));
        named.into()
    }

    /// The key of the architecture's own metadata, such as `llama.block_count`.
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    fn wrong(key: &str, expected: &'static str, found: &Value) -> GgufError {
        let mut found = format!("{found:?}");
        found.truncate(
            found
                .char_indices()
                .nth(80)
                .map_or(found.len(), |(at, _)| at),
        );
        GgufError::WrongValue {
            key: key.into(),
            expected,
            found,
        }
    }

    fn optional_integer(&self, key: &str) -> Result<Option<usize>, GgufError> {
        let integer = match self.get(key) {
            None => return Ok(None),
            Some(Value::Unsigned(n)) => usize::try_from(*n).ok(),
            Some(Value::Signed(n)) => usize::try_from(*n).ok(),
            Some(_) => None,
        };
        match (integer, self.get(key)) {
            (None, Some(value)) => Err(Self::wrong(key, "one non-negative integer", value)),
            (found, _) => Ok(found),
        }
    }

    fn integer(&self, key: &str) -> Result<usize, GgufError> {
        self.optional_integer(key)?
            .ok_or_else(|| GgufError::MissingKey { key: key.into() })
    }

    /// A float as the shortest decimal that its stored type reads back: 1e-5 and not 9.9999997e-6.
    fn optional_float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) if x.is_finite() => Ok(x.to_string().parse().ok()),
            Some(Value::Double(x)) if x.is_finite() => Ok(Some(*x)),
            Some(other) => Err(Self::wrong(key, "one finite float", other)),
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(Self::wrong(key, "true or false", other)),
        }
    }

    fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(Self::wrong(key, "a text", other)),
        }
    }
}
