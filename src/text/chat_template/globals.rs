//! The functions that Jinja2 and transformers give to every template.

use std::cell::Cell;
use std::rc::Rc;

use super::call::{Arguments, FUNCTIONS, required};
use super::fault::{Fault, Kind, Result};
use super::interpreter::Interpreter;
use super::limits::Budget;
use super::value::{Cycler, Dict, Namespace, Range, Value};
use super::{clock, print};

/// Longest `range`, as Jinja2's sandbox has it.
const MAX_RANGE: i64 = 100_000;

pub(super) fn call(
    engine: &mut Interpreter<'_>,
    function: &str,
    arguments: &Arguments,
) -> Result<Value> {
    let budget = engine.budget;
    let given = arguments.counted(FUNCTIONS, function)?;
    match function {
        "range" => range(given),
        "dict" => Ok(Value::Dict(Rc::new(dict("dict", arguments, budget)?))),
        "fromkeys" => {
            let given = arguments.positional("fromkeys", 1, 2)?;
            let keys = given.first().unwrap_or(&Value::None).items(budget)?;
            let value = given.get(1).unwrap_or(&Value::None);
            Value::dict(keys.into_iter().map(|key| Ok((key, value.clone()))), budget)
        }
        "namespace" => {
            let namespace = Rc::new(Namespace::default());
            engine.keep_namespace(&namespace);
            for (name, value) in dict("namespace", arguments, budget)?.iter() {
                namespace.set(name.clone(), value.clone(), budget)?;
            }
            Ok(Value::Namespace(namespace))
        }
        "cycler" => {
            if given.is_empty() {
                return Err(Fault::runtime("at least one item has to be provided"));
            }
            // Weighs the items.
            Value::tuple(given.to_vec(), budget)?;
            Ok(Value::Cycler(Rc::new(Cycler {
                items: given.to_vec(),
                position: Cell::new(0),
            })))
        }
        "joiner" => {
            let [separator] = arguments.bind("joiner", ["sep"])?;
            let separator = separator.unwrap_or_else(|| Value::str(", "));
            let separator = Rc::from(print::text(&separator, budget)?);
            Ok(Value::Joiner(Rc::new((separator, Cell::new(false)))))
        }
        "raise_exception" => {
            let [message] = arguments.bind("raise_exception", ["message"])?;
            let message = print::text(&required(&message, "message")?, budget)?;
            Err(Fault::new(Kind::Raised, message))
        }
        "strftime_now" => {
            let [format] = arguments.bind("strftime_now", ["format"])?;
            let format = required(&format, "format")?;
            let format = format.as_str().ok_or_else(|| format.mismatch("a string"))?;
            let text = clock::strftime(engine.now, format)?;
            budget.bytes(text.len())?;
            Ok(Value::str(&text))
        }
        _ => Err(Fault::runtime(format!(
            "{function}() makes random text, which no prompt holds"
        ))),
    }
}

fn range(given: &[Value]) -> Result<Value> {
    let given = given
        .iter()
        .map(Value::to_i64)
        .collect::<Result<Vec<_>>>()?;
    let (start, stop, step) = match given.as_slice() {
        [start, stop, step] => (*start, *stop, *step),
        [start, stop] => (*start, *stop, 1),
        given => (0, given.first().copied().unwrap_or(0), 1),
    };
    if step == 0 {
        return Err(Fault::value_error("range() arg 3 must not be zero"));
    }
    let (span, size) = (i128::from(stop) - i128::from(start), i128::from(step));
    let (span, size) = (span * size.signum(), size.abs());
    let length = (span + size - 1).div_euclid(size).max(0);
    if length > i128::from(MAX_RANGE) {
        let message = format!("a range is longer than {MAX_RANGE}");
        return Err(Fault::new(Kind::Arithmetic, message));
    }
    Ok(Value::Range(Range {
        start,
        step,
        length: usize::try_from(length).unwrap_or(0),
    }))
}

/// `dict(mapping_or_pairs, **keywords)`.
fn dict(function: &str, arguments: &Arguments, budget: &Budget) -> Result<Dict> {
    if arguments.positional.len() > 1 {
        return Err(Fault::type_error(format!(
            "{function}() takes one mapping at most"
        )));
    }
    let mut made = Dict::default();
    match arguments.positional.first() {
        None => {}
        Some(Value::Dict(dict)) => {
            for (key, value) in dict.iter() {
                made.insert(key.clone(), value.clone(), budget)?;
            }
        }
        Some(undefined) if undefined.is_undefined() => return Err(undefined.mismatch("a mapping")),
        Some(pairs) => {
            for pair in pairs.items(budget)? {
                let pair = pair.items(budget)?;
                let [key, value] = pair.as_slice() else {
                    return Err(Fault::value_error(
                        "an entry of a dictionary must be a pair",
                    ));
                };
                made.insert(key.clone(), value.clone(), budget)?;
            }
        }
    }
    for (name, value) in &arguments.keywords {
        made.insert(Value::str(name), value.clone(), budget)?;
    }
    Ok(made)
}
