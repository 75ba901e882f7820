//! The shape of a decoder.

use burn::config::Config;

use super::rope::{Rope, RopeConfig};

/// Largest vocabulary accepted; the largest published one has about 260,000 entries.
pub(crate) const MAX_VOCAB_SIZE: usize = 1 << 24;
/// Largest width (hidden or intermediate) accepted.
pub(crate) const MAX_WIDTH: usize = 1 << 20;
/// Most layers, or heads in a layer, accepted.
pub(crate) const MAX_COUNT: usize = 1 << 12;
/// Largest head dimension accepted.
pub(crate) const MAX_HEAD_DIM: usize = 1 << 10;
/// Longest context accepted, in tokens.
pub(crate) const MAX_CONTEXT: usize = 1 << 30;

/// The architectures that share this decoder.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2, 3, 3.1, 3.2, Yi, SmolLM2 and others with `model_type` `llama`, and those that compute
    /// the same: Mistral and Ministral without a window, Seed-OSS, Aquila, XVERSE.
    Llama,
    /// Qwen2 and Qwen2.5: biases on the query, key and value projections.
    Qwen2,
    /// Qwen3: RMS norms on each query and key head, explicit head dimension.
    Qwen3,
}

/// Configuration of a [`Decoder`](super::Decoder); create one from a model's `config.json` with
/// [`DecoderConfig::from_json`].
#[derive(Config, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Which architecture the weights belong to.
    pub architecture: Architecture,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Decoder blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key/value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Epsilon of every RMS norm.
    #[config(default = 1e-5)]
    pub rms_norm_eps: f64,
    /// Whether the query, key and value projections have biases.
    #[config(default = false)]
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    #[config(default = false)]
    pub output_bias: bool,
    /// Whether the MLP's projections have biases.
    #[config(default = false)]
    pub mlp_bias: bool,
    /// Whether queries and keys are normalised per head before the rotation.
    #[config(default = false)]
    pub qk_norm: bool,
    /// Whether the output head is the embedding matrix.
    #[config(default = false)]
    pub tie_word_embeddings: bool,
    /// Positions the model was trained with, in tokens, as the file states them.
    #[config(default = 2048)]
    pub max_position_embeddings: usize,
    /// Positions that the rotary scaling reaches, in tokens, where they are more.
    #[config(default = "None")]
    pub scaled_context: Option<usize>,
    /// Keys that a row of some layer attends to at most, in tokens. It is never less than
    /// [`Self::context`]: a smaller window is refused, as it is not computed.
    #[config(default = "None")]
    pub attention_window: Option<usize>,
    /// Rotary position embedding.
    #[config(default = "RopeConfig::new()")]
    pub rope: RopeConfig,
}

impl DecoderConfig {
    /// Query heads that share one key/value head.
    pub fn group_size(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }

    /// The longest sequence the model was made for, in tokens.
    pub fn context(&self) -> usize {
        self.scaled_context
            .unwrap_or_default()
            .max(self.max_position_embeddings)
    }

    /// The rotary frequencies for sequences of up to `context` tokens.
    pub fn rope(&self, context: usize) -> Rope {
        self.rope.init(self.head_dim, context)
    }

    /// Parameters of the decoder, the tied output head counted once.
    pub fn num_parameters(&self) -> usize {
        let (d, i) = (self.hidden_size, self.intermediate_size);
        let q = self.num_attention_heads * self.head_dim;
        let kv = self.num_key_value_heads * self.head_dim;
        let attention = 2 * d * q
            + 2 * d * kv
            + usize::from(self.qkv_bias) * (q + 2 * kv)
            + usize::from(self.output_bias) * d
            + usize::from(self.qk_norm) * 2 * self.head_dim;
        let mlp = 3 * d * i + usize::from(self.mlp_bias) * (2 * i + d);
        let embeddings = self.vocab_size * d * if self.tie_word_embeddings { 1 } else { 2 };
        self.num_hidden_layers * (attention + mlp + 2 * d) + embeddings + d
    }
}
