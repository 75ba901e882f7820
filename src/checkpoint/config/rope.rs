//! Rotary positions in each of their spellings, and the context they reach.
//!
//! Older files have `rope_theta` and `rope_scaling`, whose kind is called `type`; newer ones have
//! all of it in `rope_parameters`, whose kind is called `rope_type`. Precedence is that of
//! transformers 5: `rope_scaling` replaces `rope_parameters` as a whole, `rope_type` precedes
//! `type`, and a field inside precedes the same field of the file. What is overruled is
//! reported; two scalings that differ are refused, since no reading of them can be trusted.

use std::ops::Range;

use serde_json::{Map, Value};

use super::error::{ConfigError, brief, unsupported, value_error};
use super::fields::{Fields, truthy};
use crate::model::{MAX_CONTEXT, RopeConfig, RopeScaling};
use crate::quoted::Quoted;

const POSITIVE: Range<f64> = f64::MIN_POSITIVE..1e15;
const THETA: Range<f64> = 2.0..1e15;
const FACTOR: Range<f64> = 1.0..1e6;
const DEFAULT_THETA: f64 = 10_000.0;
const DEFAULT: &str = "default";

/// Rotary positions, and the tokens that their scaling reaches, where they scale.
pub(super) struct Read {
    pub(super) rope: RopeConfig,
    pub(super) scaled_context: Option<usize>,
}

/// Reads rotary positions. `max_positions` is `max_position_embeddings`.
pub(super) fn read(
    fields: &Fields<'_>,
    max_positions: usize,
    warnings: &mut Vec<String>,
) -> Result<Read, ConfigError> {
    let empty = Map::new();
    let inner = Fields {
        raw: parameters(fields, warnings)?.unwrap_or(&empty),
        model_type: fields.model_type,
    };
    for at in [fields, &inner] {
        if let Some(value) = at.get("partial_rotary_factor")
            && value.as_f64() != Some(1.0)
        {
            return Err(unsupported("partial_rotary_factor", value, "1 is"));
        }
    }
    let theta = overruling("rope_theta", fields, &inner, warnings, |f| {
        f.number("rope_theta", THETA)
    })?
    .unwrap_or(DEFAULT_THETA);
    let kind = kind(&inner)?;
    // Of this field alone, the one of the file precedes the one inside.
    let original = match fields.optional_size("original_max_position_embeddings", MAX_CONTEXT)? {
        Some(original) => Some(original),
        None => inner.optional_size("original_max_position_embeddings", MAX_CONTEXT)?,
    };
    let trained = original.unwrap_or(max_positions);
    let factor = || inner.required_number("factor", FACTOR);
    let scaled = |factor: f64| Some((trained as f64 * factor).min(MAX_CONTEXT as f64) as usize);

    let (scaling, scaled_context) = match kind {
        DEFAULT => (RopeScaling::Default, None),
        "linear" => {
            let factor = factor()?;
            (RopeScaling::Linear { factor }, scaled(factor))
        }
        "dynamic" => {
            let factor = inner.required_number("factor", 1.0..FACTOR.end)?;
            // The base grows from `max_position_embeddings` on, whatever else the file states.
            let scaling = RopeScaling::Dynamic {
                factor,
                original_context: max_positions,
            };
            (scaling, scaled(factor))
        }
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
            let scaling = RopeScaling::Llama3 {
                factor: factor()?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_context: trained,
            };
            // `max_position_embeddings` is the scaled context of every such model.
            (scaling, None)
        }
        "yarn" => {
            let factor = match inner.number("factor", FACTOR)? {
                Some(factor) => factor,
                None => max_positions as f64 / trained as f64,
            };
            (yarn(&inner, factor, trained)?, scaled(factor))
        }
        _ => {
            return Err(unsupported(
                "rope_type",
                &Value::from(kind),
                "default, linear, dynamic, llama3 and yarn are",
            ));
        }
    };
    Ok(Read {
        rope: RopeConfig { theta, scaling },
        scaled_context: scaled_context.filter(|&context| context > max_positions),
    })
}

fn yarn(inner: &Fields<'_>, factor: f64, trained: usize) -> Result<RopeScaling, ConfigError> {
    // Python's `or` takes 0 for absent.
    let or_default = |field, default| {
        let stated = inner.number(field, 0.0..1e15)?;
        Ok::<_, ConfigError>(stated.filter(|x| *x != 0.0).unwrap_or(default))
    };
    let mscale = inner.number("mscale", 0.0..1e6)?.filter(|m| *m != 0.0);
    let all_dim = inner.number("mscale_all_dim", 0.0..1e6)?;
    let all_dim = all_dim.filter(|m| *m != 0.0);
    let attention_factor = inner.number("attention_factor", POSITIVE)?;
    Ok(RopeScaling::Yarn {
        factor,
        original_context: trained,
        beta_fast: or_default("beta_fast", 32.0)?,
        beta_slow: or_default("beta_slow", 1.0)?,
        truncate: inner.raw.get("truncate").is_none_or(truthy),
        attention_factor: attention_factor
            .unwrap_or_else(|| RopeScaling::yarn_attention_factor(factor, mscale.zip(all_dim))),
    })
}

/// `rope_scaling` where it is there and not empty, else `rope_parameters`.
fn parameters<'a>(
    fields: &Fields<'a>,
    warnings: &mut Vec<String>,
) -> Result<Option<&'a Map<String, Value>>, ConfigError> {
    let scaling = fields.object("rope_scaling")?.filter(|o| !o.is_empty());
    let parameters = fields.object("rope_parameters")?.filter(|o| !o.is_empty());
    let (Some(scaling), Some(parameters)) = (scaling, parameters) else {
        return Ok(scaling.or(parameters));
    };
    let of = |raw| Fields { raw, ..*fields };
    let kinds = (kind(&of(scaling))?, kind(&of(parameters))?);
    let common = |key: &&String| !matches!(key.as_str(), "type" | "rope_type");
    let differing = scaling.keys().filter(common).find(|key| {
        parameters
            .get(*key)
            .is_some_and(|v| !equal(v, &scaling[*key]))
    });
    let statement = |name: &str, key: &str, value: String| format!("`{name}.{key}` = {value}");
    let (key, first, second) = match differing {
        _ if kinds.0 != kinds.1 => (
            "rope_type",
            format!("\"{}\"", kinds.0),
            format!("\"{}\"", kinds.1),
        ),
        Some(key) => (key.as_str(), brief(&scaling[key]), brief(&parameters[key])),
        None => return Ok(Some(scaling)),
    };
    let first = statement("rope_scaling", key, first);
    let second = statement("rope_parameters", key, second);
    if kinds.0 != DEFAULT && kinds.1 != DEFAULT {
        return Err(ConfigError::Contradiction { first, second });
    }
    warnings.push(format!(
        "config.json: {} is used, as transformers does, and {} ignored with all of `rope_parameters`",
        Quoted(&first),
        Quoted(&second)
    ));
    Ok(Some(scaling))
}

/// The kind of scaling an object names: `rope_type`, or `type` in older files.
fn kind<'a>(inner: &Fields<'a>) -> Result<&'a str, ConfigError> {
    let named = |field: &str| match inner.get(field) {
        None => Ok(None),
        Some(Value::String(kind)) => Ok(Some(kind.as_str())),
        Some(other) => Err(value_error(field, "a string", other)),
    };
    match (named("rope_type")?, named("type")?) {
        (Some(newer), Some(older)) if newer != older => Err(ConfigError::Contradiction {
            first: format!("`rope_type` = \"{newer}\""),
            second: format!("`type` = \"{older}\" beside it"),
        }),
        (Some(kind), _) | (None, Some(kind)) => Ok(kind),
        (None, None) => Ok(DEFAULT),
    }
}

/// A field that may be inside and in the file; the one inside precedes.
fn overruling(
    field: &str,
    outer: &Fields<'_>,
    inner: &Fields<'_>,
    warnings: &mut Vec<String>,
    read: impl Fn(&Fields<'_>) -> Result<Option<f64>, ConfigError>,
) -> Result<Option<f64>, ConfigError> {
    let Some(inside) = read(inner)? else {
        return read(outer);
    };
    if let Some(value) = outer.get(field)
        && value.as_f64() != Some(inside)
    {
        warnings.push(format!(
            "config.json: `{field}` = {inside} of the rotary parameters is used, as transformers \
             does, and `{field}` = {} of the file ignored",
            brief(value)
        ));
    }
    Ok(Some(inside))
}

/// Whether two values are equal; 1 and 1.0 are.
fn equal(a: &Value, b: &Value) -> bool {
    a == b || (a.is_number() && a.as_f64() == b.as_f64())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use crate::model::DecoderConfig;

    /// Frequencies from an independent program; see tests/fixtures/rope/README.md.
    const EXPECTED: &str = include_str!("../../../tests/fixtures/rope/frequencies.json");

    #[test]
    fn frequencies_equal_an_independent_program() {
        let cases: Value = serde_json::from_str(EXPECTED).unwrap();
        let cases = cases.as_object().unwrap();
        assert_eq!(cases.len(), 8);
        for (name, case) in cases {
            let config = DecoderConfig::from_json(&case["config"].to_string()).unwrap();
            let context = case["context"].as_u64().unwrap_or(10) as usize;
            let rope = config.rope.init(config.head_dim, context);
            let expected = case["inverse_frequencies"].as_array().unwrap();
            assert_eq!(rope.inverse_frequencies.len(), expected.len());
            for (got, want) in rope.inverse_frequencies.iter().zip(expected) {
                let want = want.as_f64().unwrap();
                assert!((got / want - 1.0).abs() < 1e-12, "{name}: {got} {want}");
            }
            let factor = case["attention_factor"].as_f64().unwrap();
            assert!((rope.attention_factor - factor).abs() < 1e-12, "{name}");
        }
    }

    /// Every spelling gives what transformers 5 makes of it, or is refused by both; a contradiction
    /// that transformers lets pass may be refused.
    #[test]
    fn spellings_are_read_as_transformers_reads_them() {
        let all: Value =
            serde_json::from_str(include_str!("../../../tests/fixtures/rope/spellings.json"))
                .unwrap();
        let cases = all["cases"].as_array().unwrap();
        assert!(cases.len() > 30);
        for case in cases {
            let mut config = all["base"].clone();
            for (name, value) in case["fields"].as_object().unwrap() {
                config[name] = value.clone();
            }
            let found = DecoderConfig::from_json(&config.to_string());
            if case["refused"] == true {
                assert!(found.is_err(), "{case}");
                continue;
            }
            let config = found.unwrap_or_else(|error| panic!("{case}: {error}"));
            let context = case["context"].as_u64().unwrap() as usize;
            let rope = config.rope.init(config.head_dim, context);
            let expected = case["inverse_frequencies"].as_array().unwrap();
            assert_eq!(rope.inverse_frequencies.len(), expected.len());
            // transformers computes in f32.
            for (got, want) in rope.inverse_frequencies.iter().zip(expected) {
                let want = want.as_f64().unwrap();
                assert!((got / want - 1.0).abs() < 1e-5, "{case}: {got}");
            }
            let factor = case["attention_factor"].as_f64().unwrap();
            assert!((rope.attention_factor - factor).abs() < 1e-6, "{case}");
        }
    }
}
