//! The sizes that plans, caches and retaining heads need of a decoder.

use serde::{Deserialize, Serialize};

use super::config::DecoderConfig;

/// How many attention layers and heads a decoder has, and how wide a head is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttentionShape {
    /// Number of layers.
    pub layers: usize,
    /// Query heads of a layer.
    pub heads: usize,
    /// Key/value heads of a layer.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
}

impl DecoderConfig {
    /// The sizes of this decoder's attention.
    pub fn attention_shape(&self) -> AttentionShape {
        AttentionShape {
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
        }
    }
}

impl From<&DecoderConfig> for AttentionShape {
    fn from(config: &DecoderConfig) -> Self {
        config.attention_shape()
    }
}
