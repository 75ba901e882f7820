//! `'%s' % value`.

use std::rc::Rc;

use num_bigint::BigInt;
use num_traits::Signed;

use super::{count, number, pad};
use crate::text::chat_template::fault::{Fault, Kind, Result};
use crate::text::chat_template::limits::Budget;
use crate::text::chat_template::markup::escape_text;
use crate::text::chat_template::value::{Value, integral};
use crate::text::chat_template::{markup, print};

#[derive(Default)]
struct Field {
    alternate: bool,
    zero: bool,
    left: bool,
    space: bool,
    plus: bool,
    width: usize,
    precision: Option<usize>,
}

struct Arguments<'v> {
    all: &'v Value,
    next: usize,
}

impl Arguments<'_> {
    fn next(&mut self) -> Result<Value> {
        let value = match self.all {
            Value::Tuple(seq) => seq.items.get(self.next).cloned(),
            value => (self.next == 0).then(|| value.clone()),
        };
        self.next += 1;
        value.ok_or_else(|| Fault::type_error("not enough arguments for format string"))
    }

    fn are_used_up(&self) -> bool {
        match self.all {
            Value::Tuple(seq) => self.next >= seq.items.len(),
            // What takes an index may go unused, but for text.
            Value::Dict(_)
            | Value::List(_)
            | Value::Range(_)
            | Value::Undefined(_)
            | Value::Forbidden(_) => true,
            _ => self.next > 0,
        }
    }
}

/// `format % values`; safe where `format` is.
pub(crate) fn percent(format: &Value, values: &Value, budget: &Budget) -> Result<Value> {
    let source = format.as_str().unwrap_or_default();
    let safe = matches!(format, Value::Markup(_));
    let mut arguments = Arguments {
        all: values,
        next: 0,
    };
    let mut out = String::new();
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut named = None;
        if chars.peek() == Some(&'(') {
            chars.next();
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
        while let Some(&flag) = chars.peek() {
            match flag {
                '#' => field.alternate = true,
                '0' => field.zero = true,
                '-' => field.left = true,
                ' ' => field.space = true,
                '+' => field.plus = true,
                _ => break,
            }
            chars.next();
        }
        if chars.peek() == Some(&'*') {
            chars.next();
            let width = arguments.next()?.to_i64()?;
            field.left |= width < 0;
            field.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
        } else {
            field.width = count(&mut chars).unwrap_or(0);
        }
        if chars.peek() == Some(&'.') {
            chars.next();
            field.precision = Some(if chars.peek() == Some(&'*') {
                chars.next();
                usize::try_from(arguments.next()?.to_i64()?).unwrap_or(0)
            } else {
                count(&mut chars).unwrap_or(0)
            });
        }
        while matches!(chars.peek(), Some('h' | 'l' | 'L')) {
            chars.next();
        }
        let Some(kind) = chars.next() else {
            return Err(Fault::value_error("incomplete format"));
        };
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match named {
            Some(value) => value,
            None => arguments.next()?,
        };
        let piece = convert(&value, kind, &field, safe, budget)?;
        out.push_str(&piece);
        if out.len() > budget.value_bytes() {
            return Err(Fault::limit("the size of a value"));
        }
    }
    if !arguments.are_used_up() {
        return Err(Fault::type_error(
            "not all arguments converted during string formatting",
        ));
    }
    budget.bytes(out.len())?;
    Ok(match safe {
        true => Value::Markup(Rc::from(out)),
        false => Value::str(&out),
    })
}

fn convert(
    value: &Value,
    kind: char,
    field: &Field,
    safe: bool,
    budget: &Budget,
) -> Result<String> {
    let align = |default| if field.left { '<' } else { default };
    match kind {
        's' | 'r' | 'a' => {
            let text = match (kind, safe) {
                ('s', false) => print::text(value, budget)?,
                ('s', true) => markup::escape(value, budget)?,
                (_, false) => print::repr(value, budget)?,
                (_, true) => escape_text(&print::repr(value, budget)?, budget)?,
            };
            let text = match kind {
                'a' => text
                    .chars()
                    .map(|c| match c as u32 {
                        ..=0x7f => c.to_string(),
                        code @ ..=0xff => format!("\\x{code:02x}"),
                        code @ ..=0xffff => format!("\\u{code:04x}"),
                        code => format!("\\U{code:08x}"),
                    })
                    .collect(),
                _ => text,
            };
            let text: String = match field.precision {
                Some(precision) => text.chars().take(precision).collect(),
                None => text,
            };
            pad("", &text, ' ', align('>'), field.width, budget)
        }
        'c' => {
            let text = match (value.as_str(), value.as_index()) {
                (Some(text), _) if text.chars().count() == 1 => text.to_owned(),
                (None, Some(code)) => u32::try_from(code)
                    .ok()
                    .and_then(char::from_u32)
                    .ok_or_else(|| Fault::new(Kind::Arithmetic, "%c: not a character"))?
                    .to_string(),
                _ => return Err(value.misfit("an integer or one character")),
            };
            pad("", &text, ' ', align('>'), field.width, budget)
        }
        'd' | 'i' | 'u' | 'o' | 'x' | 'X' => {
            let whole = match (value, kind) {
                (Value::Float(value), 'd' | 'i' | 'u') => integral(value.trunc()),
                _ => value.as_index(),
            };
            let whole: BigInt = whole.ok_or_else(|| value.misfit("a number"))?;
            let mut digits = number::integer(&whole, kind)?;
            if let Some(precision) = field.precision {
                digits = pad("", &digits, '0', '>', precision, budget)?;
            }
            let mut sign = sign(whole.is_negative(), field).to_owned();
            if field.alternate {
                sign.push_str(number::prefix(kind));
            }
            numeric(&sign, &digits, field, budget)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let float = value.as_float().ok_or_else(|| value.misfit("a number"))?;
            let precision = field.precision.unwrap_or(6);
            let digits = number::float(float, kind, precision, field.alternate)?;
            let negative = float.is_sign_negative() && !float.is_nan();
            numeric(sign(negative, field), &digits, field, budget)
        }
        kind => Err(Fault::value_error(format!(
            "unsupported format character '{kind}'"
        ))),
    }
}

fn sign(negative: bool, field: &Field) -> &'static str {
    match (negative, field.plus, field.space) {
        (true, ..) => "-",
        (_, true, _) => "+",
        (_, _, true) => " ",
        _ => "",
    }
}

fn numeric(sign: &str, digits: &str, field: &Field, budget: &Budget) -> Result<String> {
    match (field.left, field.zero) {
        (true, _) => pad(sign, digits, ' ', '<', field.width, budget),
        (_, true) => pad(sign, digits, '0', '=', field.width, budget),
        _ => pad(sign, digits, ' ', '>', field.width, budget),
    }
}
