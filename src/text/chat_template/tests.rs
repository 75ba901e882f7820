//! Jinja2's tests: `value is name`.

use minijinja::machinery::ast::{BinOpKind, CompareOpKind};
use num_bigint::BigInt;
use num_traits::Zero;

use super::call::{Arguments, FILTERS, Functions, find, required};
use super::fault::{Fault, Kind, Result};
use super::interpreter::Interpreter;
use super::operators;
use super::print;
use super::text;
use super::value::{Value, integral};

/// The tests there are. Those with an argument take it by name, too.
const TESTS: &Functions = &[
    (
        "boolean callable defined escaped even false filter",
        Some((0, 0)),
    ),
    (
        "float integer iterable lower mapping none number odd",
        Some((0, 0)),
    ),
    ("sequence string test true undefined upper", Some((0, 0))),
    ("!= < <= == > >= eq equalto ge greaterthan gt", None),
    ("divisibleby in le lessthan lt ne sameas", None),
];

/// `value is name(*arguments)`.
pub(super) fn call(
    engine: &mut Interpreter<'_>,
    name: &str,
    value: &Value,
    arguments: &Arguments,
) -> Result<bool> {
    let budget = engine.budget;
    let other = |parameter: &str| -> Result<Value> {
        let [other] = arguments.bind(name, [parameter])?;
        required(&other, parameter)
    };
    arguments.counted(TESTS, name)?;
    let compare = |operator| operators::holds(operator, value, &other("b")?, budget);
    Ok(match name {
        "==" | "eq" | "equalto" => compare(CompareOpKind::Eq)?,
        "!=" | "ne" => compare(CompareOpKind::Ne)?,
        "<" | "lt" | "lessthan" => compare(CompareOpKind::Lt)?,
        "<=" | "le" => compare(CompareOpKind::Lte)?,
        ">" | "gt" | "greaterthan" => compare(CompareOpKind::Gt)?,
        ">=" | "ge" => compare(CompareOpKind::Gte)?,
        "in" => operators::contains(&other("seq")?, value, budget)?,
        "sameas" => value.is_same(&other("other")?),
        "divisibleby" => remainder(value, &other("num")?)?.is_zero(),
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
        "sequence" => {
            value.is_undefined() || value.is_sequence() || matches!(value, Value::Dict(_))
        }
        "callable" => value.is_callable(),
        "escaped" => matches!(value, Value::Markup(_)),
        "lower" => text::is_lower(&print::text(value, budget)?),
        "upper" => text::is_upper(&print::text(value, budget)?),
        "odd" => remainder(value, &Value::int(2))? == BigInt::from(1),
        "even" => remainder(value, &Value::int(2))?.is_zero(),
        "filter" | "test" if matches!(value, Value::List(_) | Value::Dict(_) | Value::View(..)) => {
            return Err(value.mismatch("a value that can be hashed"));
        }
        "filter" => value
            .as_str()
            .is_some_and(|name| find(FILTERS, name).is_some()),
        "test" => value
            .as_str()
            .is_some_and(|name| find(TESTS, name).is_some()),
        _ => return Err(Fault::runtime(format!("No test named '{name}'."))),
    })
}

/// `value % divisor`, whole.
fn remainder(value: &Value, divisor: &Value) -> Result<BigInt> {
    let modulo = operators::binary(
        BinOpKind::Rem,
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
