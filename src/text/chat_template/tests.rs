//! Jinja2's tests: what stands behind `is`.

use num_bigint::BigInt;
use num_traits::Zero;

use super::call::{Arguments, required};
use super::fault::{Fault, Kind, Result};
use super::interpreter::Interpreter;
use super::operators;
use super::print;
use super::text;
use super::value::{Value, integral};

const NAMES: &[&str] = &[
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// `value is name(*arguments)`.
pub(super) fn call(
    engine: &mut Interpreter<'_>,
    name: &str,
    value: &Value,
    arguments: &Arguments,
) -> Result<bool> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let budget = engine.budget;
    let other = |parameter: &str| -> Result<Value> {
        let [other] = arguments.bind(name, [parameter])?;
        required(&other, parameter)
    };
    let ordered = || operators::compare(value, &other("b")?, budget);
    match name {
        "==" | "eq" | "equalto" => return operators::equal(value, &other("b")?, budget),
        "!=" | "ne" => return Ok(!operators::equal(value, &other("b")?, budget)?),
        "<" | "lt" | "lessthan" => return Ok(ordered()? == Some(Less)),
        "<=" | "le" => return Ok(matches!(ordered()?, Some(Less | Equal))),
        ">" | "gt" | "greaterthan" => return Ok(ordered()? == Some(Greater)),
        ">=" | "ge" => return Ok(matches!(ordered()?, Some(Greater | Equal))),
        "in" => return operators::contains(&other("seq")?, value, budget),
        "sameas" => return Ok(value.is_same(&other("other")?)),
        "divisibleby" => return Ok(remainder(value, &other("num")?)?.is_zero()),
        _ => {}
    }
    if exists(name) {
        arguments.positional(name, 0, 0)?;
    }
    Ok(match name {
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_)),
        "string" => value.as_str().is_some(),
        "mapping" => matches!(value, Value::Dict(_)),
        "iterable" => value.is_iterable(),
        // What has a length and takes an index: `__getitem__`.
        "sequence" => matches!(
            value,
            Value::Undefined(_)
                | Value::Forbidden(_)
                | Value::Str(_)
                | Value::Markup(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Dict(_)
                | Value::Range(_)
        ),
        "callable" => value.is_callable(),
        "escaped" => matches!(value, Value::Markup(_)),
        "lower" => text::is_lower(&print::text(value, budget)?),
        "upper" => text::is_upper(&print::text(value, budget)?),
        "odd" => remainder(value, &Value::int(2))? == BigInt::from(1),
        "even" => remainder(value, &Value::int(2))?.is_zero(),
        "filter" | "test" if matches!(value, Value::List(_) | Value::Dict(_) | Value::View(..)) => {
            return Err(value.misfit("a value that can be hashed"));
        }
        "filter" => value.as_str().is_some_and(super::filters::exists),
        "test" => value.as_str().is_some_and(exists),
        _ => return Err(Fault::runtime(format!("No test named '{name}'."))),
    })
}

/// `value % divisor`, whole.
fn remainder(value: &Value, divisor: &Value) -> Result<BigInt> {
    let modulo = operators::binary(
        operators::Operator::Remainder,
        value,
        divisor,
        // Numbers are not charged for.
        &super::limits::Budget::new(0, 0),
    )?;
    match modulo {
        Value::Int(value) => Ok(value),
        // Any fraction is neither zero nor one.
        Value::Float(value) => Ok(integral(value).unwrap_or_else(|| BigInt::from(2))),
        _ => Err(Fault::new(Kind::Type, "not a number")),
    }
}
