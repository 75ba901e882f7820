//! `rope_scaling` of `config.json` from GGUF metadata.

use serde_json::{Map, Value as Json, json};

use super::error::GgufError;
use super::model::Gguf;
use crate::model::RopeScaling;

impl Gguf {
    /// `rope_scaling`, where positions are scaled at all.
    pub(super) fn rope_scaling(&self) -> Result<Option<Json>, GgufError> {
        let kind = self.metadata().text(&self.key("rope.scaling.type"))?;
        let factor = match self.float("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            // What files from before `rope.scaling.*` have.
            None => self.float("rope.scale_linear")?,
        };
        let factor = factor.filter(|&factor| factor != 0.0 && factor != 1.0);
        // llama.cpp multiplies queries and keys by it, whatever the type.
        let multiplier = self
            .rope_option("attn_factor")?
            .filter(|&multiplier| multiplier != 1.0);
        let unsupported = |found: String| {
            Err(GgufError::Unsupported {
                what: "a rope scaling",
                found,
            })
        };
        if let Some(found) = self.rope_option("alpha")?.filter(|&found| found != 0.0) {
            return unsupported(format!("alpha of {found}"));
        }
        if multiplier.is_some() && kind != Some("yarn") {
            return unsupported("attn_factor without yarn".into());
        }
        match (kind, factor) {
            (None | Some("none" | "linear" | "yarn"), None) | (Some("none"), Some(_)) => {
                Ok(self.llama3.map(|scaling| {
                    json!({
                        "rope_type": "llama3",
                        "factor": scaling.factor,
                        "low_freq_factor": scaling.low_freq_factor,
                        "high_freq_factor": scaling.high_freq_factor,
                        "original_max_position_embeddings": scaling.original_max_position_embeddings,
                    })
                }))
            }
            (_, Some(factor)) if self.llama3.is_some() => {
                unsupported(format!("frequency factors and a factor of {factor} at once"))
            }
            (None | Some("linear"), Some(factor)) => {
                Ok(Some(json!({ "rope_type": "linear", "factor": factor })))
            }
            (Some("yarn"), Some(factor)) => self.yarn(factor, multiplier).map(Some),
            (Some(other), _) => unsupported(other.to_string()),
        }
    }

    /// `rope_scaling` of YaRN.
    ///
    /// transformers and llama.cpp agree but for `attention_factor`, which llama.cpp's converter
    /// keeps as `yarn_attn_factor` and llama.cpp then replaces by the default of transformers;
    /// what transformers computes is taken.
    fn yarn(&self, factor: f64, multiplier: Option<f64>) -> Result<Json, GgufError> {
        // A negative one stands for "not set".
        let extrapolation = self.rope_option("yarn_ext_factor")?;
        if let Some(found) = extrapolation.filter(|&found| found >= 0.0 && found != 1.0) {
            return Err(GgufError::Unsupported {
                what: "YaRN with another extrapolation factor than 1",
                found: found.to_string(),
            });
        }
        let mut scaling = Map::new();
        scaling.insert("rope_type".into(), json!("yarn"));
        scaling.insert("factor".into(), json!(factor));
        if let Some(original) = self.integer("rope.scaling.original_context_length")? {
            scaling.insert("original_max_position_embeddings".into(), json!(original));
        }
        let attention = self
            .rope_option("yarn_attn_factor")?
            .filter(|&attention| attention > 0.0);
        // `mscale_all_dim` beside an `mscale` of 1.
        let all_dim = self
            .rope_option("yarn_log_multiplier")?
            .filter(|&all_dim| all_dim != 0.0);
        let by_default =
            || RopeScaling::yarn_attention_factor(factor, all_dim.map(|all_dim| (1.0, all_dim)));
        let attention = match (attention, multiplier, all_dim) {
            (attention, None, None) => attention,
            (attention, multiplier, _) => {
                Some(attention.unwrap_or_else(by_default) * multiplier.unwrap_or(1.0))
            }
        };
        let options = [
            ("attention_factor", attention),
            ("beta_fast", self.rope_option("yarn_beta_fast")?),
            ("beta_slow", self.rope_option("yarn_beta_slow")?),
        ];
        for (name, value) in options {
            if let Some(value) = value {
                scaling.insert(name.into(), json!(value));
            }
        }
        Ok(Json::Object(scaling))
    }

    /// A float below `rope.scaling`.
    fn rope_option(&self, name: &str) -> Result<Option<f64>, GgufError> {
        self.float(&format!("rope.scaling.{name}"))
    }
}
