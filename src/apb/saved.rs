//! A prefilled document on disk: one safetensors file for each rank.
//!
//! | in `rank-R-of-H.safetensors` | |
//! |---|---|
//! | `layers.{i}.key`, `layers.{i}.value` | `[batch, kv_heads, rows, head_dim]` of the rank's document rows, in the session's dtype; of q8_0, the bytes of their blocks |
//! | metadata `session` | JSON: the model's fingerprint, the plan, dtype, RoPE's context, an id that all ranks share |
//! | metadata `tokens` | the whole document's tokens, in decimal |
//! | metadata `sha256` | of the tensors' bytes in the order of the file |
//!
//! A folder holds one session. Files appear whole or not at all, and a session is replaced whole and
//! only on request. Restoring refuses another model, files of different saves, and files whose bytes
//! are not those that were written.

pub(super) mod error;
mod folder;
mod format;
mod restore;
mod save;

use burn::tensor::FloatDType;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

pub use error::SavedError;
pub use folder::discard_unfinished;
use format::FORMAT;
pub use restore::SavedSession;
pub use save::{PreparedSave, SaveOptions};

use super::plan::PrefillPlan;
use super::session::{Prefilled, SessionConfig};
use crate::hex::encode as hex;
use crate::model::KvDType;

/// What all files of a session agree on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Agreed {
    format: String,
    /// Fingerprint of the model.
    model: String,
    plan: PrefillPlan,
    /// Of keys and values.
    dtype: String,
    /// Of the model's hidden rows; none: as `dtype`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model_dtype: Option<String>,
    /// Tokens that the rotary frequencies were made for.
    context: usize,
    /// Hash of all of the above and the document.
    id: String,
}

/// The header of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    #[serde(flatten)]
    agreed: Agreed,
    rank: usize,
}

impl Agreed {
    fn of(
        prefilled: &Prefilled,
        model: &str,
        settings: SessionConfig,
        dtype: KvDType,
        model_dtype: FloatDType,
    ) -> Self {
        let mut agreed = Self {
            format: FORMAT.into(),
            model: model.into(),
            plan: prefilled.plan.clone(),
            dtype: format!("{dtype:?}"),
            model_dtype: (dtype.float() != Some(model_dtype)).then(|| format!("{model_dtype:?}")),
            context: settings.context(),
            id: String::new(),
        };
        agreed.id = agreed.hash(&prefilled.document);
        agreed
    }

    /// Hash of everything but the id, and of the document.
    fn hash(&self, document: &[u32]) -> String {
        let named = Self {
            id: String::new(),
            ..self.clone()
        };
        let mut hash = Sha256::new();
        hash.update(json!(named).to_string());
        for token in document {
            hash.update(token.to_le_bytes());
        }
        hex(&hash.finalize())
    }
}
