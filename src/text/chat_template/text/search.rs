//! Finding a text in a part of another, as Python's `str` does.

use crate::text::chat_template::call::given;
use crate::text::chat_template::fault::{Fault, Result};
use crate::text::chat_template::limits::Budget;
use crate::text::chat_template::value::Value;

/// The part of a text between two indices, with the index of its first character; `None` where the
/// indices are no part of the text.
pub(crate) fn window<'t>(
    text: &'t str,
    start: Option<&Value>,
    stop: Option<&Value>,
    budget: &Budget,
) -> Result<Option<(usize, &'t str)>> {
    let length = text.chars().count();
    // Counted from the end where it is negative.
    let index = |value: Option<&Value>| -> Result<Option<usize>> {
        let Some(value) = given(value.cloned()) else {
            return Ok(None);
        };
        let index = value.to_i64()?;
        let distance = usize::try_from(index.unsigned_abs()).unwrap_or(usize::MAX);
        Ok(Some(match index {
            ..0 => length.saturating_sub(distance),
            _ => distance,
        }))
    };
    let (start, stop) = (index(start)?, index(stop)?);
    if start.is_none() && stop.is_none() {
        return Ok(Some((0, text)));
    }
    budget.reading(text.len())?;
    let (start, stop) = (start.unwrap_or(0), stop.unwrap_or(length).min(length));
    if start > stop {
        return Ok(None);
    }
    let byte = |index| {
        text.char_indices()
            .nth(index)
            .map_or(text.len(), |(at, _)| at)
    };
    Ok(text.get(byte(start)..byte(stop)).map(|part| (start, part)))
}

/// `count`, `find`, `index`, `rfind` and `rindex` of a part in a [`window`].
pub(crate) fn find(window: Option<(usize, &str)>, method: &str, part: &str) -> Result<Value> {
    let Some((start, text)) = window else {
        return match method {
            "count" => Ok(Value::int(0)),
            _ => absent(method),
        };
    };
    let byte = match method {
        "count" if part.is_empty() => return Ok(Value::int(text.chars().count() + 1)),
        "count" => return Ok(Value::int(text.matches(part).count())),
        "rfind" | "rindex" => text.rfind(part),
        _ => text.find(part),
    };
    match byte.and_then(|byte| text.get(..byte)) {
        Some(before) => Ok(Value::int(start + before.chars().count())),
        None => absent(method),
    }
}

fn absent(method: &str) -> Result<Value> {
    match method.ends_with("find") {
        true => Ok(Value::int(-1)),
        false => Err(Fault::value_error("substring not found")),
    }
}
