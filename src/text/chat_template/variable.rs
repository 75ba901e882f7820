//! Variables given to a template: JSON, with Python's integers.

use std::collections::BTreeMap;
use std::str::FromStr;

use num_bigint::BigInt;

use super::ChatTemplateError;

/// In front of what [`serde_json`] has no number for; no text starts so.
const MARK: char = '\u{f8ff}';

/// The value of a template's variable: JSON, with integers of any size, and with the `NaN` and
/// `Infinity` that Python reads.
///
/// ```
/// use burn_apb::text::chat_template::TemplateValue;
///
/// let flag: TemplateValue = "false".parse()?;
/// assert_eq!(flag, TemplateValue::from(false));
/// # Ok::<(), burn_apb::text::chat_template::ChatTemplateError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TemplateValue(pub(super) Data);

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Data {
    Json(serde_json::Value),
    Integer(BigInt),
    Float(f64),
    List(Vec<Data>),
    Map(Vec<(String, Data)>),
}

impl TemplateValue {
    /// The values of an object by their keys; `None` where this is no object.
    pub fn into_entries(self) -> Option<BTreeMap<String, TemplateValue>> {
        let entries: Vec<(String, Data)> = match self.0 {
            Data::Map(entries) => entries,
            Data::Json(serde_json::Value::Object(map)) => map
                .into_iter()
                .map(|(key, value)| (key, Data::Json(value)))
                .collect(),
            _ => return None,
        };
        let entries = entries.into_iter();
        Some(entries.map(|(key, value)| (key, Self(value))).collect())
    }
}

impl<T: Into<serde_json::Value>> From<T> for TemplateValue {
    fn from(value: T) -> Self {
        Self(Data::Json(value.into()))
    }
}

impl FromStr for TemplateValue {
    type Err = ChatTemplateError;

    /// Reads a JSON text.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let json =
            serde_json::from_str(&marked(text)).map_err(|error| ChatTemplateError::Json {
                message: error.to_string(),
            })?;
        Ok(Self(unmark(json)))
    }
}

/// The text with the numbers quoted and marked that [`serde_json`] would round or refuse.
fn marked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '"' => string_length(rest),
            c if c == '-' || c.is_ascii_alphanumeric() => rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c)))
                .unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let (token, behind) = rest.split_at(length);
        let digits = token.strip_prefix('-').unwrap_or(token);
        let long = digits.len() > 18 && digits.bytes().all(|b| b.is_ascii_digit());
        if (long && !digits.starts_with('0')) || matches!(digits, "NaN" | "Infinity") {
            out.extend(['"', MARK]);
            out.push_str(token);
            out.push('"');
        } else {
            out.push_str(token);
        }
        rest = behind;
    }
    out
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn unmark(value: serde_json::Value) -> Data {
    match value {
        serde_json::Value::String(text) => match text.strip_prefix(MARK) {
            Some("NaN" | "-NaN") => Data::Float(f64::NAN),
            Some("Infinity") => Data::Float(f64::INFINITY),
            Some("-Infinity") => Data::Float(f64::NEG_INFINITY),
            Some(digits) => match digits.parse() {
                Ok(integer) => Data::Integer(integer),
                Err(_) => Data::Json(text.into()),
            },
            None => Data::Json(text.into()),
        },
        serde_json::Value::Array(items) => Data::List(items.into_iter().map(unmark).collect()),
        serde_json::Value::Object(map) => Data::Map(
            map.into_iter()
                .map(|(key, value)| (key, unmark(value)))
                .collect(),
        ),
        other => Data::Json(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_python_reads_them() {
        let value: TemplateValue = r#"{"a": [123456789012345678901234567890, -Infinity, 1], "b\"": "12345678901234567890"}"#
            .parse()
            .unwrap();
        let big = "123456789012345678901234567890".parse().unwrap();
        let expected = Data::Map(vec![
            (
                "a".to_owned(),
                Data::List(vec![
                    Data::Integer(big),
                    Data::Float(f64::NEG_INFINITY),
                    Data::Json(1.into()),
                ]),
            ),
            ("b\"".to_owned(), Data::Json("12345678901234567890".into())),
        ]);
        assert_eq!(value, TemplateValue(expected));
        assert!("[1".parse::<TemplateValue>().is_err());
    }
}
