//! Defaults for generation: `generation_config.json`, with `config.json` for what that leaves out.
//!
//! A value that cannot be used is recorded by name and refused only where it is needed: a flag may
//! replace it.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::json;
use crate::quoted::{QuotePath, cut};

/// Defaults for generation. What a file does not have is `None`.
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
    /// Values of the file that are of another type, out of range or beyond the vocabulary. Their
    /// fields are as if the file did not have them.
    pub unusable: Vec<UnusableValue>,
}

/// A value of a generation configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{name} must be {expected}, not {found}", file.as_deref().map_or_else(String::new, |f| format!("{}: ", f.quoted())))]
pub struct UnusableValue {
    /// The file, where it is known.
    pub file: Option<PathBuf>,
    /// The field.
    pub name: &'static str,
    /// What it may be.
    pub expected: String,
    /// What it is.
    pub found: String,
}

/// Ids of a list that are read; models have a handful.
const MOST_IDS: usize = 1024;

/// Fields that only a draw looks at.
const SAMPLED: [&str; 4] = ["temperature", "top_k", "top_p", "min_p"];

/// Fields whose absence changes no choice of a token: an id that the model does not have is
/// never generated, and a limit is always given.
const HARMLESS: [&str; 3] = ["bos_token_id", "eos_token_id", "max_new_tokens"];

impl GenerationConfig {
    /// The same with the token ids of `model`, read from a `config.json`, where there are none.
    pub fn or_tokens_of(mut self, model: Self) -> Self {
        if self.eos_token_ids.is_empty() {
            self.eos_token_ids = model.eos_token_ids;
        }
        self.bos_token_id = self.bos_token_id.or(model.bos_token_id);
        let tokens = model.unusable.into_iter();
        self.unusable
            .extend(tokens.filter(|value| HARMLESS.contains(&value.name)));
        self
    }

    /// The values that cannot be used and are needed where the fields `overridden` are given
    /// elsewhere, and those that are not needed.
    pub fn unusable_but(&self, overridden: &[&str]) -> (Vec<&UnusableValue>, Vec<&UnusableValue>) {
        let sampling = self.do_sample == Some(true) || overridden.contains(&"temperature");
        self.unusable.iter().partition(|value| {
            let drawn = SAMPLED.contains(&value.name);
            !(overridden.contains(&value.name)
                || HARMLESS.contains(&value.name)
                || (drawn && !sampling))
        })
    }

    /// Reads the JSON of a `generation_config.json`, or of a `config.json`, whose token ids have the
    /// same names. Keys it does not know are ignored: there are dozens, most for other methods.
    /// Values that cannot be used are listed in [`unusable`](Self::unusable).
    ///
    /// # Errors
    ///
    /// [`GenerationConfigError::Json`] and [`GenerationConfigError::NotAnObject`].
    pub fn parse(json: &[u8], vocab_size: usize) -> Result<Self, GenerationConfigError> {
        let value: Value = json::from_slice(json)
            .map_err(|error| GenerationConfigError::Json(error.to_string()))?;
        let fields = value
            .as_object()
            .ok_or_else(|| GenerationConfigError::NotAnObject {
                found: shorten(&value),
            })?;
        let mut fields = Fields {
            fields,
            vocab_size,
            unusable: Vec::new(),
        };
        let share = "a number above 0, at most 1";
        Ok(Self {
            bos_token_id: fields.tokens("bos_token_id", false).first().copied(),
            eos_token_ids: fields.tokens("eos_token_id", true),
            do_sample: fields.read("do_sample", "true or false", Value::as_bool),
            temperature: fields.number("temperature", "a number from 0 to 100", 0.0..=100.0),
            top_k: fields.count("top_k"),
            top_p: fields.number("top_p", share, f64::MIN_POSITIVE..=1.0),
            min_p: fields.number("min_p", "a number from 0 to 1", 0.0..=1.0),
            repetition_penalty: fields.number(
                "repetition_penalty",
                "a number from 0.01 to 100",
                0.01..=100.0,
            ),
            max_new_tokens: fields.count("max_new_tokens"),
            unusable: fields.unusable,
        })
    }

    /// The same, read from a file of this path.
    pub(crate) fn in_file(mut self, path: &Path) -> Self {
        for value in &mut self.unusable {
            value.file.get_or_insert_with(|| path.to_owned());
        }
        self
    }
}

struct Fields<'a> {
    fields: &'a Map<String, Value>,
    vocab_size: usize,
    unusable: Vec<UnusableValue>,
}

impl<'a> Fields<'a> {
    /// A field, where it is there and not null.
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// A field's value by `convert`, which gives `None` for one that cannot be used.
    fn read<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.get(name)?;
        let read = convert(value);
        if read.is_none() {
            self.refuse(name, expected, value);
        }
        read
    }

    fn refuse(&mut self, name: &'static str, expected: &str, found: &Value) {
        self.refuse_text(name, expected, shorten(found));
    }

    fn refuse_text(&mut self, name: &'static str, expected: &str, found: String) {
        self.unusable.push(UnusableValue {
            file: None,
            name,
            expected: expected.to_owned(),
            found,
        });
    }

    /// One token or, where it may be one, a list of them, without repetition. Of a list, the first that is none is named,
    /// and the others are counted.
    fn tokens(&mut self, name: &'static str, list: bool) -> Vec<u32> {
        let values = match self.get(name) {
            None => &[][..],
            Some(Value::Array(values)) if list => values,
            Some(one) => std::slice::from_ref(one),
        };
        if values.len() > MOST_IDS {
            let (expected, found) = (format!("at most {MOST_IDS} tokens"), values.len());
            self.refuse_text(name, &expected, format!("{found} of them"));
            return Vec::new();
        }
        let mut ids = Vec::new();
        let mut others = Vec::new();
        for value in values {
            let id = value.as_u64().filter(|&id| id < self.vocab_size as u64);
            match id.and_then(|id| u32::try_from(id).ok()) {
                Some(id) if ids.contains(&id) => {}
                Some(id) => ids.push(id),
                None => others.push(value),
            }
        }
        if let Some((first, others)) = others.split_first() {
            let expected = format!("a token below the vocabulary's {}", self.vocab_size);
            let mut found = shorten(first);
            if !others.is_empty() {
                found += &format!(" and {} more", others.len());
            }
            self.refuse_text(name, &expected, found);
        }
        ids
    }

    fn number(
        &mut self,
        name: &'static str,
        expected: &str,
        range: RangeInclusive<f64>,
    ) -> Option<f32> {
        // What underflows to 0 in f32 is out of a range that excludes 0.
        self.read(name, expected, |value| {
            let number = value.as_f64().filter(|number| range.contains(number))? as f32;
            range.contains(&f64::from(number)).then_some(number)
        })
    }

    fn count(&mut self, name: &'static str) -> Option<usize> {
        self.read(name, "a whole number from 0 to 4294967295", |value| {
            Some(u32::try_from(value.as_u64()?).ok()? as usize)
        })
    }
}

fn shorten(value: &Value) -> String {
    /// Characters of a value that an error shows.
    const SHOWN: usize = 60;
    cut(value, SHOWN)
}

/// Why a generation configuration is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerationConfigError {
    /// Something is wrong with a file.
    #[error("{}: {source}", path.quoted())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<GenerationConfigError>,
    },
    /// The file is not JSON.
    #[error("not JSON: {0}")]
    Json(String),
    /// The file holds something else than an object.
    #[error("expected a JSON object, found {found}")]
    NotAnObject {
        /// What it holds.
        found: String,
    },
    /// A value that is needed cannot be used.
    #[error(transparent)]
    Unusable(#[from] UnusableValue),
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
    fn values_out_of_range_are_refused_by_name() {
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
            let config = GenerationConfig::parse(json.as_bytes(), 10).unwrap();
            let [unusable] = &config.unusable[..] else {
                panic!("{json}: {:?}", config.unusable);
            };
            assert!(
                unusable.to_string().starts_with(field),
                "{json}: {unusable}"
            );
            let without = GenerationConfig {
                unusable: Vec::new(),
                ..config
            };
            let kept = match json.contains("[1,") {
                true => vec![1],
                false => vec![],
            };
            let expected = GenerationConfig {
                eos_token_ids: kept,
                ..GenerationConfig::default()
            };
            assert_eq!(without, expected, "{json}");
        }
        for json in ["", "[", "[]", "{\"top_p\": 0.5"] {
            assert!(
                GenerationConfig::parse(json.as_bytes(), 10).is_err(),
                "{json}"
            );
        }
        let long = format!("{{\"top_p\": \"{}\"}}", "\u{20ac}".repeat(1000));
        let config = GenerationConfig::parse(long.as_bytes(), 10).unwrap();
        assert!(config.unusable[0].to_string().len() < 300);
        let ids = |count: usize| format!("{{\"eos_token_id\": [{}9]}}", "99, ".repeat(count));
        let config = GenerationConfig::parse(ids(MOST_IDS - 1).as_bytes(), 10).unwrap();
        assert_eq!(config.eos_token_ids, [9]);
        let [unusable] = &config.unusable[..] else {
            panic!("{:?}", config.unusable);
        };
        assert_eq!(unusable.found, "99 and 1022 more");
        let config = GenerationConfig::parse(ids(MOST_IDS).as_bytes(), 10).unwrap();
        assert!(config.eos_token_ids.is_empty());
        let [unusable] = &config.unusable[..] else {
            panic!("{:?}", config.unusable);
        };
        assert_eq!(
            unusable.to_string(),
            "eos_token_id must be at most 1024 tokens, not 1025 of them"
        );
        // JSON has no NaN; Python writes one all the same.
        let config = GenerationConfig::parse(b"{\"top_p\": NaN}", 10).unwrap();
        assert_eq!(config.unusable[0].found, "\"NaN\"");
    }

    #[test]
    fn a_value_is_needed_unless_it_is_overridden() {
        let names = |json: &str, overridden: &[&str]| -> Vec<&str> {
            let config = GenerationConfig::parse(json.as_bytes(), 10).unwrap();
            let (needed, _) = config.unusable_but(overridden);
            needed.iter().map(|value| value.name).collect()
        };
        let json = r#"{"do_sample": true, "temperature": -1, "top_p": 7, "eos_token_id": 99}"#;
        assert_eq!(names(json, &[]), ["temperature", "top_p"]);
        assert_eq!(names(json, &["temperature"]), ["top_p"]);
        assert!(names(json, &["temperature", "top_p"]).is_empty());
        let greedy = r#"{"temperature": -1, "repetition_penalty": 0}"#;
        assert_eq!(names(greedy, &[]), ["repetition_penalty"]);
        assert_eq!(
            names(r#"{"do_sample": 1}"#, &["temperature"]),
            ["do_sample"]
        );
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
