//! What a template is given beside the messages; variables are JSON, with Python's integers.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::SystemTime;

use serde_json::Value as Json;

use super::ChatTemplateError;
use crate::text::json;

/// In front of what [`serde_json`] has no number for, in the strings of a parsed value.
pub(super) const MARK: char = '\u{f8ff}';

/// How [`ChatTemplate::render`](super::ChatTemplate::render) renders.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RenderOptions {
    /// Whether the prompt ends with the opening of the assistant's turn.
    pub add_generation_prompt: bool,
    /// The functions that the model may call, as JSON schemas; `tools` is none where `None`.
    pub tools: Option<Vec<serde_json::Value>>,
    /// The documents that the model may cite; `documents` is none where `None`.
    pub documents: Option<Vec<serde_json::Value>>,
    /// Further variables, such as `enable_thinking`. They go before special tokens of that name.
    pub variables: BTreeMap<String, TemplateValue>,
    /// The time of `strftime_now`; the system's clock where `None`.
    pub now: Option<SystemTime>,
    /// Where that time is local, in seconds east of UTC; the system's time zone where `None`.
    pub utc_offset: Option<i32>,
}

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
pub struct TemplateValue {
    pub(super) json: Json,
    /// Whether strings that begin with [`MARK`] are numbers.
    pub(super) marked: bool,
}

impl TemplateValue {
    /// The values of an object by their keys; `None` where this is no object.
    pub fn into_entries(self) -> Option<BTreeMap<String, TemplateValue>> {
        let marked = self.marked;
        let Json::Object(entries) = self.json else {
            return None;
        };
        let entries = entries.into_iter();
        Some(
            entries
                .map(|(key, json)| (key, Self { json, marked }))
                .collect(),
        )
    }
}

impl<T: Into<Json>> From<T> for TemplateValue {
    fn from(value: T) -> Self {
        Self {
            json: value.into(),
            marked: false,
        }
    }
}

impl FromStr for TemplateValue {
    type Err = ChatTemplateError;

    /// Reads a JSON text.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let marked = marked(text);
        let json = serde_json::from_str(&marked).map_err(|error| ChatTemplateError::Json {
            message: error.to_string(),
        })?;
        Ok(Self {
            json,
            marked: marked != text,
        })
    }
}

/// The text with the numbers quoted and marked that [`serde_json`] would round or refuse.
fn marked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '"' => json::string(rest, 0, &mut |_, _, _| {}),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_python_reads_them() {
        let value: TemplateValue = r#"{"a": [123456789012345678901234567890, -Infinity, 1], "b\"": "12345678901234567890"}"#
            .parse()
            .unwrap();
        let expected = serde_json::json!({
            "a": [format!("{MARK}123456789012345678901234567890"), format!("{MARK}-Infinity"), 1],
            "b\"": "12345678901234567890",
        });
        assert_eq!(value.json, expected);
        assert!(value.marked);
        assert!("[1".parse::<TemplateValue>().is_err());
    }
}
