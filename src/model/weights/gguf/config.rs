//! `config.json` and `generation_config.json` from GGUF metadata, in Hugging Face spelling.

use serde_json::{Map, Value as Json, json};

use super::error::GgufError;
use super::{Architecture, Gguf, Value};

impl Gguf {
    /// Query heads and key/value heads.
    pub(super) fn heads(&self) -> Result<(usize, usize), GgufError> {
        let key = self.key("attention.head_count");
        let heads = self.integer(&key)?;
        let kv_heads = self
            .optional_integer(&self.key("attention.head_count_kv"))?
            .unwrap_or(heads);
        if heads == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            let (expected, found) = (
                "heads that are a multiple of the key/value heads",
                format!("{heads} and {kv_heads}"),
            );
            return Err(GgufError::WrongValue {
                key,
                expected,
                found,
            });
        }
        Ok((heads, kv_heads))
    }

    /// The base of the rotary frequencies.
    pub(super) fn rope_theta(&self) -> Result<f64, GgufError> {
        // llama.cpp's default where an old file does not say.
        Ok(self
            .optional_float(&self.key("rope.freq_base"))?
            .unwrap_or(10_000.0))
    }

    fn head_dim(&self) -> Result<usize, GgufError> {
        let (heads, _) = self.heads()?;
        let hidden = self.integer(&self.key("embedding_length"))?;
        Ok(self
            .optional_integer(&self.key("attention.key_length"))?
            .unwrap_or(hidden / heads))
    }

    /// `config.json` as transformers writes it for this architecture.
    ///
    /// # Errors
    ///
    /// Missing or impossible metadata; experts, partial rotation or a rope scaling that the
    /// Hugging Face spelling has no word for.
    pub fn config(&self) -> Result<Json, GgufError> {
        self.refuse_unsupported()?;
        let (heads, kv_heads) = self.heads()?;
        let class = match self.architecture {
            Architecture::Llama => "LlamaForCausalLM",
            Architecture::Qwen2 => "Qwen2ForCausalLM",
            Architecture::Qwen3 => "Qwen3ForCausalLM",
        };
        let token = |name: &str| self.token_id(name).map(|id| json!(id));
        let epsilon = self.key("attention.layer_norm_rms_epsilon");
        let mut config = json!({
            "architectures": [class],
            "model_type": self.architecture.name(),
            "vocab_size": self.vocab_size,
            "hidden_size": self.integer(&self.key("embedding_length"))?,
            "intermediate_size": self.integer(&self.key("feed_forward_length"))?,
            "num_hidden_layers": self.integer(&self.key("block_count"))?,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": self.head_dim()?,
            "hidden_act": "silu",
            "max_position_embeddings": self.integer(&self.key("context_length"))?,
            "rms_norm_eps": self.optional_float(&epsilon)?.ok_or(GgufError::MissingKey { key: epsilon })?,
            "rope_theta": self.rope_theta()?,
            "tie_word_embeddings": self.tied,
            "attention_bias": false,
            "mlp_bias": false,
            "initializer_range": 0.02,
            "use_cache": true,
            "bos_token_id": token("bos")?,
            "eos_token_id": token("eos")?,
            "pad_token_id": token("padding")?,
        });
        let Some(fields) = config.as_object_mut() else {
            return Ok(config);
        };
        if self.architecture == Architecture::Qwen2 {
            // Qwen2 always has q, k and v biases; its config knows no such key.
            fields.remove("attention_bias");
            fields.remove("mlp_bias");
        }
        if let Some(scaling) = self.rope_scaling()? {
            fields.insert("rope_scaling".into(), scaling);
        }
        if let Some(window) = self.optional_integer(&self.key("attention.sliding_window"))? {
            fields.insert("sliding_window".into(), json!(window));
            fields.insert("use_sliding_window".into(), json!(window > 0));
        }
        Ok(config)
    }

    fn refuse_unsupported(&self) -> Result<(), GgufError> {
        if let Some(experts) = self.optional_integer(&self.key("expert_count"))?
            && experts > 0
        {
            return Err(GgufError::Unsupported {
                what: "a mixture of experts",
                found: format!("{experts} experts"),
            });
        }
        let head_dim = self.head_dim()?;
        if let Some(rotated) = self.optional_integer(&self.key("rope.dimension_count"))?
            && rotated != head_dim
        {
            let found = format!("{rotated} of {head_dim} dimensions of a head");
            return Err(GgufError::Unsupported {
                what: "partial rotation",
                found,
            });
        }
        Ok(())
    }

    /// `rope_scaling`, where positions are scaled at all.
    fn rope_scaling(&self) -> Result<Option<Json>, GgufError> {
        if let Some(scaling) = self.llama3 {
            return Ok(Some(json!({
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_max_position_embeddings,
            })));
        }
        let key = self.key("rope.scaling.type");
        let kind = self.text(&key)?;
        let factor = match self.optional_float(&self.key("rope.scaling.factor"))? {
            Some(factor) => Some(factor),
            // What files from before `rope.scaling.*` have.
            None => self.optional_float(&self.key("rope.scale_linear"))?,
        };
        let factor = factor.filter(|&factor| factor != 0.0 && factor != 1.0);
        match (kind, factor) {
            (None | Some("none"), None)
            | (Some("linear" | "yarn"), None)
            | (Some("none"), Some(_)) => Ok(None),
            (None | Some("linear"), Some(factor)) => {
                Ok(Some(json!({ "rope_type": "linear", "factor": factor })))
            }
            (Some("yarn"), Some(factor)) => {
                let mut scaling = Map::new();
                scaling.insert("rope_type".into(), json!("yarn"));
                scaling.insert("factor".into(), json!(factor));
                if let Some(original) =
                    self.optional_integer(&self.key("rope.scaling.original_context_length"))?
                {
                    scaling.insert("original_max_position_embeddings".into(), json!(original));
                }
                for (theirs, ours) in [
                    ("yarn_beta_fast", "beta_fast"),
                    ("yarn_beta_slow", "beta_slow"),
                    ("attn_factor", "attention_factor"),
                ] {
                    if let Some(value) =
                        self.optional_float(&self.key(&format!("rope.scaling.{theirs}")))?
                    {
                        scaling.insert(ours.into(), json!(value));
                    }
                }
                Ok(Some(Json::Object(scaling)))
            }
            (Some(other), _) => Err(GgufError::Unsupported {
                what: "a rope scaling",
                found: other.to_string(),
            }),
        }
    }

    /// `generation_config.json`: the tokens that begin and end a text.
    pub fn generation_config(&self) -> Json {
        let id = |name: &str| self.token_id(name).ok().flatten();
        let mut ends: Vec<usize> = Vec::new();
        for end in ["eos", "eot", "eom"].iter().filter_map(|name| id(name)) {
            if !ends.contains(&end) {
                ends.push(end);
            }
        }
        let eos = match ends.as_slice() {
            [] => Json::Null,
            [one] => json!(one),
            several => json!(several),
        };
        json!({ "bos_token_id": id("bos"), "eos_token_id": eos, "pad_token_id": id("padding") })
    }

    /// The id of a special token, such as `eos`.
    pub(super) fn token_id(&self, name: &str) -> Result<Option<usize>, GgufError> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let id = self.optional_integer(&key)?;
        match (id, self.get("tokenizer.ggml.tokens")) {
            // llama.cpp writes -1 as an unsigned number for "none".
            (Some(id), _) if id == u32::MAX as usize => Ok(None),
            (Some(id), Some(Value::Texts(tokens))) if id >= tokens.len() => {
                Err(GgufError::WrongValue {
                    key,
                    expected: "an id inside the vocabulary",
                    found: id.to_string(),
                })
            }
            (id, _) => Ok(id),
        }
    }
}
