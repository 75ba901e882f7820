//! Cutting, padding and replacing as Python's `str` does.

use crate::text::chat_template::characters::{is_line_break, is_space};
use crate::text::chat_template::fault::Result;
use crate::text::chat_template::limits::Budget;

pub(crate) fn justify(
    text: &str,
    method: &str,
    width: i64,
    fill: char,
    budget: &Budget,
) -> Result<String> {
    let length = text.chars().count();
    let width = usize::try_from(width).unwrap_or(0);
    let missing = width.saturating_sub(length);
    budget.product(fill.len_utf8(), missing)?;
    let left = match method {
        "ljust" => 0,
        "rjust" => missing,
        // CPython's rule for where the odd one goes.
        _ => missing / 2 + (missing & width & 1),
    };
    let fill = |count| std::iter::repeat_n(fill, count);
    Ok(fill(left)
        .chain(text.chars())
        .chain(fill(missing - left))
        .collect())
}

pub(crate) fn expand_tabs(text: &str, size: usize, budget: &Budget) -> Result<String> {
    let mut out = String::new();
    let mut column = 0;
    for c in text.chars() {
        match c {
            '\t' if size > 0 => {
                let spaces = size - column % size;
                budget.bytes(spaces)?;
                out.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            '\t' => {}
            c => {
                column = if matches!(c, '\n' | '\r') {
                    0
                } else {
                    column + 1
                };
                out.push(c);
            }
        }
    }
    Ok(out)
}

/// `str.strip` of the characters that `strips` names.
pub(crate) fn strip(text: &str, left: bool, right: bool, strips: impl Fn(char) -> bool) -> &str {
    let text = match left {
        true => text.trim_start_matches(&strips),
        false => text,
    };
    match right {
        true => text.trim_end_matches(&strips),
        false => text,
    }
}

/// `str.split()` and `str.rsplit()`: the words between runs of whitespace. After `limit` of them, the
/// rest is the last part, with its whitespace.
pub(crate) fn split_words(text: &str, limit: usize, forwards: bool) -> Vec<&str> {
    let trim = |text| strip(text, forwards, !forwards, is_space);
    let mut words = Vec::new();
    let mut rest = trim(text);
    while !rest.is_empty() {
        let cut = match forwards {
            _ if words.len() == limit => None,
            true => rest.split_once(is_space),
            false => rest
                .rsplit_once(is_space)
                .map(|(before, word)| (word, before)),
        };
        let (word, behind) = cut.unwrap_or((rest, ""));
        words.push(word);
        rest = trim(behind);
    }
    if !forwards {
        words.reverse();
    }
    words
}

/// `str.splitlines`.
pub(crate) fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(is_line_break) {
        let behind = rest.get(end..).unwrap_or_default();
        let length = match behind.starts_with("\r\n") {
            true => 2,
            false => behind.chars().next().map_or(1, char::len_utf8),
        };
        let taken = if keep_ends { end + length } else { end };
        lines.push(rest.get(..taken).unwrap_or_default());
        rest = rest.get(end + length..).unwrap_or_default();
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// `str.replace`; a negative count replaces all.
pub(crate) fn replace(
    text: &str,
    old: &str,
    new: &str,
    count: i64,
    budget: &Budget,
) -> Result<String> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    budget.reading(text.len())?;
    let times = count.min(text.matches(old).count());
    let length = times
        .checked_mul(new.len())
        .and_then(|n| n.checked_add(text.len()));
    budget.product(1, length.unwrap_or(usize::MAX))?;
    Ok(text.replacen(old, new, count))
}
