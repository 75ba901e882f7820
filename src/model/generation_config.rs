//! How a model's authors want it to generate: `generation_config.json`, with `config.json` for what
//! that leaves out.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Defaults for generation. What a file does not say is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// The tokens that end an answer, without repetition; none where no file names any.
    pub eos_token_ids: Vec<u32>,
    /// Whether to sample; greedy otherwise.
    pub do_sample: Option<bool>,
    /// Divides the logits; 0 or more, and 0 is greedy.
    pub temperature: Option<f32>,
    /// How many of the likeliest tokens to sample from; 0 is all.
    pub top_k: Option<usize>,
    /// How much of the probability to sample from, likeliest first; in (0, 1].
    pub top_p: Option<f32>,
    /// The least probability to sample, as a share of the likeliest token's; in [0, 1].
    pub min_p: Option<f32>,
    /// Makes tokens that are there already less likely, above 1; in [0.01, 100], and 1 changes
    /// nothing.
    pub repetition_penalty: Option<f32>,
    /// The most tokens to generate.
    pub max_new_tokens: Option<usize>,
}

impl GenerationConfig {
    /// The same with the token ids of `model`, read from a `config.json`, where there are none.
    pub fn or_tokens_of(mut self, model: Self) -> Self {
        if self.eos_token_ids.is_empty() {
            self.eos_token_ids = model.eos_token_ids;
        }
        self.bos_token_id = self.bos_token_id.or(model.bos_token_id);
        self
    }

    /// Reads the JSON of a `generation_config.json`, or of a `config.json`, whose token ids have the
    /// same names. Keys it does not know are ignored: there are dozens, most for other methods.
    ///
    /// # Errors
    ///
    /// [`GenerationConfigError::Json`], and [`GenerationConfigError::Field`] with the name of a
    /// value that is of another type, out of range, or a token id not below `vocab_size`.
    pub fn parse(json: &[u8], vocab_size: usize) -> Result<Self, GenerationConfigError> {
        let json: Value = serde_json::from_slice(json)?;
        let fields = json
            .as_object()
            .ok_or_else(|| GenerationConfigError::Field {
                name: "the file",
                expected: "a JSON object",
                found: shorten(&json),
            })?;
        let fields = Fields { fields, vocab_size };
        Ok(Self {
            bos_token_id: match fields.get("bos_token_id") {
                Some(id) => Some(fields.token("bos_token_id", id)?),
                None => None,
            },
            eos_token_ids: fields.eos()?,
            do_sample: match fields.get("do_sample") {
                None => None,
                Some(Value::Bool(flag)) => Some(*flag),
                Some(other) => return Err(refuse("do_sample", "true or false", other)),
            },
            temperature: fields.number("temperature", "a number from 0 to 100", |t| {
                (0.0..=100.0).contains(&t)
            })?,
            top_k: fields.count("top_k")?,
            top_p: fields.number("top_p", "a number above 0, at most 1", |p| {
                p > 0.0 && p <= 1.0
            })?,
            min_p: fields.number("min_p", "a number from 0 to 1", |p| {
                (0.0..=1.0).contains(&p)
            })?,
            repetition_penalty: fields.number(
                "repetition_penalty",
                "a number from 0.01 to 100",
                |p| (0.01..=100.0).contains(&p),
            )?,
            max_new_tokens: fields.count("max_new_tokens")?,
        })
    }
}

struct Fields<'a> {
    fields: &'a Map<String, Value>,
    vocab_size: usize,
}

impl Fields<'_> {
    /// A field, where it is there and not null.
    fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn token(&self, name: &'static str, value: &Value) -> Result<u32, GenerationConfigError> {
        value
            .as_u64()
            .filter(|&id| id < self.vocab_size as u64)
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| GenerationConfigError::Token {
                name,
                found: shorten(value),
                vocab_size: self.vocab_size,
            })
    }

    fn eos(&self) -> Result<Vec<u32>, GenerationConfigError> {
        const NAME: &str = "eos_token_id";
        let mut ids = Vec::new();
        let values = match self.get(NAME) {
            None => &[][..],
            Some(Value::Array(values)) => values,
            Some(one) => std::slice::from_ref(one),
        };
        for value in values {
            let id = self.token(NAME, value)?;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    fn number(
        &self,
        name: &'static str,
        expected: &'static str,
        accept: impl Fn(f64) -> bool,
    ) -> Result<Option<f32>, GenerationConfigError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_f64().filter(|&number| accept(number)) {
            // What underflows to 0 in f32 is out of a range that excludes 0.
            Some(number) if accept(f64::from(number as f32)) => Ok(Some(number as f32)),
            _ => Err(refuse(name, expected, value)),
        }
    }

    fn count(&self, name: &'static str) -> Result<Option<usize>, GenerationConfigError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|count| u32::try_from(count).ok()) {
            Some(count) => Ok(Some(count as usize)),
            None => Err(refuse(name, "a whole number from 0 to 4294967295", value)),
        }
    }
}

fn refuse(name: &'static str, expected: &'static str, found: &Value) -> GenerationConfigError {
    GenerationConfigError::Field {
        name,
        expected,
        found: shorten(found),
    }
}

fn shorten(value: &Value) -> String {
    /// What of a value an error shows.
    const SHOWN: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Why a generation configuration is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerationConfigError {
    /// Something is wrong with a file.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<GenerationConfigError>,
    },
    /// The file is not JSON.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A value is of another type or out of range.
    #[error("{name} must be {expected}, not {found}")]
    Field {
        /// Its name.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A token id is not in the vocabulary.
    #[error("{name} must name tokens below the vocabulary's {vocab_size}, not {found}")]
    Token {
        /// Its name.
        name: &'static str,
        /// What it is.
        found: String,
        /// The size of the vocabulary.
        vocab_size: usize,
    },
}

impl GenerationConfigError {
    /// The same, of a file.
    pub(crate) fn in_file(self, path: &Path) -> Self {
        Self::File {
            path: path.to_owned(),
            source: Box::new(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qwen2_5s_own_file() {
        let json = br#"{"bos_token_id": 151643, "pad_token_id": 151643, "do_sample": true,
            "eos_token_id": [151645, 151643, 151645], "repetition_penalty": 1.05,
            "temperature": 0.7, "top_p": 0.8, "top_k": 20, "transformers_version": "4.37.0"}"#;
        let expected = GenerationConfig {
            bos_token_id: Some(151_643),
            eos_token_ids: vec![151_645, 151_643],
            do_sample: Some(true),
            temperature: Some(0.7),
            top_k: Some(20),
            top_p: Some(0.8),
            repetition_penalty: Some(1.05),
            ..GenerationConfig::default()
        };
        assert_eq!(GenerationConfig::parse(json, 152_064).unwrap(), expected);
    }

    #[test]
    fn absurd_values_are_refused_by_name() {
        for (field, value) in [
            ("temperature", "-0.1"),
            ("temperature", "1e300"),
            ("temperature", "\"hot\""),
            ("temperature", "[1]"),
            ("top_p", "0"),
            ("top_p", "1e-60"),
            ("top_p", "1.01"),
            ("top_p", "true"),
            ("min_p", "-1"),
            ("min_p", "2"),
            ("repetition_penalty", "0"),
            ("repetition_penalty", "0.001"),
            ("repetition_penalty", "-1.0"),
            ("top_k", "-1"),
            ("top_k", "1.5"),
            ("max_new_tokens", "1e18"),
            ("max_new_tokens", "18446744073709551615"),
            ("do_sample", "1"),
            ("eos_token_id", "10"),
            ("eos_token_id", "-1"),
            ("eos_token_id", "[1, 10]"),
            ("eos_token_id", "[1, \"</s>\"]"),
            ("eos_token_id", "{}"),
            ("eos_token_id", "18446744073709551615"),
            ("bos_token_id", "10"),
            ("bos_token_id", "[1]"),
        ] {
            let json = format!("{{\"{field}\": {value}}}");
            let error = GenerationConfig::parse(json.as_bytes(), 10).unwrap_err();
            assert!(error.to_string().starts_with(field), "{json}: {error}");
        }
        // JSON has no NaN; Python writes one all the same.
        for json in ["{\"top_p\": NaN}", "", "[", "[]", "{\"top_p\": 0.5"] {
            assert!(
                GenerationConfig::parse(json.as_bytes(), 10).is_err(),
                "{json}"
            );
        }
        let long = format!("{{\"top_p\": \"{}\"}}", "\u{20ac}".repeat(1000));
        let error = GenerationConfig::parse(long.as_bytes(), 10).unwrap_err();
        assert!(error.to_string().len() < 300);
    }

    #[test]
    fn config_json_fills_in_token_ids() {
        let parse = |text: &str| GenerationConfig::parse(text.as_bytes(), 10).unwrap();
        let model = parse(r#"{"bos_token_id": 1, "eos_token_id": 2, "hidden_size": 64}"#);
        let own = GenerationConfig::default().or_tokens_of(model.clone());
        assert_eq!((own.bos_token_id, own.eos_token_ids), (Some(1), vec![2]));
        let own = parse(r#"{"eos_token_id": [3, 4], "top_k": null}"#).or_tokens_of(model);
        assert_eq!((own.bos_token_id, own.top_k), (Some(1), None));
        assert_eq!(own.eos_token_ids, [3, 4]);
    }
}
