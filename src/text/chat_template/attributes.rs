//! What Python's objects have behind the dot, as far as the sandbox hands it out.

use std::rc::Rc;

use num_bigint::BigInt;

use super::call::{Arguments, Functions, find};
use super::fault::{Fault, Result};
use super::interpreter::Interpreter;
use super::limits::Budget;
use super::operators;
use super::text;
use super::value::{Loop, Value, View, integral};

const DICT_METHODS: &Functions = &[
    ("copy items keys values", Some((0, 0))),
    ("get", Some((1, 2))),
    ("fromkeys", None),
];
const LIST_METHODS: &Functions = &[("copy", Some((0, 0))), ("count index", Some((1, 3)))];
const TUPLE_METHODS: &Functions = &[("count index", Some((1, 3)))];
const INTEGER_METHODS: &Functions = &[("bit_length conjugate", Some((0, 0)))];
const FLOAT_METHODS: &Functions = &[("conjugate is_integer", Some((0, 0)))];
const LOOP_METHODS: &Functions = &[("changed cycle", Some((0, usize::MAX)))];
const CYCLER_METHODS: &Functions = &[("next reset", Some((0, 0)))];
const DICT_MUTATORS: &str = "clear pop popitem setdefault update";
const LIST_MUTATORS: &str = "append clear extend insert pop remove reverse sort";
/// Attributes that every object of Python has, without their underscores.
const INTERNAL: &str = "class delattr dict dir doc eq format ge getattribute gt hash init init_subclass le lt ne \
                        new reduce reduce_ex repr setattr sizeof str subclasshook len iter contains getitem add \
                        mul globals code call func self module";

/// The methods of a value that the sandbox hands out.
fn methods(value: &Value) -> &'static Functions {
    match value {
        Value::Str(_) | Value::Markup(_) => text::METHODS,
        Value::Dict(_) => DICT_METHODS,
        Value::List(_) => LIST_METHODS,
        Value::Tuple(_) | Value::Range(_) => TUPLE_METHODS,
        Value::Int(_) | Value::Bool(_) => INTEGER_METHODS,
        Value::Float(_) => FLOAT_METHODS,
        Value::Loop(_) => LOOP_METHODS,
        Value::Cycler(_) => CYCLER_METHODS,
        _ => &[],
    }
}

/// Whether Python has an attribute of that name which the sandbox does not hand out.
fn is_forbidden(value: &Value, name: &str) -> bool {
    let has = |names: &str, name: &str| names.split(' ').any(|known| known == name);
    let inner = name
        .strip_prefix("__")
        .and_then(|name| name.strip_suffix("__"));
    inner.is_some_and(|inner| has(INTERNAL, inner))
        || match value {
            Value::Str(_) | Value::Markup(_) => name == "encode",
            Value::Dict(_) => has(DICT_MUTATORS, name),
            Value::List(_) => has(LIST_MUTATORS, name),
            _ => false,
        }
}

/// `getattr(value, name)`; `None` where there is no such attribute.
pub(super) fn get(
    engine: &mut Interpreter<'_>,
    value: &Value,
    name: &str,
) -> Result<Option<Value>> {
    if value.is_undefined() {
        return Err(value.mismatch("a value"));
    }
    if is_forbidden(value, name) {
        return Ok(Some(Value::Forbidden(Rc::from(name))));
    }
    if let Some(method) = find(methods(value), name) {
        return Ok(Some(Value::Method(Rc::new((value.clone(), method)))));
    }
    Ok(match (value, name) {
        (Value::Tuple(seq), _) => match (name, seq.items.as_slice()) {
            // The groups of `groupby` are pairs with names.
            ("grouper", [key, _]) => Some(key.clone()),
            ("list", [_, items @ Value::List(_)]) => Some(items.clone()),
            _ => None,
        },
        (Value::Range(range), "start") => Some(Value::int(range.start)),
        (Value::Range(range), "stop") => Some(Value::Int(range.at(range.length))),
        (Value::Range(range), "step") => Some(Value::int(range.step)),
        (Value::Int(_) | Value::Bool(_), "real" | "numerator") => value.as_index().map(Value::Int),
        (Value::Int(_) | Value::Bool(_), "imag") => Some(Value::int(0)),
        (Value::Int(_) | Value::Bool(_), "denominator") => Some(Value::int(1)),
        (Value::Float(_), "real") => Some(value.clone()),
        (Value::Float(_), "imag") => Some(Value::Float(0.0)),
        (Value::Namespace(namespace), _) => namespace.attributes.borrow().get_str(name).cloned(),
        (Value::Loop(state), _) => loop_attribute(engine, state, name)?,
        (Value::Cycler(cycler), "current") => cycler.items.get(cycler.position.get()).cloned(),
        (Value::Cycler(cycler), "pos") => Some(Value::int(cycler.position.get())),
        (Value::Cycler(cycler), "items") => {
            Some(Value::tuple(cycler.items.clone(), engine.budget)?)
        }
        (Value::Joiner(joiner), "sep") => Some(Value::Str(Rc::clone(&joiner.0))),
        (Value::Joiner(joiner), "used") => Some(Value::Bool(joiner.1.get())),
        (Value::Macro(id), _) => match (name, engine.signature(*id)) {
            ("name", Some((name, _))) => Some(Value::str(name)),
            ("arguments", Some((_, names))) => {
                let names = names.into_iter().map(Value::str).collect();
                Some(Value::tuple(names, engine.budget)?)
            }
            _ => None,
        },
        (Value::Function("dict"), "fromkeys") => Some(Value::Function("fromkeys")),
        (Value::Blocks, _) => engine.has_block(name).then(|| Value::Block(Rc::from(name))),
        _ => None,
    })
}

fn loop_attribute(
    engine: &mut Interpreter<'_>,
    state: &Rc<Loop>,
    name: &str,
) -> Result<Option<Value>> {
    let index0 = state.index0.get();
    let length = |engine: &mut Interpreter<'_>| -> Result<usize> {
        engine.look_ahead(state, true)?;
        Ok(index0 + 1 + state.ahead.borrow().len())
    };
    let undefined = |what: &str| Value::undefined(format!("there is no {what} item"));
    Ok(Some(match name {
        "index0" => Value::int(index0),
        "index" => Value::int(index0 + 1),
        "first" => Value::Bool(index0 == 0),
        "last" => Value::Bool(engine.look_ahead(state, false)?.is_none()),
        "length" => Value::int(length(engine)?),
        "revindex" => Value::int(length(engine)? - index0),
        "revindex0" => Value::int(length(engine)? - index0 - 1),
        "depth0" => Value::int(state.depth0),
        "depth" => Value::int(state.depth0 + 1),
        "previtem" => {
            let previous = state.previous.borrow().clone();
            previous.unwrap_or_else(|| undefined("previous"))
        }
        "nextitem" => engine
            .look_ahead(state, false)?
            .unwrap_or_else(|| undefined("next")),
        _ => return Ok(None),
    }))
}

/// `value.method(*arguments)`.
pub(super) fn call(
    engine: &mut Interpreter<'_>,
    value: &Value,
    method: &str,
    arguments: &Arguments,
) -> Result<Value> {
    let budget = engine.budget;
    if value.as_str().is_some() {
        return text::call(engine, value, method, arguments);
    }
    let given = arguments.counted(methods(value), method)?;
    Ok(match (value, method) {
        (Value::Dict(dict), "get") => {
            let found = match given.first() {
                Some(key) => dict.get(key, budget)?,
                None => None,
            };
            found.or(given.get(1)).cloned().unwrap_or(Value::None)
        }
        (Value::Dict(_), "fromkeys") => {
            return super::globals::call(engine, "fromkeys", arguments);
        }
        (Value::Dict(dict), "keys") => Value::View(View::Keys, Rc::clone(dict)),
        (Value::Dict(dict), "values") => Value::View(View::Values, Rc::clone(dict)),
        (Value::Dict(dict), "items") => Value::View(View::Items, Rc::clone(dict)),
        (Value::Dict(dict), _) => {
            let entries = dict.iter();
            let entries = entries.map(|(key, value)| Ok((key.clone(), value.clone())));
            Value::dict(entries, budget)?
        }
        (Value::List(_), "copy") => Value::list(value.items(budget)?, budget)?,
        (Value::List(_) | Value::Tuple(_) | Value::Range(_), _) => {
            return count(value, method, given, budget);
        }
        (Value::Int(_) | Value::Bool(_), _) => {
            let value = value.as_index().unwrap_or_default();
            Value::Int(match method {
                "bit_length" => BigInt::from(value.bits()),
                _ => value,
            })
        }
        (Value::Float(float), "is_integer") => Value::Bool(integral(*float).is_some()),
        (Value::Float(_), _) => value.clone(),
        (Value::Cycler(cycler), "reset") => {
            cycler.position.set(0);
            Value::None
        }
        (Value::Cycler(cycler), _) => {
            let position = cycler.position.get();
            let next = (position + 1) % cycler.items.len().max(1);
            cycler.position.set(next);
            cycler.items.get(position).cloned().unwrap_or(Value::None)
        }
        (Value::Loop(_), "cycle") if given.is_empty() => {
            return Err(Fault::type_error("no items for cycling given"));
        }
        (Value::Loop(state), "cycle") => {
            let at = state.index0.get() % given.len();
            given.get(at).cloned().unwrap_or(Value::None)
        }
        (Value::Loop(state), _) => {
            let given = Value::tuple(given.to_vec(), budget)?;
            let before = state.changed.borrow().clone();
            let same = before.map_or(Ok(false), |before| {
                operators::equal(&before, &given, budget)
            });
            state.changed.replace(Some(given));
            Value::Bool(!same?)
        }
        _ => {
            return Err(Fault::type_error(format!(
                "'{}' object has no method '{method}'",
                value.type_name()
            )));
        }
    })
}

/// `count` and `index` of a sequence.
fn count(value: &Value, method: &str, given: &[Value], budget: &Budget) -> Result<Value> {
    let wanted = given.first().cloned().unwrap_or(Value::None);
    let items = value.items(budget)?;
    let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let bound = |at: usize, default: i64| -> Result<i64> {
        Ok(match given.get(at).map_or(Ok(default), Value::to_i64)? {
            bound @ ..0 => bound.saturating_add(length).max(0),
            bound => bound,
        })
    };
    let bounds = bound(1, 0)?..bound(2, length)?;
    let mut count = 0;
    for (at, item) in (0..).zip(&items) {
        let same = item.is_same(&wanted) || operators::equal(item, &wanted, budget)?;
        match method {
            "count" if same => count += 1,
            "index" if same && bounds.contains(&at) => return Ok(Value::int(at)),
            _ => {}
        }
    }
    match method {
        "count" => Ok(Value::int(count)),
        _ => Err(Fault::value_error("the value is not in the list")),
    }
}
