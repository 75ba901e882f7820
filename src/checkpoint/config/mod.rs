//! A Hugging Face `config.json` as a [`DecoderConfig`].
//!
//! | file | holds |
//! |---|---|
//! | `family` | the model types that are read, and what differs between them |
//! | `read` | the whole file |
//! | `rope` | rotary positions in each of their spellings, and the context they reach |
//! | `quantization` | `quantization_config`: how weights lie in codes |
//! | `window` | sliding windows: accepted where no layer has one that matters |
//! | `fields` | a JSON object with typed fields |

mod error;
mod family;
mod fields;
mod quantization;
mod read;
mod rope;
mod window;

use std::io;
use std::path::Path;

use super::small::read_limited;
use super::source::MAX_CONFIG_LEN;
use crate::model::DecoderConfig;

pub use error::ConfigError;
pub(super) use quantization::{Group, QuantizationConfig, Strategy};

impl DecoderConfig {
    /// Reads a model's `config.json`.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Read`] when the file cannot be read or is longer than 4 MiB, otherwise as [`Self::from_json`].
    pub fn from_json_file(path: &Path) -> Result<Self, ConfigError> {
        let utf8 = |bytes| {
            String::from_utf8(bytes)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
        };
        let text = read_limited(path, MAX_CONFIG_LEN).and_then(utf8);
        Self::from_json(&text.map_err(|source| ConfigError::Read {
            path: path.to_path_buf(),
            source,
        })?)
    }

    /// Reads the text of a Hugging Face `config.json`, as [`Self::read`] without the warnings.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        Self::read(text).map(|(config, _)| config)
    }

    /// Reads the text of a Hugging Face `config.json`, as transformers does. Also returns warnings:
    /// statements of the file that something else in it overrules.
    ///
    /// Fields that only matter for training or for other libraries are ignored; a field that
    /// changes what the model computes in a way this crate does not follow is refused by name.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] naming the field, what was expected and what was found.
    pub fn read(text: &str) -> Result<(Self, Vec<String>), ConfigError> {
        read::decoder(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Architecture, RopeConfig, RopeScaling};
    use serde_json::{Value, json};

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
        let folder = tempfile::tempdir().unwrap();
        let error = DecoderConfig::from_json_file(folder.path()).unwrap_err();
        assert!(error.to_string().contains("a regular file"), "{error}");
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
            (
                "layer_types",
                json!(["full_attention", "sliding_attention"]),
            ),
            ("num_experts", json!(8)),
            ("num_local_experts", json!(8)),
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
        let quantized = |method| with("quantization_config", json!({"quant_method": method}));
        let error = quantized("bitsandbytes").unwrap_err().to_string();
        assert!(
            error.contains("bitsandbytes") && error.contains("gptq"),
            "{error}"
        );
        assert!(quantized("fp8").is_ok());
    }

    fn read(raw: &Value) -> Result<(DecoderConfig, Vec<String>), ConfigError> {
        DecoderConfig::read(&raw.to_string())
    }

    /// Which layers transformers gives a window, by `use_sliding_window`, `max_window_layers` (28
    /// where absent) and `layer_types`; and what is accepted: no window, or one that hides nothing.
    #[test]
    fn windows_are_refused_where_a_layer_has_one() {
        let mut qwen = llama();
        qwen["model_type"] = json!("qwen2");
        qwen["architectures"] = json!(["Qwen2ForCausalLM"]);
        let (full, sliding) = ("full_attention", "sliding_attention");
        let windows = [
            (json!({"sliding_window": 64}), Some(None)),
            (
                json!({"use_sliding_window": true, "sliding_window": 64}),
                Some(None),
            ),
            (
                json!({"use_sliding_window": true, "sliding_window": 64, "max_window_layers": 3}),
                Some(None),
            ),
            (
                json!({"use_sliding_window": true, "sliding_window": 64, "max_window_layers": 2}),
                None,
            ),
            (
                json!({"use_sliding_window": true, "sliding_window": null, "max_window_layers": 0}),
                Some(None),
            ),
            (
                json!({"use_sliding_window": true, "max_window_layers": 0, "layer_types": [full, full, full]}),
                Some(None),
            ),
            (
                json!({"use_sliding_window": true, "sliding_window": 64, "layer_types": [full, sliding, full]}),
                None,
            ),
            (
                json!({"use_sliding_window": true, "sliding_window": 4096, "max_window_layers": 0}),
                Some(Some(4096)),
            ),
            (
                json!({"layer_types": [full, "chunked_attention", full]}),
                None,
            ),
        ];
        for (fields, expected) in windows {
            let mut raw = qwen.clone();
            for (name, value) in fields.as_object().unwrap() {
                raw[name] = value.clone();
            }
            match (read(&raw), expected) {
                (Ok((config, _)), Some(window)) => {
                    assert_eq!(config.attention_window, window, "{fields}");
                }
                (Err(error), None) => {
                    assert!(matches!(error, ConfigError::Unsupported { .. }), "{error}");
                }
                (found, expected) => panic!("{fields}: {found:?}, not {expected:?}"),
            }
        }
        // Llama has no window, whatever is in its file.
        let mut raw = llama();
        raw["sliding_window"] = json!(64);
        let (config, warnings) = read(&raw).unwrap();
        assert_eq!(config.attention_window, None);
        assert!(warnings[0].contains("sliding_window"), "{warnings:?}");
    }

    /// Mistral's class has a window of 4,096 and 8 key/value heads where the file names none, and
    /// never biases.
    #[test]
    fn mistral_without_a_window_is_llama() {
        let mut raw = llama();
        raw["model_type"] = json!("mistral");
        raw["architectures"] = json!(["MistralForCausalLM"]);
        raw["attention_bias"] = json!(true);
        assert_eq!(read(&raw).unwrap().0.attention_window, Some(4096));
        raw["max_position_embeddings"] = json!(8192);
        let error = read(&raw).unwrap_err().to_string();
        assert!(error.contains("`sliding_window` = 4096"), "{error}");
        raw["sliding_window"] = Value::Null;
        let config = read(&raw).unwrap().0;
        assert_eq!(config.attention_window, None);
        assert_eq!(config.architecture, Architecture::Llama);
        assert!(!config.qkv_bias && !config.output_bias);
        raw.as_object_mut().unwrap().remove("num_key_value_heads");
        let error = read(&raw).unwrap_err().to_string();
        assert!(error.contains("absent, which means 8"), "{error}");
    }

    #[test]
    fn the_model_type_decides() {
        let mut raw = llama();
        raw["architectures"] = json!(["Qwen2ForCausalLM"]);
        let (config, warnings) = read(&raw).unwrap();
        assert_eq!(config.architecture, Architecture::Llama);
        assert!(warnings[0].contains("Qwen2ForCausalLM"), "{warnings:?}");
        raw["architectures"] = json!(["Qwen2ForCausalLM", "Qwen2ForCausalLM"]);
        assert_eq!(read(&raw).unwrap().1.len(), 1);
        raw["architectures"] = json!(["LLaMAForCausalLM"]);
        assert!(read(&raw).unwrap().1.is_empty());
        raw["model_type"] = json!("seed_oss");
        raw["architectures"] = json!(["SeedOssForCausalLM"]);
        let config = read(&raw).unwrap().0;
        assert!(config.qkv_bias && !config.output_bias);
        assert_eq!(config.head_dim, 128);
    }

    /// The context reaches as far as the scaling does, by the positions that were trained: stated,
    /// or `max_position_embeddings`.
    #[test]
    fn the_context_is_the_scaled_one() {
        let mut raw = llama();
        raw["max_position_embeddings"] = json!(256);
        let contexts = [
            (json!({"rope_type": "yarn", "factor": 4.0}), 1024),
            (
                json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}),
                512,
            ),
            (
                json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}),
                256,
            ),
            (json!({"type": "linear", "factor": 2.5}), 640),
            (json!({"type": "dynamic", "factor": 3.0}), 768),
            (
                json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 64}),
                256,
            ),
            (json!({"rope_type": "default"}), 256),
        ];
        for (scaling, expected) in contexts {
            for field in ["rope_scaling", "rope_parameters"] {
                let mut raw = raw.clone();
                raw[field] = scaling.clone();
                let config = read(&raw).unwrap().0;
                assert_eq!(config.context(), expected, "{scaling}");
                assert_eq!(config.max_position_embeddings, 256);
            }
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let yarn = json!({"rope_type": "yarn", "factor": 4.0});
        for (scaling, parameters) in [
            (json!({"type": "linear", "factor": 4.0}), yarn.clone()),
            (json!({"type": "yarn", "factor": 2.0}), yarn.clone()),
            (
                json!({"type": "yarn", "rope_type": "linear", "factor": 2.0}),
                Value::Null,
            ),
        ] {
            let mut raw = llama();
            raw["rope_scaling"] = scaling;
            raw["rope_parameters"] = parameters;
            let error = read(&raw).unwrap_err();
            assert!(
                matches!(error, ConfigError::Contradiction { .. }),
                "{error}"
            );
        }
        // What agrees is one statement, however it is spelled.
        let mut raw = llama();
        raw["rope_scaling"] = json!({"type": "yarn", "factor": 4});
        raw["rope_parameters"] = json!({"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0});
        assert!(read(&raw).unwrap().1.is_empty());
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
