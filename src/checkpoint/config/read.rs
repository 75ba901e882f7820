//! A `config.json` as a [`DecoderConfig`].

use serde_json::{Map, Value};

use super::error::{ConfigError, brief, unsupported, value_error};
use super::family::{Biases, FAMILIES, Family};
use super::fields::Fields;
use super::quantization::QuantizationConfig;
use super::{rope, window};
use crate::model::{
    Architecture, DecoderConfig, MAX_CONTEXT, MAX_COUNT, MAX_HEAD_DIM, MAX_VOCAB_SIZE, MAX_WIDTH,
};
use crate::text::json;

/// Reads the text of a `config.json`; see [`DecoderConfig::read`].
pub(super) fn decoder(text: &str) -> Result<(DecoderConfig, Vec<String>), ConfigError> {
    let raw: Value = json::from_str(text).map_err(|e| ConfigError::Json {
        reason: e.to_string(),
    })?;
    let Value::Object(raw) = raw else {
        return Err(ConfigError::Json {
            reason: format!("found {}", brief(&raw)),
        });
    };
    let (model_type, family) = family(&raw)?;
    let fields = Fields {
        raw: &raw,
        model_type,
    };
    let mut warnings = Vec::new();
    refuse_unsupported(&fields, family, &mut warnings)?;
    let config = shape(&fields, family, &mut warnings)?;
    Ok((config, warnings))
}

fn family(raw: &Map<String, Value>) -> Result<(&str, &'static Family), ConfigError> {
    let model_type = match raw.get("model_type") {
        Some(Value::String(name)) => name.as_str(),
        Some(other) => return Err(value_error("model_type", "a string", other)),
        None => {
            return Err(ConfigError::Missing {
                field: "model_type",
                model_type: "?".into(),
            });
        }
    };
    let family = FAMILIES.iter().find(|f| f.model_type == model_type);
    let family = family.ok_or_else(|| {
        unsupported(
            "model_type",
            &Value::from(model_type),
            "llama, qwen2, qwen3, mistral and ministral without a window, seed_oss, aquila, xverse \
             and Yi are",
        )
    })?;
    Ok((model_type, family))
}

fn shape(
    fields: &Fields<'_>,
    family: &Family,
    warnings: &mut Vec<String>,
) -> Result<DecoderConfig, ConfigError> {
    let hidden_size = fields.size("hidden_size", MAX_WIDTH)?;
    let heads = fields.size("num_attention_heads", MAX_COUNT)?;
    let kv_heads = kv_heads(fields, family, heads)?;
    let head_dim = head_dim(fields, family, hidden_size, heads)?;
    let num_hidden_layers = fields.size("num_hidden_layers", MAX_COUNT)?;
    let max_position_embeddings = fields
        .optional_size("max_position_embeddings", MAX_CONTEXT)?
        .unwrap_or(family.max_positions);
    let bias = |field, default| Ok::<_, ConfigError>(fields.flag(field)?.unwrap_or(default));
    let (qkv_bias, output_bias, mlp_bias) = match family.biases {
        Biases::None => (false, false, false),
        Biases::Qkv => (true, false, false),
        Biases::Llama => {
            let attention = bias("attention_bias", false)?;
            (attention, attention, bias("mlp_bias", false)?)
        }
        Biases::Qwen3 => {
            let attention = bias("attention_bias", false)?;
            (attention, attention, false)
        }
        Biases::SeedOss => (
            bias("attention_bias", true)?,
            bias("attention_out_bias", false)?,
            bias("mlp_bias", false)?,
        ),
    };
    let rope = rope::read(fields, max_position_embeddings, warnings)?;
    let config = DecoderConfig {
        architecture: family.architecture,
        vocab_size: fields.size("vocab_size", MAX_VOCAB_SIZE)?,
        hidden_size,
        intermediate_size: fields.size("intermediate_size", MAX_WIDTH)?,
        num_hidden_layers,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        head_dim,
        rms_norm_eps: fields
            .number("rms_norm_eps", f64::MIN_POSITIVE..1.0)?
            .unwrap_or(1e-6),
        qkv_bias,
        output_bias,
        mlp_bias,
        qk_norm: family.architecture == Architecture::Qwen3,
        tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
        max_position_embeddings,
        scaled_context: rope.scaled_context,
        attention_window: None,
        rope: rope.rope,
    };
    let context = config.context();
    let window = window::read(fields, &family.window, num_hidden_layers, context, warnings)?;
    Ok(config.with_attention_window(window))
}

/// Key/value heads. The field's absence means something else than null.
fn kv_heads(fields: &Fields<'_>, family: &Family, heads: usize) -> Result<usize, ConfigError> {
    const FIELD: &str = "num_key_value_heads";
    let (kv_heads, found) = match fields.optional_size(FIELD, MAX_COUNT)? {
        Some(stated) => (stated, stated.to_string()),
        None => match family.kv_heads.filter(|_| !fields.raw.contains_key(FIELD)) {
            Some(default) => (
                default,
                format!("absent, which means {default} for {}", family.model_type),
            ),
            None => (heads, heads.to_string()),
        },
    };
    match heads % kv_heads {
        0 => Ok(kv_heads),
        _ => Err(ConfigError::Value {
            field: FIELD.into(),
            expected: format!("a divisor of num_attention_heads = {heads}"),
            found,
        }),
    }
}

fn head_dim(
    fields: &Fields<'_>,
    family: &Family,
    hidden_size: usize,
    heads: usize,
) -> Result<usize, ConfigError> {
    let stated = fields.optional_size("head_dim", MAX_HEAD_DIM)?;
    let default = family
        .head_dim
        .filter(|_| !fields.raw.contains_key("head_dim"));
    let head_dim = match stated.or(default) {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            return Err(ConfigError::Value {
                field: "hidden_size".into(),
                expected: format!("a multiple of num_attention_heads = {heads}"),
                found: hidden_size.to_string(),
            });
        }
    };
    if head_dim % 2 != 0 || head_dim > MAX_HEAD_DIM {
        return Err(ConfigError::Value {
            field: "head_dim".into(),
            expected: format!("an even number up to {MAX_HEAD_DIM}, as the rotation needs"),
            found: head_dim.to_string(),
        });
    }
    Ok(head_dim)
}

/// Everything that would change the computation in a way this decoder does not follow.
fn refuse_unsupported(
    fields: &Fields<'_>,
    family: &Family,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    check_architectures(fields, family, warnings)?;
    match fields.raw.get("hidden_act") {
        None => {}
        Some(Value::String(act)) if act == "silu" || act == "swish" => {}
        Some(other) => return Err(unsupported("hidden_act", other, "silu is")),
    }
    // The weights stay as they are, or become floats.
    QuantizationConfig::read(fields.raw)?;
    const REFUSED: [(&str, &str); 13] = [
        ("num_experts", "dense MLPs are"),
        ("num_local_experts", "dense MLPs are"),
        ("n_routed_experts", "dense MLPs are"),
        ("attn_logit_softcapping", "plain softmax is"),
        ("final_logit_softcapping", "plain logits are"),
        ("attention_sinks", "plain softmax is"),
        ("rope_interleaved", "the half-split rotation is"),
        ("use_dual_chunk_attention", "plain rotary positions are"),
        ("dual_chunk_attention_config", "plain rotary positions are"),
        ("cross_attention_layers", "text-only decoders are"),
        ("vision_config", "text-only decoders are"),
        ("is_encoder_decoder", "decoders are"),
        ("no_rope_layers", "rotary positions in every layer are"),
    ];
    for (field, supported) in REFUSED {
        if let Some((field, value)) = fields.active(field) {
            return Err(unsupported(field, value, supported));
        }
    }
    const MUST_BE_ONE: [&str; 4] = [
        "residual_multiplier",
        "embedding_multiplier",
        "logits_scaling",
        "attention_multiplier",
    ];
    for field in MUST_BE_ONE {
        match fields.get(field) {
            None => {}
            Some(v) if v.as_f64() == Some(1.0) => {}
            Some(v) => return Err(unsupported(field, v, "1 is")),
        }
    }
    Ok(())
}

/// The model type decides what is computed; a name that is no causal language model's has no output
/// head, or another one.
fn check_architectures(
    fields: &Fields<'_>,
    family: &Family,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    let names = match fields.get("architectures") {
        None => return Ok(()),
        Some(Value::Array(names)) => names,
        Some(other) => return Err(value_error("architectures", "a list of names", other)),
    };
    let mut other = None;
    for name in names {
        let text = name.as_str().unwrap_or_default();
        let known = FAMILIES.iter().any(|family| family.causal_lm == text);
        match text {
            _ if text == family.causal_lm => {}
            // As the first conversions of Llama's weights spelled it.
            "LLaMAForCausalLM" => {}
            _ if known => {
                other.get_or_insert(text);
            }
            _ => {
                return Err(unsupported(
                    "architectures",
                    name,
                    "causal language models of the same model_type are",
                ));
            }
        }
    }
    if let Some(other) = other {
        warnings.push(format!(
            "config.json: `architectures` names {other}, and `model_type` {}, which is used",
            family.model_type
        ));
    }
    Ok(())
}
