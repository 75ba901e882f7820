//! How weights are loaded, and the warnings of a load.

use std::fmt;
use std::path::PathBuf;

use burn::tensor::FloatDType;

use super::listing::{first, plural};
use crate::kernels::BlockFormat;
use crate::quoted::QuotePath;

/// Names shown of a list; the rest is counted.
const SHOWN: usize = 5;

/// How [`load`](super::load()) loads.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct LoadOptions {
    /// The type of the parameters: f32, f16 or bf16.
    pub dtype: FloatDType,
    /// Whether tensors that the module does not use, or that the index does not name, are an error
    /// in place of a warning.
    pub strict: bool,
    /// Whether quantised weights become floats of `dtype`, where they otherwise stay in their codes. On devices with
    /// autodiff they always do.
    pub dequantize: bool,
}

impl LoadOptions {
    /// Parameters of `dtype`; tensors without a use are a warning.
    pub fn new(dtype: FloatDType) -> Self {
        Self {
            dtype,
            strict: false,
            dequantize: false,
        }
    }

    /// Makes tensors without a use an error, or not.
    pub fn with_strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Makes floats of quantised weights, or not.
    pub fn with_dequantize(mut self, dequantize: bool) -> Self {
        self.dequantize = dequantize;
        self
    }
}

impl From<FloatDType> for LoadOptions {
    fn from(dtype: FloatDType) -> Self {
        Self::new(dtype)
    }
}

/// The result of a load beside the module.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct LoadReport {
    /// Warnings for the user, one line each.
    pub warnings: Vec<LoadWarning>,
    /// Every tensor of the checkpoint that the module does not use, in the order of the files.
    pub unused: Vec<String>,
    /// The formats of weights that stay in codes, and how many tensors are in each.
    pub formats: Vec<(BlockFormat, usize)>,
}

/// Something about a checkpoint that is no error. Its text is one line.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum LoadWarning {
    /// Tensors that are not used, or not in the shard that the index names.
    Tensors {
        /// The checkpoint.
        path: PathBuf,
        /// Tensors that the module does not use.
        unused: Vec<String>,
        /// The differences between shards and index.
        shards: ShardNotes,
    },
    /// Biases with values other than 0 of layers that have none by the configuration. They are left
    /// out, as in transformers, which may not be what the weights were made with.
    Biases {
        /// The checkpoint.
        path: PathBuf,
        /// The tensors.
        names: Vec<String>,
    },
    /// The configuration ties the output head to the embedding, and the checkpoint holds a head with
    /// other values, which is used, as in transformers.
    HeadNotTied {
        /// The checkpoint.
        path: PathBuf,
        /// The head's tensor.
        name: String,
    },
}

/// In what shards differ from their index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardNotes {
    /// Tensors that the index does not name.
    pub unlisted: Vec<String>,
    /// Tensors in another shard than the index names.
    pub elsewhere: Vec<String>,
    /// Tensors that several shards hold. The last in the order of the shards' names is used, as in
    /// transformers.
    pub repeated: Vec<String>,
}

impl ShardNotes {
    /// Whether shards and index agree.
    pub fn is_empty(&self) -> bool {
        self.unlisted.is_empty() && self.elsewhere.is_empty() && self.repeated.is_empty()
    }

    /// One clause a kind of difference.
    pub(super) fn clauses(&self) -> Vec<String> {
        let clauses = [
            clause(&self.unlisted, "not named by the index"),
            clause(&self.elsewhere, "in another shard than the index names"),
            clause(
                &self.repeated,
                "in several shards, of which the last is used",
            ),
        ];
        clauses.into_iter().flatten().collect()
    }
}

impl fmt::Display for LoadWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensors {
                path,
                unused,
                shards,
            } => {
                let unused = clause(unused, "not used by this model");
                let clauses: Vec<String> = unused.into_iter().chain(shards.clauses()).collect();
                write!(f, "{}: {}", path.quoted(), clauses.join("; "))
            }
            Self::Biases { path, names } => write!(
                f,
                "{}: {}; config.json gives these layers no bias, so they are left out; if the model \
                 has them, set `attention_bias` or `mlp_bias` there",
                path.quoted(),
                clause(names, "biases other than 0").unwrap_or_default()
            ),
            Self::HeadNotTied { path, name } => write!(
                f,
                "{}: config.json ties the output head to the embedding, but `{name}` is stored with \
                 other values; the stored one is used, as in transformers; set \
                 `tie_word_embeddings` to false to silence this",
                path.quoted()
            ),
        }
    }
}

/// `3 tensors are not used by this model: a, b, c`; none for no names.
fn clause(names: &[String], what: &str) -> Option<String> {
    let count = plural(names.len(), "tensor");
    let verb = if names.len() == 1 { "is" } else { "are" };
    let clause = || format!("{count} {verb} {what}: {}", first(names, SHOWN));
    (!names.is_empty()).then(clause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("mtp.{i}")).collect()
    }

    #[test]
    fn a_warning_is_one_line_with_the_first_names() {
        let warning = LoadWarning::Tensors {
            path: "m".into(),
            unused: names(7),
            shards: ShardNotes {
                unlisted: vec!["a\nb".into()],
                ..ShardNotes::default()
            },
        };
        assert_eq!(
            warning.to_string(),
            "m: 7 tensors are not used by this model: mtp.0, mtp.1, mtp.2, mtp.3, mtp.4 and 2 more; \
             1 tensor is not named by the index: a\\nb"
        );
        let long = LoadWarning::Biases {
            path: "m".into(),
            names: vec!["é".repeat(1 << 20)],
        };
        let long = long.to_string();
        assert!(long.len() < 1000 && !long.contains('\n'), "{long}");
    }
}
