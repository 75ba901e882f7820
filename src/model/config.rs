//! The shape of a decoder, and how it is read from a Hugging Face `config.json`.

use std::path::{Path, PathBuf};

use burn::config::Config;
use serde_json::{Map, Value};

use super::rope::{RopeConfig, RopeScaling};

/// Largest vocabulary accepted; the largest published one has about 260,000 entries.
pub const MAX_VOCAB_SIZE: usize = 1 << 24;
/// Largest width (hidden or intermediate) accepted.
pub const MAX_WIDTH: usize = 1 << 20;
/// Most layers, or heads in a layer, accepted.
pub const MAX_COUNT: usize = 1 << 12;
/// Largest head dimension accepted.
pub const MAX_HEAD_DIM: usize = 1 << 10;
/// Longest context accepted, in tokens.
pub const MAX_CONTEXT: usize = 1 << 30;

/// Why a `config.json` was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is not a JSON object.
    #[error("config.json is not a JSON object: {reason}; download the model again")]
    Json {
        /// What the parser said.
        reason: String,
    },
    /// A field that has no default is absent.
    #[error("config.json has no `{field}`; it is required for model_type `{model_type}`")]
    Missing {
        /// The absent field.
        field: &'static str,
        /// The model type that needs it.
        model_type: String,
    },
    /// A field has the wrong type or an impossible value.
    #[error("config.json: `{field}` is {found}, expected {expected}")]
    Value {
        /// The field.
        field: String,
        /// What it would have to be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The configuration asks for something this crate does not compute.
    #[error(
        "config.json: `{field}` = {found} is not supported ({supported}); \
         running without it would give wrong answers, so the model is refused"
    )]
    Unsupported {
        /// The field.
        field: String,
        /// Its value.
        found: String,
        /// What is supported instead.
        supported: &'static str,
    },
}

/// The architectures that share this decoder.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2, 3, 3.1, 3.2, Yi, SmolLM2 and others with `model_type` `llama`.
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
    /// Longest sequence the model was made for, in tokens.
    #[config(default = 2048)]
    pub max_position_embeddings: usize,
    /// Rotary position embedding.
    #[config(default = "RopeConfig::new()")]
    pub rope: RopeConfig,
}

impl DecoderConfig {
    /// Query heads that share one key/value head.
    pub fn group_size(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
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

    /// Reads a model's `config.json`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Read`] when the file cannot be read, otherwise as [`Self::from_json`].
    pub fn from_json_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        Self::from_json(&text)
    }

    /// Reads the text of a Hugging Face `config.json`.
    ///
    /// Fields that only matter for training or for other libraries are passed over; a field that
    /// changes what the model computes in a way this crate does not follow is refused by name.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] naming the field, what was expected and what was found.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let raw: Value = serde_json::from_str(text).map_err(|e| ConfigError::Json {
            reason: e.to_string(),
        })?;
        let Value::Object(raw) = raw else {
            return Err(ConfigError::Json {
                reason: format!("found {}", brief(&raw)),
            });
        };
        let fields = Fields::new(&raw)?;
        fields.refuse_unsupported()?;
        fields.decoder()
    }
}

/// A `config.json` while it is read.
struct Fields<'a> {
    raw: &'a Map<String, Value>,
    architecture: Architecture,
    model_type: String,
}

impl<'a> Fields<'a> {
    fn new(raw: &'a Map<String, Value>) -> Result<Self, ConfigError> {
        let model_type = match raw.get("model_type") {
            Some(Value::String(name)) => name.clone(),
            Some(other) => return Err(value_error("model_type", "a string", other)),
            None => {
                return Err(ConfigError::Missing {
                    field: "model_type",
                    model_type: "?".into(),
                });
            }
        };
        let architecture = match model_type.as_str() {
            "llama" => Architecture::Llama,
            "qwen2" => Architecture::Qwen2,
            "qwen3" => Architecture::Qwen3,
            _ => {
                return Err(unsupported(
                    "model_type",
                    &Value::String(model_type),
                    "llama, qwen2 and qwen3 are",
                ));
            }
        };
        Ok(Self {
            raw,
            architecture,
            model_type,
        })
    }

    fn decoder(&self) -> Result<DecoderConfig, ConfigError> {
        use Architecture::{Llama, Qwen2, Qwen3};

        let hidden_size = self.size("hidden_size", MAX_WIDTH)?;
        let heads = self.size("num_attention_heads", MAX_COUNT)?;
        let kv_heads = self
            .optional_size("num_key_value_heads", MAX_COUNT)?
            .unwrap_or(heads);
        if heads % kv_heads != 0 {
            return Err(ConfigError::Value {
                field: "num_key_value_heads".into(),
                expected: format!("a divisor of num_attention_heads = {heads}"),
                found: kv_heads.to_string(),
            });
        }
        let head_dim = match self.optional_size("head_dim", MAX_HEAD_DIM)? {
            Some(head_dim) => head_dim,
            None if self.architecture == Qwen3 => 128,
            None if hidden_size % heads == 0 => hidden_size / heads,
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
        let attention_bias = self.flag("attention_bias")?;
        let max_position_embeddings = self
            .optional_size("max_position_embeddings", MAX_CONTEXT)?
            .unwrap_or(if self.architecture == Llama {
                2048
            } else {
                32768
            });
        let eps_default = 1e-6;

        Ok(DecoderConfig {
            architecture: self.architecture,
            vocab_size: self.size("vocab_size", MAX_VOCAB_SIZE)?,
            hidden_size,
            intermediate_size: self.size("intermediate_size", MAX_WIDTH)?,
            num_hidden_layers: self.size("num_hidden_layers", MAX_COUNT)?,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            rms_norm_eps: self
                .number("rms_norm_eps", f64::MIN_POSITIVE..1.0)?
                .unwrap_or(eps_default),
            qkv_bias: self.architecture == Qwen2 || attention_bias,
            output_bias: self.architecture != Qwen2 && attention_bias,
            mlp_bias: self.architecture == Llama && self.flag("mlp_bias")?,
            qk_norm: self.architecture == Qwen3,
            tie_word_embeddings: self.flag("tie_word_embeddings")?,
            max_position_embeddings,
            rope: self.rope(max_position_embeddings)?,
        })
    }

    /// Everything that would change the computation in a way this decoder does not follow.
    fn refuse_unsupported(&self) -> Result<(), ConfigError> {
        let expected = match self.architecture {
            Architecture::Llama => "LlamaForCausalLM",
            Architecture::Qwen2 => "Qwen2ForCausalLM",
            Architecture::Qwen3 => "Qwen3ForCausalLM",
        };
        match self.raw.get("architectures") {
            None | Some(Value::Null) => {}
            Some(Value::Array(names)) => {
                if let Some(other) = names.iter().find(|n| n.as_str() != Some(expected)) {
                    return Err(unsupported(
                        "architectures",
                        other,
                        "causal language models of the same model_type are",
                    ));
                }
            }
            Some(other) => return Err(value_error("architectures", "a list of names", other)),
        }
        match self.raw.get("hidden_act") {
            None => {}
            Some(Value::String(act)) if act == "silu" || act == "swish" => {}
            Some(other) => return Err(unsupported("hidden_act", other, "silu is")),
        }

        // Qwen2 and Qwen3 write `sliding_window` beside `use_sliding_window: false`.
        let windowed = match self.architecture {
            Architecture::Llama => self.active("sliding_window"),
            _ => self.active("use_sliding_window"),
        };
        if let Some((field, value)) = windowed {
            return Err(unsupported(field, value, "full attention is"));
        }
        if let Some(Value::Array(kinds)) = self.raw.get("layer_types")
            && let Some(other) = kinds.iter().find(|k| k.as_str() != Some("full_attention"))
        {
            return Err(unsupported("layer_types", other, "full_attention is"));
        }

        const REFUSED: [(&str, &str); 14] = [
            ("num_experts", "dense MLPs are"),
            ("num_local_experts", "dense MLPs are"),
            ("n_routed_experts", "dense MLPs are"),
            (
                "quantization_config",
                "unquantised safetensors and GGUF are",
            ),
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
            if let Some((field, value)) = self.active(field) {
                return Err(unsupported(field, value, supported));
            }
        }
        const MUST_BE_ONE: [&str; 5] = [
            "partial_rotary_factor",
            "residual_multiplier",
            "embedding_multiplier",
            "logits_scaling",
            "attention_multiplier",
        ];
        for field in MUST_BE_ONE {
            match self.raw.get(field) {
                None | Some(Value::Null) => {}
                Some(v) if v.as_f64() == Some(1.0) => {}
                Some(v) => return Err(unsupported(field, v, "1 is")),
            }
        }
        Ok(())
    }

    /// RoPE in either spelling: `rope_theta` with `rope_scaling`, or `rope_parameters`.
    fn rope(&self, max_position_embeddings: usize) -> Result<RopeConfig, ConfigError> {
        let mut scaling = Map::new();
        for field in ["rope_parameters", "rope_scaling"] {
            match self.raw.get(field) {
                None | Some(Value::Null) => {}
                Some(Value::Object(object)) => {
                    scaling.extend(object.iter().map(|(k, v)| (k.clone(), v.clone())));
                }
                Some(other) => return Err(value_error(field, "an object", other)),
            }
        }
        let inner = Fields {
            raw: &scaling,
            architecture: self.architecture,
            model_type: self.model_type.clone(),
        };
        if let Some(v) = scaling.get("partial_rotary_factor")
            && v.as_f64() != Some(1.0)
        {
            return Err(unsupported("partial_rotary_factor", v, "1 is"));
        }

        const POSITIVE: std::ops::Range<f64> = f64::MIN_POSITIVE..1e15;
        const THETA: std::ops::Range<f64> = 2.0..1e15;
        let theta = match self.number("rope_theta", THETA)? {
            Some(theta) => theta,
            None => inner.number("rope_theta", THETA)?.unwrap_or(10_000.0),
        };
        let kind = match scaling.get("rope_type").or_else(|| scaling.get("type")) {
            None | Some(Value::Null) => "default",
            Some(Value::String(kind)) => kind.as_str(),
            Some(other) => return Err(value_error("rope_type", "a string", other)),
        };
        let original = inner
            .optional_size("original_max_position_embeddings", MAX_CONTEXT)?
            .or(self.optional_size("original_max_position_embeddings", MAX_CONTEXT)?);
        let factor = || inner.required_number("factor", 1.0..1e6);

        let scaling = match kind {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: factor()? },
            "dynamic" => RopeScaling::Dynamic {
                factor: factor()?,
                original_context: original.unwrap_or(max_position_embeddings),
            },
            "llama3" => {
                let low = inner.required_number("low_freq_factor", POSITIVE)?;
                let high = inner.required_number("high_freq_factor", POSITIVE)?;
                if high <= low {
                    return Err(ConfigError::Value {
                        field: "high_freq_factor".into(),
                        expected: format!("more than low_freq_factor = {low}"),
                        found: high.to_string(),
                    });
                }
                RopeScaling::Llama3 {
                    factor: factor()?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_context: original.unwrap_or(max_position_embeddings),
                }
            }
            "yarn" => {
                let original_context = original.unwrap_or(max_position_embeddings);
                let factor = match inner.number("factor", 1.0..1e6)? {
                    Some(factor) => factor,
                    None => max_position_embeddings as f64 / original_context as f64,
                };
                let attention_factor = inner.number("attention_factor", POSITIVE)?;
                let mscale = inner.number("mscale", 0.0..1e6)?.filter(|m| *m != 0.0);
                let mscale_all_dim = inner
                    .number("mscale_all_dim", 0.0..1e6)?
                    .filter(|m| *m != 0.0);
                RopeScaling::Yarn {
                    factor,
                    original_context,
                    beta_fast: inner.number("beta_fast", POSITIVE)?.unwrap_or(32.0),
                    beta_slow: inner.number("beta_slow", POSITIVE)?.unwrap_or(1.0),
                    truncate: scaling
                        .get("truncate")
                        .is_none_or(|t| t != &Value::Bool(false)),
                    attention_factor: attention_factor.unwrap_or_else(|| {
                        RopeScaling::yarn_attention_factor(factor, mscale.zip(mscale_all_dim))
                    }),
                }
            }
            _ => {
                return Err(unsupported(
                    "rope_type",
                    &Value::String(kind.into()),
                    "default, linear, dynamic, llama3 and yarn are",
                ));
            }
        };
        Ok(RopeConfig { theta, scaling })
    }

    /// The field and its value, unless it is absent, null, false, zero or empty.
    fn active(&self, field: &'static str) -> Option<(&'static str, &'a Value)> {
        let value = self.raw.get(field)?;
        let off = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Number(n) => n.as_f64() == Some(0.0),
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            _ => false,
        };
        (!off).then_some((field, value))
    }

    fn flag(&self, field: &'static str) -> Result<bool, ConfigError> {
        match self.raw.get(field) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(value_error(field, "true or false", other)),
        }
    }

    fn size(&self, field: &'static str, max: usize) -> Result<usize, ConfigError> {
        self.optional_size(field, max)?
            .ok_or_else(|| ConfigError::Missing {
                field,
                model_type: self.model_type.clone(),
            })
    }

    fn optional_size(&self, field: &'static str, max: usize) -> Result<Option<usize>, ConfigError> {
        match self.raw.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(n) if (1..=max).contains(&n) => Ok(Some(n)),
                _ => Err(value_error(
                    field,
                    format!("a whole number from 1 to {max}"),
                    value,
                )),
            },
        }
    }

    fn number(
        &self,
        field: &'static str,
        range: std::ops::Range<f64>,
    ) -> Result<Option<f64>, ConfigError> {
        match self.raw.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(x) if range.contains(&x) => Ok(Some(x)),
                _ => Err(value_error(
                    field,
                    format!("a number from {:e} to below {:e}", range.start, range.end),
                    value,
                )),
            },
        }
    }

    fn required_number(
        &self,
        field: &'static str,
        range: std::ops::Range<f64>,
    ) -> Result<f64, ConfigError> {
        self.number(field, range)?
            .ok_or_else(|| ConfigError::Missing {
                field,
                model_type: self.model_type.clone(),
            })
    }
}

fn value_error(field: &str, expected: impl Into<String>, found: &Value) -> ConfigError {
    ConfigError::Value {
        field: field.into(),
        expected: expected.into(),
        found: brief(found),
    }
}

fn unsupported(field: &str, found: &Value, supported: &'static str) -> ConfigError {
    ConfigError::Unsupported {
        field: field.into(),
        found: brief(found),
        supported,
    }
}

/// A JSON value short enough for a line of output.
fn brief(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn llama() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 512,
            "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        })
    }

    fn with(field: &str, value: Value) -> Result<DecoderConfig, ConfigError> {
        let mut raw = llama();
        raw[field] = value;
        DecoderConfig::from_json(&raw.to_string())
    }

    #[test]
    fn llama_fields_and_defaults() {
        let config = DecoderConfig::from_json(&llama().to_string()).unwrap();
        assert_eq!(config.head_dim, 16);
        assert_eq!(config.group_size(), 2);
        assert!(!config.qkv_bias && !config.qk_norm && !config.tie_word_embeddings);
        assert_eq!(config.rope, RopeConfig::new());
    }

    #[test]
    fn qwen_variants() {
        let mut raw = llama();
        raw["model_type"] = json!("qwen2");
        raw["architectures"] = json!(["Qwen2ForCausalLM"]);
        raw["use_sliding_window"] = json!(false);
        raw["sliding_window"] = json!(32768);
        let qwen2 = DecoderConfig::from_json(&raw.to_string()).unwrap();
        assert!(qwen2.qkv_bias && !qwen2.output_bias && !qwen2.qk_norm);
        raw["use_sliding_window"] = json!(true);
        let error = DecoderConfig::from_json(&raw.to_string()).unwrap_err();
        assert!(error.to_string().contains("use_sliding_window"), "{error}");

        raw["model_type"] = json!("qwen3");
        raw["architectures"] = json!(["Qwen3ForCausalLM"]);
        raw["use_sliding_window"] = json!(false);
        let qwen3 = DecoderConfig::from_json(&raw.to_string()).unwrap();
        assert!(qwen3.qk_norm && !qwen3.qkv_bias);
        assert_eq!(qwen3.head_dim, 128);
    }

    #[test]
    fn absurd_values_name_the_field() {
        let cases = [
            ("vocab_size", json!(1e18)),
            ("vocab_size", json!(1_000_000_000_000_000_000u64)),
            ("hidden_size", json!(-64)),
            ("hidden_size", json!("64")),
            ("head_dim", json!(0)),
            ("head_dim", json!(15)),
            ("num_key_value_heads", json!(3)),
            ("num_hidden_layers", json!(0)),
            ("num_hidden_layers", json!(2.5)),
            ("rms_norm_eps", json!(-1e-5)),
            ("rope_theta", json!(0)),
            // Every wavelength would be the same, and YaRN would divide by its logarithm, 0.
            ("rope_theta", json!(1)),
            ("tie_word_embeddings", json!("yes")),
        ];
        for (field, value) in cases {
            let error = with(field, value.clone()).unwrap_err();
            assert!(
                matches!(&error, ConfigError::Value { field: f, .. } if f == field),
                "{field} = {value}: {error}"
            );
        }
        for field in [
            "vocab_size",
            "hidden_size",
            "num_attention_heads",
            "model_type",
        ] {
            let mut raw = llama();
            raw.as_object_mut().unwrap().remove(field);
            let error = DecoderConfig::from_json(&raw.to_string()).unwrap_err();
            assert!(
                matches!(&error, ConfigError::Missing { field: f, .. } if *f == field),
                "{field}: {error}"
            );
        }
        for text in ["", "[]", "{", "nul", "\"llama\""] {
            let error = DecoderConfig::from_json(text).unwrap_err();
            assert!(matches!(error, ConfigError::Json { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        let cases = [
            ("model_type", json!("mixtral")),
            ("architectures", json!(["LlamaForSequenceClassification"])),
            ("hidden_act", json!("gelu")),
            ("sliding_window", json!(4096)),
            (
                "layer_types",
                json!(["full_attention", "sliding_attention"]),
            ),
            ("num_experts", json!(8)),
            ("num_local_experts", json!(8)),
            ("quantization_config", json!({"quant_method": "gptq"})),
            ("partial_rotary_factor", json!(0.5)),
            ("rope_interleaved", json!(true)),
        ];
        for (field, value) in cases {
            let error = with(field, value).unwrap_err();
            assert!(
                matches!(&error, ConfigError::Unsupported { field: f, .. } if f == field),
                "{field}: {error}"
            );
        }
        let error = with("rope_scaling", json!({"rope_type": "longrope"})).unwrap_err();
        assert!(error.to_string().contains("longrope"), "{error}");
    }

    #[test]
    fn both_rope_spellings_are_one() {
        let scaling = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 256,
        });
        let classic = with("rope_scaling", scaling.clone()).unwrap();
        let mut parameters = scaling;
        parameters["rope_theta"] = json!(10000.0);
        let mut raw = llama();
        raw.as_object_mut().unwrap().remove("rope_theta");
        raw["rope_parameters"] = parameters;
        let newer = DecoderConfig::from_json(&raw.to_string()).unwrap();
        assert_eq!(classic, newer);
        assert!(matches!(
            classic.rope.scaling,
            RopeScaling::Llama3 {
                original_context: 256,
                ..
            }
        ));
    }

    #[test]
    fn parameters_of_smollm2() {
        let config = DecoderConfig::new(Architecture::Llama, 49152, 576, 1536, 30, 9, 3, 64)
            .with_tie_word_embeddings(true);
        assert_eq!(config.num_parameters(), 134_515_008);
    }
}
