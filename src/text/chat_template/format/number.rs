//! Digits of integers and floats, without their sign.

use super::field::MAX_WIDTH;
use crate::text::chat_template::fault::{Fault, Kind, Result};
use crate::text::chat_template::print;
use num_bigint::BigInt;
use num_traits::{Signed, ToPrimitive};

/// An integer's digits in the base of `kind` (`b`, `o`, `x`, `X` or decimal).
pub(super) fn integer(value: &BigInt, kind: char) -> Result<String> {
    let value = value.abs();
    Ok(match kind {
        'b' => value.to_str_radix(2),
        'o' => value.to_str_radix(8),
        'x' => value.to_str_radix(16),
        'X' => value.to_str_radix(16).to_uppercase(),
        _ => print::integer(&value)?,
    })
}

/// What `#` puts in front of an integer; nothing where it is not `alternate`.
pub(super) fn prefix(kind: char, alternate: bool) -> &'static str {
    match kind {
        'b' if alternate => "0b",
        'o' if alternate => "0o",
        'x' if alternate => "0x",
        'X' if alternate => "0X",
        _ => "",
    }
}

/// The character with this number.
pub(super) fn character(code: &BigInt) -> Result<String> {
    let c = code.to_u32().and_then(char::from_u32);
    let c = c.ok_or_else(|| Fault::new(Kind::Arithmetic, "%c: not a character"))?;
    Ok(c.to_string())
}

/// Whether a float is written with a minus.
pub(super) fn is_negative(float: f64) -> bool {
    float.is_sign_negative() && !float.is_nan()
}

/// A float's digits by `kind` (`e`, `f`, `g` and capitals).
pub(super) fn float(value: f64, kind: char, precision: usize, keep_zeros: bool) -> Result<String> {
    if precision > MAX_WIDTH {
        return Err(Fault::limit("the width of a field"));
    }
    let value = value.abs();
    let text = if value.is_nan() {
        "nan".to_owned()
    } else if value.is_infinite() {
        "inf".to_owned()
    } else {
        match kind.to_ascii_lowercase() {
            'e' => exponent(value, precision),
            'g' => general(value, precision, keep_zeros),
            _ => format!("{value:.precision$}"),
        }
    };
    Ok(match kind.is_uppercase() {
        true => text.to_uppercase(),
        false => text,
    })
}

fn exponent(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

fn general(value: f64, precision: usize, keep_zeros: bool) -> String {
    let precision = precision.max(1);
    let scientific = exponent(value, precision - 1);
    let power: i64 = scientific
        .split_once('e')
        .and_then(|(_, power)| power.parse().ok())
        .unwrap_or(0);
    let digits = i64::try_from(precision).unwrap_or(i64::MAX);
    if (-4..digits).contains(&power) {
        let decimals = usize::try_from(digits - 1 - power).unwrap_or(0);
        let fixed = format!("{value:.decimals$}");
        return match keep_zeros {
            true => fixed,
            false => trim_zeros(&fixed).to_owned(),
        };
    }
    match scientific.split_once('e') {
        Some((digits, power)) if !keep_zeros => format!("{}e{power}", trim_zeros(digits)),
        _ => scientific,
    }
}

fn trim_zeros(text: &str) -> &str {
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => text,
    }
}

/// Digits in groups of three (four for other bases), up to the first that is no digit.
pub(super) fn grouped(text: &str, separator: char, size: usize) -> String {
    let end = text
        .find(|c: char| !c.is_ascii_hexdigit())
        .unwrap_or(text.len());
    let (whole, rest) = text.split_at(end);
    let mut out = String::new();
    for (at, c) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % size == 0 {
            out.push(separator);
        }
        out.push(c);
    }
    out + rest
}
