//! Python's operators: arithmetic, comparison and membership.

use std::cmp::Ordering;
use std::rc::Rc;

use minijinja::machinery::ast::{BinOpKind, CompareOpKind};
use num_bigint::BigInt;
use num_integer::Integer;
use num_traits::{Signed, ToPrimitive, Zero};

use super::fault::{Fault, Kind, Result};
use super::format;
use super::limits::{Budget, ITEM_BYTES, MAX_INTEGER_BITS};
use super::markup::escape;
use super::print;
use super::value::{Value, View, integral};

/// `left operator right`.
pub(super) fn binary(
    operator: BinOpKind,
    left: &Value,
    right: &Value,
    budget: &Budget,
) -> Result<Value> {
    // A text formats any value, an undefined one as well.
    let formats = matches!(operator, BinOpKind::Rem) && left.as_str().is_some();
    let undefined = [left, right].into_iter().find(|side| side.is_undefined());
    if let Some(undefined) = undefined.filter(|_| !formats) {
        return Err(undefined.mismatch("a value"));
    }
    if let (Some(a), Some(b)) = (left.as_index(), right.as_index()) {
        return integers(operator, &a, &b);
    }
    if let (Some(a), Some(b)) = (left.as_float(), right.as_float()) {
        let exact = |value: &Value| {
            !matches!(value, Value::Int(_)) || value.as_float().is_some_and(f64::is_finite)
        };
        if !exact(left) || !exact(right) {
            return Err(overflow());
        }
        return floats(operator, a, b).map(Value::Float);
    }
    match (operator, left, right) {
        (BinOpKind::Add, Value::List(a), Value::List(b)) => {
            budget.product(ITEM_BYTES, a.items.len() + b.items.len())?;
            Value::list([a.items.as_slice(), &b.items].concat(), budget)
        }
        (BinOpKind::Add, Value::Tuple(a), Value::Tuple(b)) => {
            budget.product(ITEM_BYTES, a.items.len() + b.items.len())?;
            Value::tuple([a.items.as_slice(), &b.items].concat(), budget)
        }
        (BinOpKind::Add, Value::Str(_) | Value::Markup(_), Value::Str(_) | Value::Markup(_)) => {
            concatenate(&[left.clone(), right.clone()], budget)
        }
        (BinOpKind::Mul, _, _) => match (left.as_index(), right.as_index()) {
            (None, Some(times)) => repeat(left, &times, budget),
            (Some(times), None) => repeat(right, &times, budget),
            _ => Err(unsupported(operator, left, right)),
        },
        (BinOpKind::Rem, Value::Str(_) | Value::Markup(_), _) => {
            format::percent(left, right, budget)
        }
        _ => Err(unsupported(operator, left, right)),
    }
}

fn unsupported(operator: BinOpKind, left: &Value, right: &Value) -> Fault {
    Fault::type_error(format!(
        "unsupported operand types for {}: '{}' and '{}'",
        match operator {
            BinOpKind::Add => "+",
            BinOpKind::Sub => "-",
            BinOpKind::Mul => "*",
            BinOpKind::Div => "/",
            BinOpKind::FloorDiv => "//",
            BinOpKind::Rem => "%",
            _ => "**",
        },
        left.type_name(),
        right.type_name()
    ))
}

fn overflow() -> Fault {
    Fault::new(Kind::Arithmetic, "a number is too large for a float")
}

fn zero_division() -> Fault {
    Fault::new(Kind::Arithmetic, "division by zero")
}

fn integers(operator: BinOpKind, a: &BigInt, b: &BigInt) -> Result<Value> {
    if a.bits().max(b.bits()) > MAX_INTEGER_BITS {
        return Err(Fault::limit("the size of an integer"));
    }
    let divided = matches!(
        operator,
        BinOpKind::Div | BinOpKind::FloorDiv | BinOpKind::Rem
    );
    if divided && b.is_zero() {
        return Err(zero_division());
    }
    Ok(Value::Int(match operator {
        BinOpKind::Add => a + b,
        BinOpKind::Sub => a - b,
        BinOpKind::Mul => a * b,
        BinOpKind::FloorDiv => a.div_floor(b),
        BinOpKind::Rem => a.mod_floor(b),
        BinOpKind::Div => return quotient(a, b).map(Value::Float),
        BinOpKind::Pow if b.is_negative() => {
            let (a, b) = (a.to_f64(), b.to_f64());
            return floats(operator, a.ok_or_else(overflow)?, b.ok_or_else(overflow)?)
                .map(Value::Float);
        }
        _ => {
            // Powers of -1, 0 and 1 go by the parity of the exponent, however large it is.
            let exponent = match a.bits() {
                0 | 1 if !b.is_zero() => 2 - u64::from(b.is_odd()),
                _ => b.to_u64().unwrap_or(u64::MAX),
            };
            if a.bits().saturating_mul(exponent) > MAX_INTEGER_BITS {
                return Err(Fault::limit("the size of an integer"));
            }
            a.pow(exponent as u32)
        }
    }))
}

/// `a / b` rounded once, as Python divides integers.
fn quotient(a: &BigInt, b: &BigInt) -> Result<f64> {
    const EXACT: u64 = 53;
    if a.bits() <= EXACT && b.bits() <= EXACT {
        let (a, b) = (a.to_f64(), b.to_f64());
        return Ok(a.unwrap_or(0.0) / b.unwrap_or(1.0));
    }
    // 66 bits of the quotient, the last of which is set where a remainder is left.
    let shift = 66 + b.bits() as i64 - a.bits() as i64;
    let (a, b) = match shift {
        ..0 => (a.clone(), b << shift.unsigned_abs()),
        _ => (a << shift.unsigned_abs(), b.clone()),
    };
    let (whole, rest): (BigInt, BigInt) = a.abs().div_rem(&b.abs());
    let sticky: BigInt = (whole << 1u32) + u8::from(!rest.is_zero());
    let value = sticky.to_f64().ok_or_else(overflow)? * 2f64.powi(-(shift as i32) - 1);
    if !value.is_finite() {
        return Err(overflow());
    }
    Ok(if a.is_negative() == b.is_negative() {
        value
    } else {
        -value
    })
}

fn floats(operator: BinOpKind, a: f64, b: f64) -> Result<f64> {
    let divided = matches!(
        operator,
        BinOpKind::Div | BinOpKind::FloorDiv | BinOpKind::Rem
    );
    if divided && b == 0.0 {
        return Err(zero_division());
    }
    let remainder = || {
        let rest = a % b;
        match rest != 0.0 && (rest < 0.0) != (b < 0.0) {
            true => rest + b,
            false if rest == 0.0 => 0f64.copysign(b),
            false => rest,
        }
    };
    Ok(match operator {
        BinOpKind::Add => a + b,
        BinOpKind::Sub => a - b,
        BinOpKind::Mul => a * b,
        BinOpKind::Div => a / b,
        BinOpKind::Rem => remainder(),
        BinOpKind::FloorDiv => {
            let whole = (a - remainder()) / b;
            let floor = whole.floor();
            match whole {
                0.0 => 0f64.copysign(a / b),
                _ if whole - floor > 0.5 => floor + 1.0,
                _ => floor,
            }
        }
        _ => {
            if a == 0.0 && b < 0.0 {
                return Err(zero_division());
            }
            if a < 0.0 && a.is_finite() && b.is_finite() && b.fract() != 0.0 {
                return Err(Fault::value_error("a power is a complex number"));
            }
            let power = a.powf(b);
            if power.is_infinite() && a.is_finite() && b.is_finite() {
                return Err(overflow());
            }
            power
        }
    })
}

fn repeat(value: &Value, times: &BigInt, budget: &Budget) -> Result<Value> {
    // Python repeats a negative number of times by not repeating at all.
    let times = match times.is_negative() {
        true => 0,
        false => times.to_usize().unwrap_or(usize::MAX),
    };
    let items = |items: &[Value]| -> Result<Vec<Value>> {
        budget.product(ITEM_BYTES, items.len().saturating_mul(times))?;
        let length = items.len() * times;
        Ok(items.iter().cycle().take(length).cloned().collect())
    };
    match value {
        Value::Str(text) | Value::Markup(text) => {
            budget.product(text.len(), times)?;
            let times = if text.is_empty() { 0 } else { times };
            Ok(Value::text(text.repeat(times), value.is_safe()))
        }
        Value::List(seq) => Value::list(items(&seq.items)?, budget),
        Value::Tuple(seq) => Value::tuple(items(&seq.items)?, budget),
        _ => Err(value.mismatch("a value that can be repeated")),
    }
}

/// Texts put together; safe where one of them is, with the others escaped.
pub(super) fn concatenate(values: &[Value], budget: &Budget) -> Result<Value> {
    let safe = values.iter().any(Value::is_safe);
    let mut out = String::new();
    for value in values {
        match safe {
            true => out.push_str(&escape(value, budget)?),
            false => match value.as_str() {
                Some(text) => {
                    budget.bytes(text.len())?;
                    out.push_str(text);
                }
                None => out.push_str(&print::text(value, budget)?),
            },
        }
        if out.len() > budget.value_bytes() {
            return Err(Fault::limit("the size of a value"));
        }
    }
    budget.bytes(out.len())?;
    Ok(Value::text(out, safe))
}

/// `-value`, or `+value`.
pub(super) fn signed(value: &Value, negative: bool) -> Result<Value> {
    match (value.as_index(), value) {
        (Some(value), _) => Ok(Value::Int(if negative { -value } else { value })),
        (None, Value::Float(value)) => Ok(Value::Float(if negative { -value } else { *value })),
        _ => Err(value.mismatch("a number")),
    }
}

/// `left == right`.
pub(super) fn equal(left: &Value, right: &Value, budget: &Budget) -> Result<bool> {
    budget.steps(1)?;
    if let (Some(a), Some(b)) = (left.as_index(), right.as_index()) {
        return Ok(a == b);
    }
    if let (Some(_), Some(_)) = (left.as_float(), right.as_float()) {
        return Ok(compare_numbers(left, right) == Some(Ordering::Equal));
    }
    match (left, right) {
        (a, b) if a.is_undefined() && b.is_undefined() => Ok(true),
        (Value::Str(a) | Value::Markup(a), Value::Str(b) | Value::Markup(b)) => {
            budget.reading(a.len().min(b.len()))?;
            Ok(a == b)
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            if Rc::ptr_eq(a, b) {
                return Ok(true);
            }
            if a.items.len() != b.items.len() {
                return Ok(false);
            }
            for (a, b) in a.items.iter().zip(&b.items) {
                if !a.is_same(b) && !equal(a, b, budget)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Value::Dict(a), Value::Dict(b)) => {
            if Rc::ptr_eq(a, b) {
                return Ok(true);
            }
            if a.len() != b.len() {
                return Ok(false);
            }
            for (key, value) in a.iter() {
                match b.get(key, budget)? {
                    Some(other) if value.is_same(other) || equal(value, other, budget)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        (Value::Range(a), Value::Range(b)) => Ok(a.length == b.length
            && (a.length == 0 || a.start == b.start)
            && (a.length < 2 || a.step == b.step)),
        (Value::Block(a), Value::Block(b)) => Ok(a == b),
        (Value::View(a, x), Value::View(b, y)) if a == b && *a != View::Values => {
            if x.len() != y.len() {
                return Ok(false);
            }
            for item in left.items(budget)? {
                if !contains(right, &item, budget)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        _ => Ok(left.is_same(right)),
    }
}

/// The order of two numbers, exact for integers that no float holds; `None` for a NaN.
fn compare_numbers(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (Value::Float(_), _) => compare_numbers(right, left).map(Ordering::reverse),
        (_, Value::Float(b)) => {
            let a = left.as_index()?;
            let Some(whole) = integral(b.trunc()) else {
                return 0f64.partial_cmp(b);
            };
            let fraction = || 0f64.total_cmp(&(b.fract() + 0.0));
            Some(a.cmp(&whole).then_with(fraction))
        }
        _ => Some(left.as_index()?.cmp(&right.as_index()?)),
    }
}

/// The order of two values as `<` sees it; `None` where none of `<`, `==` and `>` holds.
pub(super) fn compare(left: &Value, right: &Value, budget: &Budget) -> Result<Option<Ordering>> {
    budget.steps(1)?;
    if left.as_float().is_some() && right.as_float().is_some() {
        return Ok(compare_numbers(left, right));
    }
    match (left, right) {
        (Value::Str(a) | Value::Markup(a), Value::Str(b) | Value::Markup(b)) => {
            budget.reading(a.len().min(b.len()))?;
            Ok(Some(a.cmp(b)))
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            for (a, b) in a.items.iter().zip(&b.items) {
                if !a.is_same(b) && !equal(a, b, budget)? {
                    return compare(a, b, budget);
                }
            }
            Ok(Some(a.items.len().cmp(&b.items.len())))
        }
        _ => {
            if let Some(undefined) = [left, right].into_iter().find(|side| side.is_undefined()) {
                return Err(undefined.mismatch("a value"));
            }
            Err(Fault::type_error(format!(
                "'{}' and '{}' have no order",
                left.type_name(),
                right.type_name()
            )))
        }
    }
}

/// `item in container`.
pub(super) fn contains(container: &Value, item: &Value, budget: &Budget) -> Result<bool> {
    match container {
        Value::Str(text) | Value::Markup(text) => match item.as_str() {
            Some(part) => {
                budget.reading(text.len())?;
                Ok(text.contains(part))
            }
            None => Err(item.mismatch("a string")),
        },
        Value::Dict(dict) | Value::View(View::Keys, dict) => Ok(dict.get(item, budget)?.is_some()),
        Value::Range(range) => match item.as_index() {
            Some(value) => {
                let offset = value - BigInt::from(range.start);
                let (steps, rest) = offset.div_mod_floor(&BigInt::from(range.step));
                Ok(rest.is_zero() && !steps.is_negative() && steps < BigInt::from(range.length))
            }
            None => Ok(matches!(item, Value::Float(_)) && {
                let items = container.items(budget)?;
                any_equal(&items, item, budget)?
            }),
        },
        Value::List(seq) | Value::Tuple(seq) => any_equal(&seq.items, item, budget),
        _ => any_equal(&container.items(budget)?, item, budget),
    }
}

fn any_equal(items: &[Value], item: &Value, budget: &Budget) -> Result<bool> {
    for other in items {
        if other.is_same(item) || equal(other, item, budget)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `left operator right` of a comparison.
pub(super) fn holds(
    operator: CompareOpKind,
    left: &Value,
    right: &Value,
    budget: &Budget,
) -> Result<bool> {
    use Ordering::{Equal, Greater, Less};
    let ordered = || compare(left, right, budget);
    Ok(match operator {
        CompareOpKind::Eq => equal(left, right, budget)?,
        CompareOpKind::Ne => !equal(left, right, budget)?,
        CompareOpKind::In => contains(right, left, budget)?,
        CompareOpKind::NotIn => !contains(right, left, budget)?,
        CompareOpKind::Lt => ordered()? == Some(Less),
        CompareOpKind::Lte => matches!(ordered()?, Some(Less | Equal)),
        CompareOpKind::Gt => ordered()? == Some(Greater),
        CompareOpKind::Gte => matches!(ordered()?, Some(Greater | Equal)),
    })
}
