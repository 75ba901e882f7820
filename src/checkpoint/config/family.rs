//! The model types that are read, and what differs between them.

use crate::model::Architecture;

/// A `model_type` and what its configuration class does with absent fields. The values are those of
/// transformers; a file that states them all is read alike by every family of an architecture.
pub(super) struct Family {
    pub(super) model_type: &'static str,
    pub(super) architecture: Architecture,
    /// What `architectures` names.
    pub(super) causal_lm: &'static str,
    pub(super) biases: Biases,
    pub(super) window: Window,
    /// Key/value heads where the field is absent; as many as query heads where it is null.
    pub(super) kv_heads: Option<usize>,
    /// Head dimension where the field is absent; the width over the heads otherwise.
    pub(super) head_dim: Option<usize>,
    /// `max_position_embeddings` where it is absent.
    pub(super) max_positions: usize,
}

/// Which projections have biases.
pub(super) enum Biases {
    /// None, whatever is in the file.
    None,
    /// Query, key and value.
    Qkv,
    /// All of attention by `attention_bias`, the MLP by `mlp_bias`.
    Llama,
    /// All of attention by `attention_bias`.
    Qwen3,
    /// Query, key and value by `attention_bias` (true where absent), the output by
    /// `attention_out_bias`, the MLP by `mlp_bias`.
    SeedOss,
}

/// Which layers have a sliding window.
pub(super) enum Window {
    /// None, whatever is in the file.
    Ignored,
    /// All of them where `sliding_window` is a number; absent, it is this one.
    All {
        default: usize,
        /// Whether `layer_types` may name layers without it.
        by_layer: bool,
    },
    /// With `use_sliding_window`, those that `layer_types` names or that follow `max_window_layers`.
    Qwen,
}

/// The first is the one that messages name.
pub(super) const FAMILIES: [Family; 9] = [
    LLAMA,
    Family {
        model_type: "qwen2",
        architecture: Architecture::Qwen2,
        causal_lm: "Qwen2ForCausalLM",
        biases: Biases::Qkv,
        window: Window::Qwen,
        kv_heads: Some(32),
        head_dim: None,
        max_positions: 32_768,
    },
    Family {
        model_type: "qwen3",
        architecture: Architecture::Qwen3,
        causal_lm: "Qwen3ForCausalLM",
        biases: Biases::Qwen3,
        window: Window::Qwen,
        kv_heads: Some(32),
        head_dim: Some(128),
        max_positions: 32_768,
    },
    Family {
        model_type: "mistral",
        causal_lm: "MistralForCausalLM",
        biases: Biases::None,
        window: Window::All {
            default: 4096,
            by_layer: false,
        },
        kv_heads: Some(8),
        max_positions: 131_072,
        ..LLAMA
    },
    Family {
        model_type: "ministral",
        causal_lm: "MinistralForCausalLM",
        biases: Biases::None,
        window: Window::All {
            default: 4096,
            by_layer: true,
        },
        kv_heads: Some(8),
        max_positions: 131_072,
        ..LLAMA
    },
    Family {
        model_type: "seed_oss",
        causal_lm: "SeedOssForCausalLM",
        biases: Biases::SeedOss,
        kv_heads: Some(8),
        head_dim: Some(128),
        max_positions: 524_288,
        ..LLAMA
    },
    // Published with code of their own, which computes what Llama does under Llama's names.
    Family {
        model_type: "aquila",
        causal_lm: "AquilaForCausalLM",
        ..LLAMA
    },
    Family {
        model_type: "xverse",
        causal_lm: "XverseForCausalLM",
        ..LLAMA
    },
    Family {
        model_type: "Yi",
        causal_lm: "YiForCausalLM",
        ..LLAMA
    },
];

const LLAMA: Family = Family {
    model_type: "llama",
    architecture: Architecture::Llama,
    causal_lm: "LlamaForCausalLM",
    biases: Biases::Llama,
    window: Window::Ignored,
    kv_heads: None,
    head_dim: None,
    max_positions: 2048,
};
