//! The functions that Jinja2 and transformers give to every template.

use std::cell::Cell;
use std::rc::Rc;

use super::call::{Arguments, required};
use super::fault::{Fault, Kind, Result};
use super::interpreter::Interpreter;
use super::limits::Budget;
use super::value::{Cycler, Dict, Function, Namespace, Range, Value};
use super::{clock, print};

/// Longest `range`, as Jinja2's sandbox has it.
const MAX_RANGE: i64 = 100_000;

pub(super) fn call(
    engine: &mut Interpreter<'_>,
    function: Function,
    arguments: &Arguments,
) -> Result<Value> {
    let budget = engine.budget;
    match function {
        Function::Range => range(arguments),
        Function::Dict => Ok(Value::Dict(Rc::new(dict("dict", arguments, budget)?))),
        Function::FromKeys => {
            let given = arguments.positional("fromkeys", 1, 2)?;
            let keys = given
                .first()
                .map_or(Ok(Vec::new()), |keys| keys.items(budget))?;
            let value = given.get(1).unwrap_or(&Value::None);
            Value::dict(keys.into_iter().map(|key| Ok((key, value.clone()))), budget)
        }
        Function::Namespace => {
            let namespace = Rc::new(Namespace::default());
            engine.keep_namespace(&namespace);
            for (name, value) in dict("namespace", arguments, budget)?.iter() {
                namespace.set(name.clone(), value.clone(), budget)?;
            }
            Ok(Value::Namespace(namespace))
        }
        Function::Cycler => {
            let items = arguments.positional("cycler", 0, usize::MAX)?;
            if items.is_empty() {
                return Err(Fault::runtime("at least one item has to be provided"));
            }
            // Weighs the items.
            Value::tuple(items.to_vec(), budget)?;
            Ok(Value::Cycler(Rc::new(Cycler {
                items: items.to_vec(),
                position: Cell::new(0),
            })))
        }
        Function::Joiner => {
            let [separator] = arguments.bind("joiner", ["sep"])?;
            let separator = match separator {
                Some(separator) => print::text(&separator, budget)?,
                None => ", ".to_owned(),
            };
            Ok(Value::Joiner(Rc::new((
                Rc::from(separator),
                Cell::new(false),
            ))))
        }
        Function::Lipsum => Err(Fault::runtime(
            "lipsum() makes random text, which no prompt holds",
        )),
        Function::RaiseException => {
            let [message] = arguments.bind("raise_exception", ["message"])?;
            let message = print::text(&required(&message, "message")?, budget)?;
            Err(Fault::new(Kind::Raised, message))
        }
        Function::StrftimeNow => {
            let [format] = arguments.bind("strftime_now", ["format"])?;
            let format = required(&format, "format")?;
            let format = format.as_str().ok_or_else(|| format.mismatch("a string"))?;
            let text = clock::strftime(engine.now, format)?;
            budget.bytes(text.len())?;
            Ok(Value::str(&text))
        }
    }
}

fn range(arguments: &Arguments) -> Result<Value> {
    let given = arguments.positional("range", 1, 3)?;
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
