//! What a GGUF file holds about its model beside the tensors.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::error::GgufError;
use super::header::Value;
use super::metadata::{Metadata, missing};
use super::rope::Llama3;
use crate::model::Architecture;

/// A model in a GGUF file, without its tensors.
#[derive(Debug, Clone)]
pub struct Gguf {
    /// The name of the architecture in the file.
    pub(super) name: &'static str,
    pub(super) architecture: Architecture,
    pub(super) metadata: BTreeMap<String, Value>,
    /// Rows of the embedding.
    pub(super) vocab_size: usize,
    /// Whether the output projection is the embedding.
    pub(super) tied: bool,
    /// Llama 3's frequency scaling, recovered from its factors.
    pub(super) llama3: Option<Llama3>,
    /// The projections of a layer that have biases, by their Hugging Face names, and whether a bias
    /// of any layer is not 0.
    pub(super) biases: BTreeMap<String, bool>,
}

impl Gguf {
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

    pub(super) fn metadata(&self) -> Metadata<'_> {
        Metadata(&self.metadata)
    }

    /// The key of the architecture's own metadata, such as `llama.block_count`.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    /// An integer of the architecture's own metadata.
    pub(super) fn integer(&self, name: &str) -> Result<Option<usize>, GgufError> {
        self.metadata().integer(&self.key(name))
    }

    /// An integer that the model cannot do without.
    pub(super) fn required(&self, name: &str) -> Result<usize, GgufError> {
        self.integer(name)?.ok_or_else(|| missing(&self.key(name)))
    }

    /// A float of the architecture's own metadata.
    pub(super) fn float(&self, name: &str) -> Result<Option<f64>, GgufError> {
        self.metadata().float(&self.key(name))
    }
}
