//! What Python's objects have behind the dot, as far as the sandbox hands it out.

use std::rc::Rc;

use num_bigint::BigInt;

use super::call::Arguments;
use super::fault::{Fault, Result};
use super::interpreter::Interpreter;
use super::operators;
use super::text;
use super::value::{Dict, Function, Loop, Value, View, integral};

const DICT_METHODS: &[&str] = &["copy", "fromkeys", "get", "items", "keys", "values"];
const DICT_MUTATORS: &[&str] = &["clear", "pop", "popitem", "setdefault", "update"];
const LIST_METHODS: &[&str] = &["copy", "count", "index"];
const LIST_MUTATORS: &[&str] = &[
    "append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort",
];
const TUPLE_METHODS: &[&str] = &["count", "index"];
/// Attributes that every object of Python has.
const INTERNAL: &[&str] = &[
    "__class__",
    "__delattr__",
    "__dict__",
    "__dir__",
    "__doc__",
    "__eq__",
    "__format__",
    "__ge__",
    "__getattribute__",
    "__gt__",
    "__hash__",
    "__init__",
    "__init_subclass__",
    "__le__",
    "__lt__",
    "__ne__",
    "__new__",
    "__reduce__",
    "__reduce_ex__",
    "__repr__",
    "__setattr__",
    "__sizeof__",
    "__str__",
    "__subclasshook__",
    "__len__",
    "__iter__",
    "__contains__",
    "__getitem__",
    "__add__",
    "__mul__",
    "__globals__",
    "__code__",
    "__call__",
    "__func__",
    "__self__",
    "__module__",
];

/// `getattr(value, name)`; `None` where there is no such attribute.
pub(super) fn get(
    engine: &mut Interpreter<'_>,
    value: &Value,
    name: &str,
) -> Result<Option<Value>> {
    if matches!(value, Value::Undefined(_) | Value::Forbidden(_)) {
        return Err(value.misfit("a value"));
    }
    if INTERNAL.contains(&name) {
        return Ok(Some(Value::Forbidden(Rc::from(name))));
    }
    let method = |methods: &'static [&'static str]| {
        let name = methods.iter().find(|method| **method == name)?;
        Some(Value::Method(Rc::new((value.clone(), *name))))
    };
    let refused = |methods: &[&str]| {
        methods
            .contains(&name)
            .then(|| Value::Forbidden(Rc::from(name)))
    };
    Ok(match value {
        Value::Str(_) | Value::Markup(_) => method(text::METHODS).or_else(|| refused(&["encode"])),
        Value::Dict(_) => method(DICT_METHODS).or_else(|| refused(DICT_MUTATORS)),
        Value::List(_) => method(LIST_METHODS).or_else(|| refused(LIST_MUTATORS)),
        Value::Tuple(seq) => match (name, seq.items.as_slice()) {
            // The groups of `groupby` are pairs with names.
            ("grouper", [key, _]) => Some(key.clone()),
            ("list", [_, items @ Value::List(_)]) => Some(items.clone()),
            _ => method(TUPLE_METHODS),
        },
        Value::Range(range) => match name {
            "start" => Some(Value::int(range.start)),
            "stop" => Some(Value::Int(range.at(range.length))),
            "step" => Some(Value::int(range.step)),
            _ => method(TUPLE_METHODS),
        },
        Value::Int(_) | Value::Bool(_) => match name {
            "real" | "numerator" => value.as_index().map(Value::Int),
            "imag" => Some(Value::int(0)),
            "denominator" => Some(Value::int(1)),
            _ => method(&["bit_length", "conjugate"]),
        },
        Value::Float(_) => match name {
            "real" => Some(value.clone()),
            "imag" => Some(Value::Float(0.0)),
            _ => method(&["conjugate", "is_integer"]),
        },
        Value::Namespace(namespace) => namespace.attributes.borrow().get_str(name).cloned(),
        Value::Loop(state) => {
            loop_attribute(engine, state, name)?.or_else(|| method(&["changed", "cycle"]))
        }
        Value::Cycler(cycler) => match name {
            "current" => cycler.items.get(cycler.position.get()).cloned(),
            "pos" => Some(Value::int(cycler.position.get())),
            "items" => Some(Value::tuple(cycler.items.clone(), engine.budget)?),
            _ => method(&["next", "reset"]),
        },
        Value::Joiner(joiner) => match name {
            "sep" => Some(Value::Str(Rc::clone(&joiner.0))),
            "used" => Some(Value::Bool(joiner.1.get())),
            _ => None,
        },
        Value::Macro(id) => match (name, engine.signature(*id)) {
            ("name", Some((name, _))) => Some(Value::str(name)),
            ("arguments", Some((_, names))) => {
                let names = names.into_iter().map(Value::str).collect();
                Some(Value::tuple(names, engine.budget)?)
            }
            _ => None,
        },
        Value::Function(Function::Dict) if name == "fromkeys" => {
            Some(Value::Function(Function::FromKeys))
        }
        Value::Blocks => engine.has_block(name).then(|| Value::Block(Rc::from(name))),
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
    match (value, method) {
        (Value::Str(_) | Value::Markup(_), _) => text::call(engine, value, method, arguments),
        (Value::Dict(dict), "get") => {
            let given = arguments.positional(method, 1, 2)?;
            let found = match given.first() {
                Some(key) => dict.get(key, budget)?.cloned(),
                None => None,
            };
            Ok(found
                .or_else(|| given.get(1).cloned())
                .unwrap_or(Value::None))
        }
        (Value::Dict(_), "fromkeys") => super::globals::call(engine, Function::FromKeys, arguments),
        (Value::Dict(dict), _) => {
            arguments.positional(method, 0, 0)?;
            Ok(match method {
                "keys" => Value::View(View::Keys, Rc::clone(dict)),
                "values" => Value::View(View::Values, Rc::clone(dict)),
                "items" => Value::View(View::Items, Rc::clone(dict)),
                _ => {
                    let mut copy = Dict::default();
                    for (key, value) in dict.iter() {
                        copy.insert(key.clone(), value.clone(), budget)?;
                    }
                    Value::Dict(Rc::new(copy))
                }
            })
        }
        (Value::List(_), "copy") => {
            arguments.positional(method, 0, 0)?;
            Value::list(value.items(budget)?, budget)
        }
        (Value::List(_) | Value::Tuple(_) | Value::Range(_), "count" | "index") => {
            let given = arguments.positional(method, 1, 3)?;
            let wanted = given.first().cloned().unwrap_or(Value::None);
            let items = value.items(budget)?;
            let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
            let bound = |at: usize, default: i64| -> Result<i64> {
                let bound = given.get(at).map_or(Ok(default), Value::to_i64)?;
                Ok(if bound < 0 {
                    bound.saturating_add(length).max(0)
                } else {
                    bound
                })
            };
            let (start, stop) = (bound(1, 0)?, bound(2, length)?);
            let mut count = 0;
            for (at, item) in (0..).zip(&items) {
                let same = item.is_same(&wanted) || operators::equal(item, &wanted, budget)?;
                match method {
                    "count" if same => count += 1,
                    "index" if same && at >= start && at < stop => return Ok(Value::int(at)),
                    _ => {}
                }
            }
            match method {
                "count" => Ok(Value::int(count)),
                _ => Err(Fault::value_error("the value is not in the list")),
            }
        }
        (Value::Int(_) | Value::Bool(_), _) => {
            arguments.positional(method, 0, 0)?;
            let value = value.as_index().unwrap_or_default();
            Ok(Value::Int(match method {
                "bit_length" => BigInt::from(value.bits()),
                _ => value,
            }))
        }
        (Value::Float(float), _) => {
            arguments.positional(method, 0, 0)?;
            Ok(match method {
                "is_integer" => Value::Bool(integral(*float).is_some()),
                _ => value.clone(),
            })
        }
        (Value::Cycler(cycler), _) => {
            arguments.positional(method, 0, 0)?;
            let position = cycler.position.get();
            match method {
                "reset" => {
                    cycler.position.set(0);
                    Ok(Value::None)
                }
                _ => {
                    cycler
                        .position
                        .set((position + 1) % cycler.items.len().max(1));
                    Ok(cycler.items.get(position).cloned().unwrap_or(Value::None))
                }
            }
        }
        (Value::Loop(state), "cycle") => {
            let given = arguments.positional(method, 0, usize::MAX)?;
            if given.is_empty() {
                return Err(Fault::type_error("no items for cycling given"));
            }
            let at = state.index0.get() % given.len();
            Ok(given.get(at).cloned().unwrap_or(Value::None))
        }
        (Value::Loop(state), _) => {
            let given = arguments.positional(method, 0, usize::MAX)?.to_vec();
            let given = Value::tuple(given, budget)?;
            let before = state.changed.borrow().clone();
            let same = match before {
                Some(before) => operators::equal(&before, &given, budget)?,
                None => false,
            };
            state.changed.replace(Some(given));
            Ok(Value::Bool(!same))
        }
        _ => Err(Fault::type_error(format!(
            "'{}' object has no method '{method}'",
            value.type_name()
        ))),
    }
}
