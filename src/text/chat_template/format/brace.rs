//! `'{}'.format(value)`.

use num_traits::Signed;

use super::field::{Field, count};
use super::number;
use crate::text::chat_template::call::Arguments;
use crate::text::chat_template::fault::{Fault, Kind, Result};
use crate::text::chat_template::interpreter::Interpreter;
use crate::text::chat_template::limits::Budget;
use crate::text::chat_template::markup::escape;
use crate::text::chat_template::print;
use crate::text::chat_template::value::Value;

/// `format.format(*arguments)`; safe where `format` is.
pub(crate) fn format(
    engine: &mut Interpreter<'_>,
    format: &Value,
    arguments: &Arguments,
) -> Result<Value> {
    let source = format.as_str().unwrap_or_default();
    let safe = format.is_safe();
    let mut next = Some(0);
    let out = fill(engine, source, arguments, safe, &mut next, 0)?;
    engine.budget.bytes(out.len())?;
    Ok(Value::text(out, safe))
}

/// The text with its fields filled in. `next` is the next field's number, `None` once a field
/// named its own.
fn fill(
    engine: &mut Interpreter<'_>,
    source: &str,
    arguments: &Arguments,
    safe: bool,
    next: &mut Option<usize>,
    depth: usize,
) -> Result<String> {
    if depth > 1 {
        return Err(Fault::value_error("Max string recursion exceeded"));
    }
    let mut out = String::new();
    let mut rest = source;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(rest.get(..at).unwrap_or_default());
        let brace = rest.get(at..=at).unwrap_or_default();
        let after = rest.get(at + 1..).unwrap_or_default();
        if let Some(behind) = after.strip_prefix(brace) {
            out.push_str(brace);
            rest = behind;
            continue;
        }
        if brace == "}" {
            return Err(Fault::value_error(
                "Single '}' encountered in format string",
            ));
        }
        let end = field_end(after)?;
        let field = after.get(..end).unwrap_or_default();
        rest = after.get(end + 1..).unwrap_or_default();

        let spec_at = top_level(field, ':').unwrap_or(field.len());
        let (name, spec) = field.split_at(spec_at);
        let spec = spec.strip_prefix(':').unwrap_or_default();
        let (name, conversion) = match name.rsplit_once('!') {
            Some((name, conversion)) => (name, Some(conversion)),
            None => (name, None),
        };
        let value = lookup(engine, name, arguments, next)?;
        let value = match conversion {
            None => value,
            Some("s") => Value::str(&print::text(&value, engine.budget)?),
            Some("r" | "a") => Value::str(&print::repr(&value, engine.budget)?),
            Some(_) => return Err(Fault::value_error("Unknown conversion specifier")),
        };
        let spec = match spec.contains(['{', '}']) {
            true => fill(engine, spec, arguments, false, next, depth + 1)?,
            false => spec.to_owned(),
        };
        let piece = match (safe, &value) {
            (true, Value::Markup(_)) if spec.is_empty() => print::text(&value, engine.budget)?,
            (true, _) => {
                let text = Value::str(&format_value(&value, &spec, engine.budget)?);
                escape(&text, engine.budget)?
            }
            (false, _) => format_value(&value, &spec, engine.budget)?,
        };
        out.push_str(&piece);
        if out.len() > engine.budget.value_bytes() {
            return Err(Fault::limit("the size of a value"));
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// The place of the `}` that ends the field.
fn field_end(text: &str) -> Result<usize> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Ok(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    Err(Fault::value_error("expected '}' before end of string"))
}

/// The place of a character outside of square brackets.
fn top_level(text: &str, wanted: char) -> Option<usize> {
    let mut bracket = false;
    text.char_indices().find_map(|(at, c)| {
        match c {
            '[' => bracket = true,
            ']' => bracket = false,
            _ => {}
        }
        (c == wanted && !bracket).then_some(at)
    })
}

fn lookup(
    engine: &mut Interpreter<'_>,
    name: &str,
    arguments: &Arguments,
    next: &mut Option<usize>,
) -> Result<Value> {
    let end = name.find(['.', '[']).unwrap_or(name.len());
    let (first, mut path) = name.split_at(end);
    let position = match first {
        "" => {
            let position = next.ok_or_else(|| {
                Fault::value_error("cannot switch from manual to automatic field numbering")
            })?;
            *next = Some(position + 1);
            Some(position)
        }
        _ => {
            let position = first.parse::<usize>().ok();
            if position.is_some() {
                if next.is_some_and(|next| next > 0) {
                    return Err(Fault::value_error(
                        "cannot switch from automatic to manual field numbering",
                    ));
                }
                *next = None;
            }
            position
        }
    };
    let found = match position {
        Some(position) => arguments.positional.get(position),
        None => arguments.keyword(first),
    };
    let mut value = found
        .cloned()
        .ok_or_else(|| Fault::new(Kind::Lookup, format!("no argument {name:?}")))?;
    while !path.is_empty() {
        if let Some(after) = path.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let (attribute, behind) = after.split_at(end);
            value = engine.attribute(&value, attribute)?;
            path = behind;
        } else if let Some((index, behind)) = path.strip_prefix('[').and_then(|p| p.split_once(']'))
        {
            let index = match index.parse::<i64>() {
                Ok(index) => Value::int(index),
                Err(_) => Value::str(index),
            };
            value = engine.item(&value, &index)?;
            path = behind;
        } else {
            return Err(Fault::value_error("Missing ']' in format string"));
        }
    }
    Ok(value)
}

/// The part after the colon: how the field is filled, the separator of groups of digits, and the
/// kind of the output.
fn parse(spec: &str) -> Result<(Field, Option<char>, Option<char>)> {
    let mut field = Field::default();
    let mut chars = spec.chars().peekable();
    let is_align = |c: &char| matches!(c, '<' | '>' | '=' | '^');
    if spec.chars().nth(1).is_some_and(|c| is_align(&c)) {
        field.fill = chars.next();
    }
    field.align = chars.next_if(is_align);
    let sign = chars.next_if(|c| matches!(c, '+' | '-' | ' '));
    field.sign = sign.filter(|sign| *sign != '-');
    field.alternate = chars.next_if_eq(&'#').is_some();
    field.zero = chars.next_if_eq(&'0').is_some();
    field.width = count(&mut chars).unwrap_or(0);
    let grouping = chars.next_if(|c| matches!(c, ',' | '_'));
    if chars.next_if_eq(&'.').is_some() {
        let missing = || Fault::value_error("Format specifier missing precision");
        field.precision = Some(count(&mut chars).ok_or_else(missing)?);
    }
    let kind = chars.next();
    match chars.next() {
        None => Ok((field, grouping, kind)),
        Some(_) => Err(Fault::value_error("Invalid format specifier")),
    }
}

/// `format(value, spec)`.
fn format_value(value: &Value, spec: &str, budget: &Budget) -> Result<String> {
    if spec.is_empty() {
        return print::text(value, budget);
    }
    let (field, grouping, kind) = parse(spec)?;
    let unknown = |kind: char| {
        Fault::value_error(format!(
            "Unknown format code '{kind}' for object of type '{}'",
            value.type_name()
        ))
    };
    if let Some(text) = value.as_str() {
        if let Some(kind) = kind.filter(|kind| *kind != 's') {
            return Err(unknown(kind));
        }
        let numeric = field.sign.is_some() || field.alternate || grouping.is_some();
        if numeric || field.align == Some('=') {
            return Err(Fault::value_error("not allowed in string format specifier"));
        }
        return field.text(text, '<', budget);
    }
    let (whole, Some(float)) = (value.as_index(), value.as_float()) else {
        return Err(Fault::type_error(format!(
            "unsupported format string passed to {}.__format__",
            value.type_name()
        )));
    };
    let kind = kind.unwrap_or(if whole.is_some() { 'd' } else { 'r' });
    let (negative, prefix, digits) = match (kind, &whole) {
        ('b' | 'o' | 'x' | 'X' | 'd' | 'n', Some(whole)) => {
            if field.precision.is_some() {
                return Err(Fault::value_error(
                    "Precision not allowed in integer format specifier",
                ));
            }
            let prefix = number::prefix(kind, field.alternate);
            (whole.is_negative(), prefix, number::integer(whole, kind)?)
        }
        ('c', Some(whole)) => (false, "", number::character(whole)?),
        ('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%' | 'n' | 'r', _) => {
            let precision = field.precision.unwrap_or(6);
            let digits = match (kind, field.precision) {
                ('%', _) => number::float(float * 100.0, 'f', precision, false)? + "%",
                ('n', _) => number::float(float, 'g', precision, field.alternate)?,
                ('r', None) => print::float(float.abs()),
                // Without a type, one digit behind the point at least.
                ('r', _) => {
                    let text = number::float(float, 'g', precision, false)?;
                    let is_float = text.contains(['.', 'e', 'n', 'i']);
                    text + if is_float { "" } else { ".0" }
                }
                _ => number::float(float, kind, precision, field.alternate)?,
            };
            (number::is_negative(float), "", digits)
        }
        (kind, _) => return Err(unknown(kind)),
    };
    let size = if matches!(kind, 'b' | 'o' | 'x' | 'X') {
        4
    } else {
        3
    };
    let digits = match grouping {
        Some(separator) => number::grouped(&digits, separator, size),
        None => digits,
    };
    let align = if kind == 'c' { '<' } else { '>' };
    field.number(negative, prefix, &digits, align, budget)
}
