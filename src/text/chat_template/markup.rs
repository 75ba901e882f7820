//! Text that is safe in HTML: `markupsafe`, which Jinja2's `safe` and `escape` filters use.

use super::fault::Result;
use super::limits::Budget;
use super::print;
use super::value::Value;

/// `markupsafe.escape(value)`: the text unchanged where it is safe.
pub(super) fn escape(value: &Value, budget: &Budget) -> Result<String> {
    match value {
        Value::Markup(text) => {
            budget.bytes(text.len())?;
            Ok(text.to_string())
        }
        _ => escape_text(&print::text(value, budget)?, budget),
    }
}

/// `markupsafe.escape` of a plain text.
pub(super) fn escape_text(text: &str, budget: &Budget) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    budget.bytes(out.len())?;
    Ok(out)
}

/// `Markup.striptags`: without comments and tags, with runs of whitespace made one space.
pub(super) fn strip_tags(text: &str, budget: &Budget) -> Result<String> {
    budget.bytes(text.len())?;
    let without = |text: &str, open: &str, close: &str| {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once(open) {
            let Some((_, behind)) = after.split_once(close) else {
                break;
            };
            out.push_str(before);
            rest = behind;
        }
        out + rest
    };
    let text = without(&without(text, "<!--", "-->"), "<", ">");
    let words = text
        .split(super::characters::is_space)
        .filter(|word| !word.is_empty());
    Ok(unescape(&words.collect::<Vec<_>>().join(" ")))
}

/// `html.unescape` for the entities that [`escape`] makes, and for characters by number.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        // No name or number of a character is longer.
        let end = after.char_indices().take(32).find(|(_, c)| *c == ';');
        let parts = end.and_then(|(at, _)| Some((after.get(..at)?, after.get(at + 1..)?)));
        let entity = parts.and_then(|(name, behind)| {
            let c = match name {
                "amp" => '&',
                "lt" => '<',
                "gt" => '>',
                "quot" => '"',
                "apos" => '\'',
                "nbsp" => '\u{a0}',
                _ => {
                    let number = name.strip_prefix('#')?;
                    let code = match number.strip_prefix(['x', 'X']) {
                        Some(hex) => u32::from_str_radix(hex, 16),
                        None => number.parse(),
                    };
                    char::from_u32(code.ok()?)?
                }
            };
            Some((c, behind))
        });
        match entity {
            Some((c, behind)) => {
                out.push(c);
                rest = behind;
            }
            None => {
                out.push('&');
                rest = after;
            }
        }
    }
    out + rest
}
