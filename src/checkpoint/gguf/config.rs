//! `config.json` and `generation_config.json` from GGUF metadata, in Hugging Face spelling.

use serde_json::{Value as Json, json};

use super::error::GgufError;
use super::metadata::missing;
use super::model::Gguf;
use crate::model::Architecture;

/// Keys that scale, cap or clamp in some architecture, and the value with which they do nothing; 0
/// means "not set" for all of them.
const NEUTRAL: [(&str, f64); 9] = [
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attention.scale", 0.0),
    ("attention.temperature_scale", 0.0),
    ("attn_logit_softcapping", 0.0),
    ("embedding_scale", 1.0),
    ("final_logit_softcapping", 0.0),
    ("logit_scale", 1.0),
    ("residual_scale", 1.0),
];

/// The biases of a model.
struct Biases {
    /// The family whose configuration has such biases.
    architecture: Architecture,
    /// On all projections of the attention.
    attention: bool,
    /// On all projections of the MLP.
    mlp: bool,
}

impl Gguf {
    /// Query heads and key/value heads.
    pub(super) fn heads(&self) -> Result<(usize, usize), GgufError> {
        let heads = self.required("attention.head_count")?;
        let kv_heads = self.integer("attention.head_count_kv")?.unwrap_or(heads);
        if heads == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(GgufError::WrongValue {
                key: self.key("attention.head_count"),
                expected: "heads that are a multiple of the key/value heads",
                found: format!("{heads} and {kv_heads}"),
            });
        }
        Ok((heads, kv_heads))
    }

    /// The base of the rotary frequencies.
    pub(super) fn rope_theta(&self) -> Result<f64, GgufError> {
        // llama.cpp's default for old files without the key.
        Ok(self.float("rope.freq_base")?.unwrap_or(10_000.0))
    }

    fn head_dim(&self) -> Result<usize, GgufError> {
        let (heads, _) = self.heads()?;
        let hidden = self.required("embedding_length")?;
        Ok(self
            .integer("attention.key_length")?
            .unwrap_or(hidden / heads))
    }

    /// `config.json` as transformers writes it for this architecture.
    ///
    /// # Errors
    ///
    /// Missing or impossible metadata; experts, partial rotation or a rope scaling that the
    /// Hugging Face spelling cannot express.
    pub fn config(&self) -> Result<Json, GgufError> {
        self.refuse_unsupported()?;
        let (heads, kv_heads) = self.heads()?;
        let Biases {
            architecture,
            attention,
            mlp,
        } = self.biases()?;
        let (class, model_type) = match architecture {
            Architecture::Llama => ("LlamaForCausalLM", "llama"),
            Architecture::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
            Architecture::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
        };
        let token = |name: &str| self.metadata().token_id(name).map(|id| json!(id));
        const EPSILON: &str = "attention.layer_norm_rms_epsilon";
        let mut config = json!({
            "architectures": [class],
            "model_type": model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.required("embedding_length")?,
            "intermediate_size": self.required("feed_forward_length")?,
            "num_hidden_layers": self.required("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": self.head_dim()?,
            "hidden_act": "silu",
            "max_position_embeddings": self.required("context_length")?,
            "rms_norm_eps": self.float(EPSILON)?.ok_or_else(|| missing(&self.key(EPSILON)))?,
            "rope_theta": self.rope_theta()?,
            "tie_word_embeddings": self.tied,
            "attention_bias": attention,
            "mlp_bias": mlp,
            "initializer_range": 0.02,
            "use_cache": true,
            "bos_token_id": token("bos")?,
            "eos_token_id": token("eos")?,
            "pad_token_id": token("padding")?,
        });
        let Some(fields) = config.as_object_mut() else {
            return Ok(config);
        };
        if architecture == Architecture::Qwen2 {
            // Qwen2 always has q, k and v biases; its config has no such key.
            fields.remove("attention_bias");
            fields.remove("mlp_bias");
        }
        if let Some(scaling) = self.rope_scaling()? {
            fields.insert("rope_scaling".into(), scaling);
        }
        if let Some(window) = self.integer("attention.sliding_window")? {
            fields.insert("sliding_window".into(), json!(window));
            fields.insert("use_sliding_window".into(), json!(window > 0));
        }
        Ok(config)
    }

    /// Which biases the model has, and the family whose configuration can express them.
    ///
    /// No key holds this: it is the first configuration that has every bias which is not 0, and no bias
    /// that is not there.
    fn biases(&self) -> Result<Biases, GgufError> {
        const MLP: [&str; 3] = ["down_proj", "gate_proj", "up_proj"];
        const INPUTS: [&str; 3] = ["k_proj", "q_proj", "v_proj"];
        let choices: &[(Architecture, bool, bool)] = match self.architecture {
            Architecture::Llama => &[
                (Architecture::Llama, false, false),
                (Architecture::Llama, false, true),
                // Llama with biases on queries, keys and values alone is Qwen2.
                (Architecture::Qwen2, true, false),
                (Architecture::Llama, true, false),
                (Architecture::Llama, true, true),
            ],
            // Which always has them, and has no others: further ones are not used, as in transformers.
            Architecture::Qwen2 => {
                return Ok(Biases {
                    architecture: Architecture::Qwen2,
                    attention: true,
                    mlp: false,
                });
            }
            Architecture::Qwen3 => &[
                (Architecture::Qwen3, false, false),
                (Architecture::Qwen3, true, false),
            ],
        };
        for &(architecture, attention, mlp) in choices {
            let computed = |part: &str| match part {
                "o_proj" => attention && architecture != Architecture::Qwen2,
                part if INPUTS.contains(&part) => attention,
                part if MLP.contains(&part) => mlp,
                // Norms have none in any of the families; those are not used.
                _ => true,
            };
            let mut all = INPUTS.iter().chain(&MLP).chain(&["o_proj"]);
            let there = all.all(|part| !computed(part) || self.biases.contains_key(*part));
            let enough = self
                .biases
                .iter()
                .all(|(part, counts)| !counts || computed(part));
            if there && enough {
                return Ok(Biases {
                    architecture,
                    attention,
                    mlp,
                });
            }
        }
        let parts: Vec<&str> = self.biases.keys().map(String::as_str).collect();
        Err(GgufError::Unsupported {
            what: "this set of biases",
            found: parts.join(", "),
        })
    }

    fn refuse_unsupported(&self) -> Result<(), GgufError> {
        // What changes the answer in other architectures, where it is not the neutral value.
        for (name, neutral) in NEUTRAL {
            if let Some(found) = self.float(name)?
                && found != 0.0
                && found != neutral
            {
                return Err(GgufError::Unsupported {
                    what: "a scale, cap or clamp that Llama and Qwen models do not have",
                    found: format!("{} = {found}", self.key(name)),
                });
            }
        }
        for (name, neutral) in [("attention.causal", true), ("use_parallel_residual", false)] {
            if let Some(found) = self.metadata().flag(&self.key(name))?
                && found != neutral
            {
                return Err(GgufError::Unsupported {
                    what: "another kind of layer",
                    found: format!("{} = {found}", self.key(name)),
                });
            }
        }
        if let Some(experts) = self.integer("expert_count")?
            && experts > 0
        {
            return Err(GgufError::Unsupported {
                what: "a mixture of experts",
                found: format!("{experts} experts"),
            });
        }
        let head_dim = self.head_dim()?;
        if let Some(of_values) = self.integer("attention.value_length")?
            && of_values != head_dim
        {
            return Err(GgufError::Unsupported {
                what: "heads whose values are not as long as their keys",
                found: format!("{of_values} and {head_dim} dimensions"),
            });
        }
        if let Some(rotated) = self.integer("rope.dimension_count")?
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

    /// `generation_config.json`: the tokens that begin and end a text.
    pub fn generation_config(&self) -> Json {
        let id = |name: &str| self.metadata().token_id(name).ok().flatten();
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
}
