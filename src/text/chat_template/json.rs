//! `json.dumps`: how Python writes values as JSON.

use std::cmp::Ordering;

use super::fault::{Fault, Result};
use super::limits::Budget;
use super::operators::compare;
use super::print::{Writer, float, integer, written};
use super::sorting::sorted;
use super::value::Value;

/// How [`json`] lays its output out: the arguments of Python's `json.dumps`.
#[derive(Debug, Clone, Default)]
pub(super) struct JsonStyle {
    pub ensure_ascii: bool,
    pub sort_keys: bool,
    pub indent: Option<String>,
    pub separators: Option<(String, String)>,
}

/// `json.dumps(value)`.
pub(super) fn json(value: &Value, style: &JsonStyle, budget: &Budget) -> Result<String> {
    written(budget, |writer| writer.json(value, style, 0))
}

impl Writer<'_> {
    fn json(&mut self, value: &Value, style: &JsonStyle, depth: u16) -> Result<()> {
        self.enter(depth)?;
        match value {
            Value::None => self.push("null"),
            Value::Bool(true) => self.push("true"),
            Value::Bool(false) => self.push("false"),
            Value::Int(value) => self.push(&integer(value)?),
            Value::Float(value) => self.push(&json_float(*value)),
            Value::Str(text) | Value::Markup(text) => self.json_string(text, style),
            Value::List(seq) | Value::Tuple(seq) => {
                self.push("[")?;
                for (index, item) in seq.items.iter().enumerate() {
                    self.json_item(style, index, depth + 1)?;
                    self.json(item, style, depth + 1)?;
                }
                self.json_end(style, seq.items.len(), depth, "]")
            }
            Value::Dict(dict) => {
                let mut entries: Vec<_> = dict.iter().collect();
                if style.sort_keys {
                    let budget = self.budget;
                    entries = sorted(
                        entries,
                        &mut |a: &(&Value, &Value), b: &(&Value, &Value)| {
                            Ok(compare(a.0, b.0, budget)? == Some(Ordering::Less))
                        },
                    )?;
                }
                self.push("{")?;
                for (index, (key, value)) in entries.iter().enumerate() {
                    self.json_item(style, index, depth + 1)?;
                    self.json_string(&json_key(key)?, style)?;
                    self.push(style.separators.as_ref().map_or(": ", |s| &s.1))?;
                    self.json(value, style, depth + 1)?;
                }
                self.json_end(style, entries.len(), depth, "}")
            }
            _ => Err(Fault::type_error(format!(
                "Object of type {} is not JSON serializable",
                value.type_name()
            ))),
        }
    }

    fn json_item(&mut self, style: &JsonStyle, index: usize, depth: u16) -> Result<()> {
        if index > 0 {
            // `json.dumps` drops the space after the comma where it breaks the line.
            let default = if style.indent.is_some() { "," } else { ", " };
            self.push(style.separators.as_ref().map_or(default, |s| &s.0))?;
        }
        self.json_line(style, depth)
    }

    fn json_end(&mut self, style: &JsonStyle, items: usize, depth: u16, end: &str) -> Result<()> {
        if items > 0 {
            self.json_line(style, depth)?;
        }
        self.push(end)
    }

    fn json_line(&mut self, style: &JsonStyle, depth: u16) -> Result<()> {
        if let Some(indent) = &style.indent {
            self.push("\n")?;
            for _ in 0..depth {
                self.push(indent)?;
            }
        }
        Ok(())
    }

    fn json_string(&mut self, text: &str, style: &JsonStyle) -> Result<()> {
        let text = serde_json::Value::from(text).to_string();
        if !style.ensure_ascii {
            return self.push(&text);
        }
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            if (' '..='~').contains(&c) {
                out.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
        self.push(&out)
    }
}

fn json_key(key: &Value) -> Result<String> {
    Ok(match key {
        Value::Str(text) | Value::Markup(text) => text.to_string(),
        Value::None => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Int(value) => integer(value)?,
        Value::Float(value) => json_float(*value),
        _ => {
            return Err(Fault::type_error(format!(
                "keys must be str, int, float, bool or None, not {}",
                key.type_name()
            )));
        }
    })
}

fn json_float(value: f64) -> String {
    match value {
        value if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        value => float(value),
    }
}
