//! A decoder's configuration as GGUF metadata, as llama.cpp's converter writes it.

use super::error::GgufError;
use super::rope::Llama3;
use super::writer::Entries;
use crate::model::{Architecture, DecoderConfig, RopeScaling};

/// A model's description in GGUF.
pub(crate) struct Described {
    /// Whether rows of the query and key projections are interleaved.
    pub interleaves: bool,
    /// The factors by which rotary frequencies are divided, a tensor of the file.
    pub rope_factors: Option<Vec<f32>>,
}

/// Writes a configuration into `entries`, or says by name what GGUF has no word for.
pub(crate) fn describe(
    config: &DecoderConfig,
    entries: &mut Entries,
) -> Result<Described, GgufError> {
    let (heads, head_dim) = (config.num_attention_heads, config.head_dim);
    let architecture = match config.architecture {
        Architecture::Qwen2 if heads * head_dim == config.hidden_size => "qwen2",
        // llama.cpp's Qwen2 has heads that make up the width, its Llama any heads and biases.
        Architecture::Llama | Architecture::Qwen2 => "llama",
        Architecture::Qwen3 => "qwen3",
    };
    entries.text("general.architecture", architecture);
    entries.text("general.type", "model");
    let key = |name: &str| format!("{architecture}.{name}");
    // All of them are far below 2^32: larger ones are refused where a configuration is read.
    let sizes = [
        ("block_count", config.num_hidden_layers),
        ("context_length", config.max_position_embeddings),
        ("embedding_length", config.hidden_size),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", heads),
        ("attention.head_count_kv", config.num_key_value_heads),
        ("attention.key_length", head_dim),
        ("attention.value_length", head_dim),
        ("rope.dimension_count", head_dim),
        ("vocab_size", config.vocab_size),
    ];
    for (name, size) in sizes {
        entries.integer(key(name), size as u32);
    }
    const EPSILON: &str = "attention.layer_norm_rms_epsilon";
    entries.float(key(EPSILON), config.rms_norm_eps as f32);
    entries.float(key("rope.freq_base"), config.rope.theta as f32);
    let scaling = |name: &str| key(&format!("rope.scaling.{name}"));
    let unsupported = |what, found| Err(GgufError::Unsupported { what, found });
    let mut rope_factors = None;
    match config.rope.scaling {
        RopeScaling::Default => {}
        RopeScaling::Linear { factor } => {
            entries.text(scaling("type"), "linear");
            entries.float(scaling("factor"), factor as f32);
        }
        RopeScaling::Dynamic { factor, .. } => {
            let what = "in GGUF, rotary positions that are scaled by the length of the text";
            return unsupported(what, format!("dynamic scaling by {factor}"));
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        } => {
            let parameters = Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original_context,
            };
            let factors = parameters.factors(head_dim / 2, config.rope.theta);
            // A file that cannot be read back is not written.
            Llama3::recover(&factors, config.rope.theta)?;
            rope_factors = Some(factors);
        }
        RopeScaling::Yarn {
            factor,
            original_context,
            beta_fast,
            beta_slow,
            truncate,
            attention_factor,
        } => {
            if !truncate {
                let what = "in GGUF, YaRN whose ramp ends between dimensions";
                return unsupported(what, "truncate = false".into());
            }
            entries.text(scaling("type"), "yarn");
            entries.float(scaling("factor"), factor as f32);
            let original = scaling("original_context_length");
            entries.integer(original, original_context as u32);
            // llama.cpp multiplies this to the factor that it computes itself.
            let multiplier =
                (attention_factor / RopeScaling::yarn_attention_factor(factor, None)) as f32;
            for (name, value, default) in [
                ("attn_factor", multiplier, 1.0),
                ("yarn_beta_fast", beta_fast as f32, 32.0),
                ("yarn_beta_slow", beta_slow as f32, 1.0),
            ] {
                if value != default {
                    entries.float(scaling(name), value);
                }
            }
        }
    }
    Ok(Described {
        interleaves: architecture == "llama",
        rope_factors,
    })
}
