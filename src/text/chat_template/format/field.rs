//! A value in a field of a width.

use crate::text::chat_template::fault::{Fault, Result};
use crate::text::chat_template::limits::Budget;

/// Widest field, and most decimals: a format string chooses both.
pub(super) const MAX_WIDTH: usize = 10_000;

/// How a value is put into a field: the flags of `%`, and the part after the colon in braces.
#[derive(Default)]
pub(super) struct Field {
    pub fill: Option<char>,
    /// `<` left, `>` right, `^` in the middle, `=` between the sign and the digits.
    pub align: Option<char>,
    /// What a number that is not negative begins with.
    pub sign: Option<char>,
    pub alternate: bool,
    pub zero: bool,
    pub width: usize,
    pub precision: Option<usize>,
}

impl Field {
    /// A text in the field, cut to its precision.
    pub(super) fn text(&self, text: &str, align: char, budget: &Budget) -> Result<String> {
        let cut: String = match self.precision {
            Some(precision) => text.chars().take(precision).collect(),
            None => text.to_owned(),
        };
        self.pad("", &cut, align, budget)
    }

    /// The digits of a number in the field, with its sign and a prefix such as `0x`.
    pub(super) fn number(
        &self,
        negative: bool,
        prefix: &str,
        digits: &str,
        align: char,
        budget: &Budget,
    ) -> Result<String> {
        let sign = if negative { Some('-') } else { self.sign };
        let sign: String = sign.into_iter().chain(prefix.chars()).collect();
        self.pad(&sign, digits, if self.zero { '=' } else { align }, budget)
    }

    fn pad(&self, sign: &str, text: &str, align: char, budget: &Budget) -> Result<String> {
        if self.width > MAX_WIDTH {
            return Err(Fault::limit("the width of a field"));
        }
        let length = sign.chars().count() + text.chars().count();
        let missing = self.width.saturating_sub(length);
        let fill = self.fill.unwrap_or(if self.zero { '0' } else { ' ' });
        budget.bytes(sign.len() + text.len() + missing * fill.len_utf8())?;
        let fill = |count| fill.to_string().repeat(count);
        Ok(match self.align.unwrap_or(align) {
            '<' => format!("{sign}{text}{}", fill(missing)),
            '^' => {
                let (before, behind) = (fill(missing / 2), fill(missing - missing / 2));
                format!("{before}{sign}{text}{behind}")
            }
            '=' => format!("{sign}{}{text}", fill(missing)),
            _ => format!("{}{sign}{text}", fill(missing)),
        })
    }
}

/// The number that the characters start with, cut at [`MAX_WIDTH`].
pub(super) fn count(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<usize> {
    let mut value = None;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        let so_far = value.unwrap_or(0usize);
        value = Some((so_far * 10 + digit as usize).min(MAX_WIDTH + 1));
        chars.next();
    }
    value
}
