//! A JSON object with typed fields.

use std::ops::Range;

use serde_json::{Map, Value};

use super::error::{ConfigError, value_error};

/// An object of a `config.json`; null counts as absent.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) raw: &'a Map<String, Value>,
    pub(super) model_type: &'a str,
}

impl<'a> Fields<'a> {
    /// A field that is there and not null.
    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        self.raw.get(field).filter(|value| !value.is_null())
    }

    /// A field and its value, unless it is absent, null, false, zero or empty.
    pub(super) fn active(&self, field: &'static str) -> Option<(&'static str, &'a Value)> {
        let value = self.get(field)?;
        truthy(value).then_some((field, value))
    }

    pub(super) fn flag(&self, field: &'static str) -> Result<Option<bool>, ConfigError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(other) => Err(value_error(field, "true or false", other)),
        }
    }

    pub(super) fn size(&self, field: &'static str, max: usize) -> Result<usize, ConfigError> {
        self.optional_size(field, max)?
            .ok_or_else(|| self.missing(field))
    }

    pub(super) fn optional_size(
        &self,
        field: &'static str,
        max: usize,
    ) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        // Some programs write whole numbers as floats.
        let whole = value.as_u64().or_else(|| {
            let float = value.as_f64().filter(|x| x.fract() == 0.0)?;
            (0.0..=max as f64).contains(&float).then_some(float as u64)
        });
        match whole.and_then(|n| usize::try_from(n).ok()) {
            Some(n) if (1..=max).contains(&n) => Ok(Some(n)),
            _ => Err(value_error(
                field,
                format!("a whole number from 1 to {max}"),
                value,
            )),
        }
    }

    pub(super) fn number(
        &self,
        field: &'static str,
        range: Range<f64>,
    ) -> Result<Option<f64>, ConfigError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(x) if range.contains(&x) => Ok(Some(x)),
                _ => Err(value_error(
                    field,
                    format!("a number from {:e} to below {:e}", range.start, range.end),
                    value,
                )),
            },
        }
    }

    pub(super) fn required_number(
        &self,
        field: &'static str,
        range: Range<f64>,
    ) -> Result<f64, ConfigError> {
        self.number(field, range)?
            .ok_or_else(|| self.missing(field))
    }

    /// A field that may be an object.
    pub(super) fn object(
        &self,
        field: &'static str,
    ) -> Result<Option<&'a Map<String, Value>>, ConfigError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(other) => Err(value_error(field, "an object", other)),
        }
    }

    fn missing(&self, field: &'static str) -> ConfigError {
        ConfigError::Missing {
            field,
            model_type: self.model_type.to_owned(),
        }
    }
}

/// Whether Python takes the value for true.
pub(super) fn truthy(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}
