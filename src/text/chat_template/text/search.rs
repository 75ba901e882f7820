//! Finding a text in a part of another, as Python's `str` does.

use crate::text::chat_template::fault::{Fault, Result};
use crate::text::chat_template::limits::Budget;
use crate::text::chat_template::slices::{Slice, slice};
use crate::text::chat_template::value::Value;

/// The part of a text between two indices; `None` where they are no part of it.
pub(in crate::text::chat_template) fn window(
    text: &Value,
    start: Option<&Value>,
    stop: Option<&Value>,
    budget: &Budget,
) -> Result<Option<Value>> {
    let bound = |value: Option<&Value>| match value {
        None | Some(Value::None) => Ok(None),
        Some(value) => value.to_i64().map(Some),
    };
    let (start, stop) = (bound(start)?, bound(stop)?);
    if start.is_none() && stop.is_none() {
        return Ok(Some(text.clone()));
    }
    let length = i64::try_from(text.length()?).unwrap_or(i64::MAX);
    let place = |index: i64| match index {
        ..0 => index.saturating_add(length).max(0),
        index => index,
    };
    let first = start.map_or(0, place);
    if first > stop.map_or(length, place).min(length) {
        return Ok(None);
    }
    slice(
        text,
        Slice {
            start,
            stop,
            step: None,
        },
        budget,
    )
    .map(Some)
}

pub(in crate::text::chat_template) fn find(
    text: &str,
    method: &str,
    part: &str,
    start: Option<&Value>,
    stop: Option<&Value>,
    budget: &Budget,
) -> Result<Value> {
    let whole = Value::str(text);
    let found = match window(&whole, start, stop, budget)? {
        None if method == "count" => return Ok(Value::int(0)),
        None => None,
        Some(window) => {
            let window = window.as_str().unwrap_or_default();
            if method == "count" {
                let count = match part.is_empty() {
                    true => window.chars().count() + 1,
                    false => window.matches(part).count(),
                };
                return Ok(Value::int(count));
            }
            let byte = match method.starts_with('r') {
                true => window.rfind(part),
                false => window.find(part),
            };
            byte.map(|byte| window.get(..byte).unwrap_or_default().chars().count())
        }
    };
    match found {
        Some(at) => {
            let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
            let start = match start {
                None | Some(Value::None) => 0,
                Some(start) => match start.to_i64()? {
                    start @ ..0 => start.saturating_add(length).max(0),
                    start => start,
                },
            };
            Ok(Value::int(start.saturating_add(at as i64)))
        }
        None if method.ends_with("find") => Ok(Value::int(-1)),
        None => Err(Fault::value_error("substring not found")),
    }
}
