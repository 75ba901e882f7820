//! What can be wrong with a `config.json`.

use std::path::PathBuf;

use serde_json::Value;

use crate::quoted::{QuotePath, Quoted, cut};

/// Why a `config.json` was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.quoted())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The text is not a JSON object.
    #[error(
        "config.json is not a JSON object: {}; download the model again",
        Quoted(reason)
    )]
    Json {
        /// The parser's error.
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
    #[error("config.json: `{}` is {found}, expected {expected}", Quoted(field))]
    Value {
        /// The field.
        field: String,
        /// What it would have to be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Two statements of the file that cannot both hold.
    #[error(
        "config.json: {} and {} contradict each other; keep the one that the model was trained with",
        Quoted(first),
        Quoted(second)
    )]
    Contradiction {
        /// One field with its value.
        first: String,
        /// The other.
        second: String,
    },
    /// The configuration asks for something this crate does not compute.
    #[error(
        "config.json: `{}` = {found} is not supported ({supported}); \
         running without it would give wrong answers, so the model is refused",
        Quoted(field)
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

pub(super) fn value_error(field: &str, expected: impl Into<String>, found: &Value) -> ConfigError {
    ConfigError::Value {
        field: field.into(),
        expected: expected.into(),
        found: brief(found),
    }
}

pub(super) fn unsupported(field: &str, found: &Value, supported: &'static str) -> ConfigError {
    ConfigError::Unsupported {
        field: field.into(),
        found: brief(found),
        supported,
    }
}

/// A JSON value short enough for a line of output.
pub(super) fn brief(value: &Value) -> String {
    const LONGEST: usize = 60;
    cut(value, LONGEST)
}
