//! `'%s' % value`.

use num_bigint::BigInt;
use num_traits::Signed;

use super::field::{Field, count};
use super::number;
use crate::text::chat_template::fault::{Fault, Kind, Result};
use crate::text::chat_template::limits::Budget;
use crate::text::chat_template::markup::escape_text;
use crate::text::chat_template::value::{Value, integral};
use crate::text::chat_template::{markup, print};

/// `format % values`; safe where `format` is.
pub(crate) fn percent(format: &Value, values: &Value, budget: &Budget) -> Result<Value> {
    let source = format.as_str().unwrap_or_default();
    let safe = format.is_safe();
    let mut arguments = match values {
        Value::Tuple(values) => values.items.iter(),
        value => std::slice::from_ref(value).iter(),
    };
    let missing = || Fault::type_error("not enough arguments for format string");
    let mut out = String::new();
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut named = None;
        if chars.next_if_eq(&'(').is_some() {
            let mut name = String::new();
            let mut depth = 1;
            loop {
                let c = chars
                    .next()
                    .ok_or_else(|| Fault::value_error("incomplete format key"))?;
                match c {
                    '(' => depth += 1,
                    ')' if depth == 1 => break,
                    ')' => depth -= 1,
                    _ => {}
                }
                name.push(c);
            }
            let Value::Dict(dict) = values else {
                return Err(Fault::type_error("format requires a mapping"));
            };
            let value = dict.get_str(&name).cloned();
            named = Some(value.ok_or_else(|| Fault::new(Kind::Lookup, name))?);
        }
        let mut field = Field::default();
        let mut left = false;
        while let Some(flag) = chars.next_if(|c| "#0- +".contains(*c)) {
            match flag {
                '#' => field.alternate = true,
                '0' => field.zero = true,
                '-' => left = true,
                '+' => field.sign = Some('+'),
                _ => field.sign = field.sign.or(Some(' ')),
            }
        }
        field.width = if chars.next_if_eq(&'*').is_some() {
            let width = arguments.next().ok_or_else(missing)?.to_i64()?;
            left |= width < 0;
            usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX)
        } else {
            count(&mut chars).unwrap_or(0)
        };
        if chars.next_if_eq(&'.').is_some() {
            field.precision = Some(if chars.next_if_eq(&'*').is_some() {
                let precision = arguments.next().ok_or_else(missing)?.to_i64()?;
                usize::try_from(precision).unwrap_or(0)
            } else {
                count(&mut chars).unwrap_or(0)
            });
        }
        field.zero &= !left;
        field.align = left.then_some('<');
        while chars.next_if(|c| "hlL".contains(*c)).is_some() {}
        let Some(kind) = chars.next() else {
            return Err(Fault::value_error("incomplete format"));
        };
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match &named {
            Some(value) => value,
            None => arguments.next().ok_or_else(missing)?,
        };
        let piece = convert(value, kind, field, safe, budget)?;
        out.push_str(&piece);
        if out.len() > budget.value_bytes() {
            return Err(Fault::limit("the size of a value"));
        }
    }
    // What takes an index may go unused, but for text.
    let optional = values.is_undefined()
        || matches!(values, Value::Dict(_) | Value::List(_) | Value::Range(_));
    if arguments.len() > 0 && !optional {
        return Err(Fault::type_error(
            "not all arguments converted during string formatting",
        ));
    }
    budget.bytes(out.len())?;
    Ok(Value::text(out, safe))
}

fn convert(
    value: &Value,
    kind: char,
    mut field: Field,
    safe: bool,
    budget: &Budget,
) -> Result<String> {
    match kind {
        's' | 'r' | 'a' => {
            let text = match (kind, safe) {
                ('s', false) => print::text(value, budget)?,
                ('s', true) => markup::escape(value, budget)?,
                (_, false) => print::repr(value, budget)?,
                (_, true) => escape_text(&print::repr(value, budget)?, budget)?,
            };
            let ascii = |c: char| match c.is_ascii() {
                true => c.to_string(),
                false => print::escaped(c),
            };
            let text = match kind {
                'a' => text.chars().map(ascii).collect(),
                _ => text,
            };
            field.zero = false;
            field.text(&text, '>', budget)
        }
        'c' => {
            let text = match (value.as_str(), value.as_index()) {
                (Some(text), _) if text.chars().count() == 1 => text.to_owned(),
                (None, Some(code)) => number::character(&code)?,
                _ => return Err(value.mismatch("an integer or one character")),
            };
            (field.zero, field.precision) = (false, None);
            field.text(&text, '>', budget)
        }
        'd' | 'i' | 'u' | 'o' | 'x' | 'X' => {
            let whole = match (value, kind) {
                (Value::Float(value), 'd' | 'i' | 'u') => integral(value.trunc()),
                _ => value.as_index(),
            };
            let whole: BigInt = whole.ok_or_else(|| value.mismatch("a number"))?;
            let digits = number::integer(&whole, kind)?;
            let least = Field {
                zero: true,
                width: field.precision.unwrap_or(0),
                ..Field::default()
            };
            let digits = least.number(false, "", &digits, '=', budget)?;
            let prefix = number::prefix(kind, field.alternate);
            field.number(whole.is_negative(), prefix, &digits, '>', budget)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let float = value.as_float().ok_or_else(|| value.mismatch("a number"))?;
            let precision = field.precision.unwrap_or(6);
            let digits = number::float(float, kind, precision, field.alternate)?;
            field.number(number::is_negative(float), "", &digits, '>', budget)
        }
        kind => Err(Fault::value_error(format!(
            "unsupported format character '{kind}'"
        ))),
    }
}
