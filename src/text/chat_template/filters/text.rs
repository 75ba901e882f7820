//! Filters of text.

use crate::text::chat_template::call::{Arguments, flag, given, required, size, whole};
use crate::text::chat_template::characters::{is_alpha, is_numeric, is_space};
use crate::text::chat_template::fault::{Fault, Result};
use crate::text::chat_template::format;
use crate::text::chat_template::interpreter::Interpreter;
use crate::text::chat_template::limits::Budget;
use crate::text::chat_template::text::{self as methods, split_lines};
use crate::text::chat_template::value::Value;
use crate::text::chat_template::{markup, print};

pub(super) fn call(
    engine: &mut Interpreter<'_>,
    name: &str,
    value: &Value,
    arguments: &Arguments,
) -> Result<Value> {
    let budget = engine.budget;
    match name {
        "capitalize" | "lower" | "upper" => method(engine, value, name, None),
        "trim" => {
            let [chars] = arguments.bind(name, ["chars"])?;
            method(engine, value, "strip", chars)
        }
        "center" => {
            let [width] = arguments.bind(name, ["width"])?;
            let width = width.unwrap_or_else(|| Value::int(80));
            method(engine, value, "center", Some(width))
        }
        "replace" => {
            let [old, new, count] = arguments.bind(name, ["old", "new", "count"])?;
            let count = whole(&given(count), -1)?;
            let (old, new) = (required(&old, "old")?, required(&new, "new")?);
            let (value, new) = (engine.printed(value)?, engine.printed(&new)?);
            let old = print::text(&old, budget)?;
            let made = methods::replace(&value, &old, &new, count, budget)?;
            Ok(Value::text(made, engine.autoescape))
        }
        "title" => {
            let text = soft(value, engine)?;
            like(&text, &title(text.as_str().unwrap_or_default()), engine)
        }
        "format" => {
            let format = soft(value, engine)?;
            let values = match (
                arguments.positional.as_slice(),
                arguments.keywords.as_slice(),
            ) {
                (_, []) => Value::tuple(arguments.positional.clone(), budget)?,
                ([], keywords) => {
                    let keywords = keywords.iter();
                    let entries =
                        keywords.map(|(name, value)| Ok((Value::str(name), value.clone())));
                    Value::dict(entries, budget)?
                }
                _ => {
                    return Err(Fault::runtime(
                        "can't handle positional and keyword arguments at the same time",
                    ));
                }
            };
            format::percent(&format, &values, budget)
        }
        "indent" => {
            let [width, first, blank] = arguments.bind(name, ["width", "first", "blank"])?;
            let margin = margin(&width.unwrap_or_else(|| Value::int(4)), budget)?;
            let text = methods::string(value)?;
            let with_end = text.to_owned() + "\n";
            let lines = split_lines(&with_end, false);
            budget.product(lines.len(), margin.len() + 1)?;
            let (first, blank) = (flag(&first, false)?, flag(&blank, false)?);
            let mut out = String::with_capacity(text.len());
            for (at, line) in lines.iter().enumerate() {
                if at > 0 {
                    out.push('\n');
                }
                if (at == 0 && first) || (at > 0 && (blank || !line.is_empty())) {
                    out.push_str(&margin);
                }
                out.push_str(line);
            }
            like(value, &out, engine)
        }
        "striptags" => {
            let text = print::text(value, budget)?;
            Ok(Value::str(&markup::strip_tags(&text, budget)?))
        }
        "pprint" => Ok(Value::str(&print::pretty(value, budget)?)),
        "wordcount" => {
            let text = print::text(value, budget)?;
            let words = text
                .split(|c: char| !is_word(c))
                .filter(|word| !word.is_empty());
            Ok(Value::int(words.count()))
        }
        "truncate" => truncate(engine, value, arguments),
        "urlencode" => url_encode(engine, value),
        "wordwrap" => word_wrap(engine, value, arguments),
        _ => xml_attributes(engine, value, arguments),
    }
}

/// A method of the value's text, with one argument or none.
fn method(
    engine: &mut Interpreter<'_>,
    value: &Value,
    name: &str,
    argument: Option<Value>,
) -> Result<Value> {
    let arguments = Arguments {
        positional: argument.into_iter().collect(),
        ..Arguments::default()
    };
    methods::call(engine, &soft(value, engine)?, name, &arguments)
}

/// `soft_str(value)`: the text of a value, safe where the value is a safe text.
pub(super) fn soft(value: &Value, engine: &Interpreter<'_>) -> Result<Value> {
    match value {
        Value::Str(_) | Value::Markup(_) => Ok(value.clone()),
        _ => Ok(Value::str(&print::text(value, engine.budget)?)),
    }
}

/// The indentation of a line: a text, or a number of spaces.
pub(super) fn margin(indent: &Value, budget: &Budget) -> Result<String> {
    if let Some(text) = indent.as_str() {
        return Ok(text.to_owned());
    }
    let width = size(&Some(indent.clone()), 0)?;
    budget.bytes(width)?;
    Ok(" ".repeat(width))
}

/// A text that is safe where `model` is.
fn like(model: &Value, text: &str, engine: &Interpreter<'_>) -> Result<Value> {
    engine.budget.bytes(text.len())?;
    Ok(Value::text(text, model.is_safe()))
}

/// `\w` of Python's regular expressions.
fn is_word(c: char) -> bool {
    is_alpha(c) || is_numeric(c) || c == '_'
}

/// Each word with a capital: a word starts behind spaces, hyphens and opening brackets.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut start = true;
    for c in text.chars() {
        if is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<') {
            out.push(c);
            start = true;
        } else if start {
            out.extend(c.to_uppercase());
            start = false;
        } else {
            out.extend(c.to_lowercase());
        }
    }
    out
}

fn truncate(engine: &Interpreter<'_>, value: &Value, arguments: &Arguments) -> Result<Value> {
    let [length, kill, end, leeway] =
        arguments.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let (length, leeway) = (size(&length, 255)?, size(&given(leeway), 5)?);
    let end = match &end {
        Some(end) => methods::string(end)?,
        None => "...",
    };
    let kept = length.checked_sub(end.chars().count());
    let kept = kept.ok_or_else(|| Fault::runtime("the length is shorter than the end"))?;
    if value.length()? <= length.saturating_add(leeway) {
        return Ok(value.clone());
    }
    let text = methods::string(value)?;
    let cut: String = text.chars().take(kept).collect();
    let cut = match flag(&kill, false)? {
        true => cut.as_str(),
        false => cut
            .rsplit_once(' ')
            .map_or(cut.as_str(), |(before, _)| before),
    };
    like(value, &format!("{cut}{end}"), engine)
}

/// Percent-encodes UTF-8, all but letters, digits, `_.-~` and `keep`.
fn quote(text: &str, keep: &str, out: &mut String) {
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "_.-~".contains(c) || keep.contains(c) {
            out.push(c);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

fn url_encode(engine: &Interpreter<'_>, value: &Value) -> Result<Value> {
    let budget = engine.budget;
    let mut out = String::new();
    let pairs = match value {
        Value::Dict(dict) => dict.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        Value::Str(_) | Value::Markup(_) => Vec::new(),
        _ if !value.is_iterable() => Vec::new(),
        _ => {
            let mut pairs = Vec::new();
            for pair in value.items(budget)? {
                match pair.items(budget)?.as_slice() {
                    [key, value] => pairs.push((key.clone(), value.clone())),
                    _ => return Err(Fault::value_error("urlencode takes pairs")),
                }
            }
            pairs
        }
    };
    let single = value.as_str().is_some() || !value.is_iterable();
    if single {
        quote(&print::text(value, budget)?, "/", &mut out);
    }
    for (at, (key, value)) in pairs.iter().enumerate() {
        if at > 0 {
            out.push('&');
        }
        for (part, end) in [(key, "="), (value, "")] {
            let mut encoded = String::new();
            quote(&print::text(part, budget)?, " ", &mut encoded);
            out.push_str(&encoded.replace(' ', "+"));
            out.push_str(end);
        }
    }
    budget.bytes(out.len())?;
    Ok(Value::str(&out))
}

/// Lines of at most `width` characters, broken at spaces and behind hyphens.
fn word_wrap(engine: &Interpreter<'_>, value: &Value, arguments: &Arguments) -> Result<Value> {
    let [width, break_long, wrap, hyphens] = arguments.bind(
        "wordwrap",
        [
            "width",
            "break_long_words",
            "wrapstring",
            "break_on_hyphens",
        ],
    )?;
    let width = size(&width, 79)?;
    if width == 0 {
        return Err(Fault::value_error("the width must be above 0"));
    }
    let (break_long, hyphens) = (flag(&break_long, true)?, flag(&hyphens, true)?);
    let wrap = given(wrap);
    let wrap = match &wrap {
        Some(wrap) => methods::string(wrap)?,
        None => "\n",
    };
    let mut lines: Vec<String> = Vec::new();
    for line in split_lines(methods::string(value)?, false) {
        let before = lines.len();
        let mut current = String::new();
        for chunk in chunks(line, hyphens) {
            let mut chunk = chunk.as_str();
            loop {
                let used = current.chars().count();
                let length = chunk.chars().count();
                engine.budget.reading(chunk.len())?;
                if used + length <= width {
                    // A line starts with no space, unless it is the first.
                    if !(current.is_empty()
                        && chunk.trim_ascii().is_empty()
                        && lines.len() > before)
                    {
                        current.push_str(chunk);
                    }
                    break;
                }
                if break_long && length > width {
                    let at = chunk
                        .char_indices()
                        .nth(width.saturating_sub(used))
                        .map_or(0, |(at, _)| at);
                    let (taken, rest) = chunk.split_at(at);
                    current.push_str(taken);
                    chunk = rest;
                } else if current.is_empty() {
                    current.push_str(chunk);
                    break;
                }
                lines.push(current.trim_ascii_end().to_owned());
                current.clear();
            }
        }
        let last = current.trim_ascii_end();
        if !last.is_empty() || lines.len() == before {
            lines.push(last.to_owned());
        }
    }
    engine.budget.product(lines.len(), wrap.len())?;
    like(value, &lines.join(wrap), engine)
}

/// Words and the spaces between them.
fn chunks(line: &str, hyphens: bool) -> Vec<String> {
    let mut chunks: Vec<String> = Vec::new();
    let mut last = None;
    for c in line.chars() {
        let space = c.is_ascii_whitespace();
        let joins = match (last, chunks.last_mut()) {
            (Some((was_space, before)), Some(chunk)) => {
                let hyphen = hyphens
                    && before == '-'
                    && c.is_alphabetic()
                    && chunk.chars().rev().nth(1).is_some_and(char::is_alphabetic);
                (was_space == space && !hyphen).then_some(chunk)
            }
            _ => None,
        };
        match joins {
            Some(chunk) => chunk.push(c),
            None => chunks.push(c.to_string()),
        }
        last = Some((space, c));
    }
    chunks
}

fn xml_attributes(engine: &Interpreter<'_>, value: &Value, arguments: &Arguments) -> Result<Value> {
    let budget = engine.budget;
    let [space] = arguments.bind("xmlattr", ["autospace"])?;
    let Value::Dict(dict) = value else {
        return Err(value.mismatch("a mapping"));
    };
    let mut pairs = Vec::new();
    for (key, value) in dict.iter() {
        if matches!(value, Value::None) || value.is_undefined() {
            continue;
        }
        let name = methods::string(key)?;
        if name.contains(|c: char| is_space(c) || matches!(c, '/' | '>' | '=')) {
            return Err(Fault::value_error(
                "an attribute's name holds a space or /, > or =",
            ));
        }
        pairs.push(format!(
            "{}=\"{}\"",
            markup::escape(key, budget)?,
            markup::escape(value, budget)?
        ));
    }
    let space = flag(&space, true)? && !pairs.is_empty();
    let text = format!("{}{}", if space { " " } else { "" }, pairs.join(" "));
    budget.bytes(text.len())?;
    Ok(Value::text(text, engine.autoescape))
}
