//! The shape of a decoder's attention.

use serde::{Deserialize, Serialize};

use super::config::DecoderConfig;

/// What plans, caches and retaining heads need to know of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttentionShape {
    /// Layers.
    pub layers: usize,
    /// Query heads of a layer.
    pub heads: usize,
    /// Key/value heads of a layer; they divide the query heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl From<&DecoderConfig> for AttentionShape {
    fn from(config: &DecoderConfig) -> Self {
        Self {
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        }
    }
}
