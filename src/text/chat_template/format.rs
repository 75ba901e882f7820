//! Python's two ways to format text: `'%s' % value` and `'{}'.format(value)`.

mod brace;
mod number;
mod percent;

pub(super) use brace::format;
pub(super) use percent::percent;

use super::fault::{Fault, Result};
use super::limits::Budget;

/// Widest field, and most decimals: a format pads up to what it asks for.
const MAX_WIDTH: usize = 10_000;

/// `text` in a field: `<` left, `>` right, `^` in the middle, `=` between the sign and the digits.
fn pad(
    sign: &str,
    text: &str,
    fill: char,
    align: char,
    width: usize,
    budget: &Budget,
) -> Result<String> {
    if width > MAX_WIDTH {
        return Err(Fault::limit("the width of a field"));
    }
    let length = sign.chars().count() + text.chars().count();
    let missing = width.saturating_sub(length);
    budget.bytes(sign.len() + text.len() + missing * fill.len_utf8())?;
    let fill = |count: usize| std::iter::repeat_n(fill, count);
    let mut out = String::new();
    let (before, inside, behind) = match align {
        '<' => (0, 0, missing),
        '^' => (missing / 2, 0, missing - missing / 2),
        '=' => (0, missing, 0),
        _ => (missing, 0, 0),
    };
    out.extend(fill(before));
    out.push_str(sign);
    out.extend(fill(inside));
    out.push_str(text);
    out.extend(fill(behind));
    Ok(out)
}

/// The number that the characters start with, cut at [`MAX_WIDTH`].
fn count(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<usize> {
    let mut value = None;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        let so_far = value.unwrap_or(0usize);
        value = Some((so_far * 10 + digit as usize).min(MAX_WIDTH + 1));
        chars.next();
    }
    value
}
