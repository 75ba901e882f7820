//! Filters of numbers.

use num_bigint::BigInt;
use num_traits::{Num, Signed};

use crate::text::chat_template::call::{Arguments, flag, whole};
use crate::text::chat_template::characters::{decimal_value, is_space};
use crate::text::chat_template::fault::{Fault, Kind, Result};
use crate::text::chat_template::text::strip;
use crate::text::chat_template::value::{Value, integral};

pub(super) fn call(name: &str, value: &Value, arguments: &Arguments) -> Result<Value> {
    match name {
        "abs" => match (value.as_index(), value) {
            (Some(value), _) => Ok(Value::Int(value.abs())),
            (None, Value::Float(value)) => Ok(Value::Float(value.abs())),
            _ => Err(value.mismatch("a number")),
        },
        "int" | "float" if value.is_undefined() => Err(value.mismatch("a number")),
        "int" => {
            let [default, base] = arguments.bind(name, ["default", "base"])?;
            let default = default.unwrap_or_else(|| Value::int(0));
            let parsed = match value {
                Value::Int(_) | Value::Bool(_) => value.as_index(),
                Value::Float(value) if value.is_infinite() => {
                    return Err(Fault::new(Kind::Arithmetic, "infinity is no integer"));
                }
                Value::Float(value) => integral(value.trunc()),
                Value::Str(text) | Value::Markup(text) => {
                    let whole = parse_integer(text, whole(&base, 10)?);
                    whole.or_else(|| integral(parse_float(text)?.trunc()))
                }
                _ => None,
            };
            Ok(parsed.map_or(default, Value::Int))
        }
        "float" => {
            let [default] = arguments.bind(name, ["default"])?;
            let parsed = as_float(value);
            Ok(parsed.map_or(default.unwrap_or(Value::Float(0.0)), Value::Float))
        }
        "round" => {
            let [precision, method] = arguments.bind(name, ["precision", "method"])?;
            if let (Some(Value::None), Some(number)) = (&precision, value.as_float()) {
                let rounded = integral(number.round_ties_even()).map(Value::Int);
                return rounded.ok_or_else(|| value.mismatch("a finite number"));
            }
            let precision = whole(&precision, 0)?.clamp(-400, 400) as i32;
            let method = method.unwrap_or_else(|| Value::str("common"));
            round(value, precision, method.as_str().unwrap_or_default())
        }
        _ => {
            let [binary] = arguments.bind(name, ["binary"])?;
            let bytes = as_float(value).ok_or_else(|| value.mismatch("a number"))?;
            Ok(Value::str(&file_size(bytes, flag(&binary, false)?)))
        }
    }
}

/// A number, or one that a text spells.
fn as_float(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some(text) => parse_float(text),
        None => value.as_float(),
    }
}

fn round(value: &Value, precision: i32, method: &str) -> Result<Value> {
    if !matches!(method, "common" | "ceil" | "floor") {
        return Err(Fault::runtime("method must be common, ceil or floor"));
    }
    if method == "common"
        && let Some(whole) = value.as_index()
    {
        if precision >= 0 {
            return Ok(Value::Int(whole));
        }
        // To the even multiple where it lies in the middle.
        let unit = BigInt::from(10).pow(precision.unsigned_abs());
        let half: BigInt = &unit / 2;
        let (mut quotient, rest) = num_integer::Integer::div_mod_floor(&whole, &unit);
        if rest > half || (rest == half && num_integer::Integer::is_odd(&quotient)) {
            quotient += 1;
        }
        return Ok(Value::Int(quotient * unit));
    }
    let number = value.as_float().ok_or_else(|| value.mismatch("a number"))?;
    let scale = 10f64.powi(precision);
    Ok(Value::Float(match method {
        "ceil" | "floor" => {
            let scaled = number * scale;
            if !scaled.is_finite() {
                return Err(Fault::new(Kind::Arithmetic, "the number is no integer"));
            }
            let rounded = if method == "ceil" {
                scaled.ceil()
            } else {
                scaled.floor()
            };
            // An integer of Python has no negative zero.
            (rounded + 0.0) / scale
        }
        _ if !number.is_finite() || precision > 323 => number,
        _ => match usize::try_from(precision) {
            // Decimal digits are rounded exactly, as Python does.
            Ok(digits) => format!("{number:.digits$}").parse().unwrap_or(number),
            Err(_) => {
                let unit = 10f64.powi(-precision);
                (number / unit).round_ties_even() * unit
            }
        },
    }))
}

/// `int(text, base)`; `None` where Python raises.
fn parse_integer(text: &str, base: i64) -> Option<BigInt> {
    let text = strip(text, true, true, is_space);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_lowercase();
    let prefixed = match lower.get(..2) {
        Some("0b") => Some(2),
        Some("0o") => Some(8),
        Some("0x") => Some(16),
        _ => None,
    };
    let prefixed = prefixed.filter(|found| base == 0 || base == i64::from(*found));
    let (base, digits) = match (prefixed, lower.get(2..)) {
        (Some(found), Some(digits)) => (found, digits.strip_prefix('_').unwrap_or(digits)),
        // Python refuses `int("010", 0)`, which was octal once.
        _ if base == 0 => match lower.trim_matches(['0', '_']) {
            "" => (10, lower.as_str()),
            _ if lower.starts_with('0') => return None,
            _ => (10, lower.as_str()),
        },
        _ => (u32::try_from(base).ok()?, lower.as_str()),
    };
    if !(2..=36).contains(&base) {
        return None;
    }
    let digits = plain_digits(digits)?;
    if digits.len() > 4300 || !digits.chars().all(|c| c.is_digit(base)) {
        return None;
    }
    let value = BigInt::from_str_radix(&digits, base).ok()?;
    Some(if negative { -value } else { value })
}

/// Digits of any script as ASCII, without single underscores between them.
fn plain_digits(text: &str) -> Option<String> {
    if text.is_empty() || text.starts_with('_') || text.ends_with('_') || text.contains("__") {
        return None;
    }
    Some(
        text.chars()
            .filter(|c| *c != '_')
            .map(ascii_digit)
            .collect(),
    )
}

/// A digit of any script as ASCII; other characters unchanged.
fn ascii_digit(c: char) -> char {
    let value = decimal_value(c).and_then(|value| char::from_digit(value, 10));
    value.unwrap_or(c)
}

/// `float(text)`; `None` where Python raises.
fn parse_float(text: &str) -> Option<f64> {
    let text = strip(text, true, true, is_space);
    let unsigned = text.trim_start_matches(['+', '-']);
    match unsigned.to_ascii_lowercase().as_str() {
        "inf" | "infinity" | "nan" if text.len() - unsigned.len() < 2 => return text.parse().ok(),
        _ => {}
    }
    let is_digit = |c: char| c.is_ascii_digit();
    let last = text.matches('_').count();
    let beside_digits = text.split('_').enumerate().all(|(at, part)| {
        (at == 0 || part.starts_with(is_digit)) && (at == last || part.ends_with(is_digit))
    });
    let plain: String = text
        .chars()
        .filter(|c| *c != '_')
        .map(ascii_digit)
        .collect();
    let numeric = plain
        .chars()
        .all(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E'));
    if !beside_digits || !numeric {
        return None;
    }
    plain.parse().ok()
}

/// `filesizeformat`.
fn file_size(bytes: f64, binary: bool) -> String {
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return "1 Byte".to_owned();
    }
    if bytes < base {
        return format!("{:.0} Bytes", bytes + 0.0);
    }
    let prefixes = if binary { "KMGTPEZY" } else { "kMGTPEZY" };
    let units = (1..).zip(prefixes.chars());
    let mut larger = units.skip_while(|(power, _)| bytes >= base.powi(power + 1));
    let (power, prefix) = larger.next().unwrap_or((8, 'Y'));
    let amount = base * bytes / base.powi(power + 1);
    let unit = if binary { "iB" } else { "B" };
    format!("{amount:.1} {prefix}{unit}")
}
