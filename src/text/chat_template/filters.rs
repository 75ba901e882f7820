//! Jinja2's filters: what stands behind `|`.

mod number;
mod sequence;
mod text;

use std::rc::Rc;

use super::call::{Arguments, flag, required};
use super::fault::{Fault, Result};
use super::interpreter::Interpreter;
use super::json::{self, JsonStyle};
use super::markup;
use super::sorting::sorted;
use super::value::{Value, View};
use super::{attributes, operators, print};

const NAMES: &[&str] = &[
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
];

pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// `value|name(*arguments)`.
pub(super) fn call(
    engine: &mut Interpreter<'_>,
    name: &str,
    value: &Value,
    arguments: &Arguments,
) -> Result<Value> {
    let budget = engine.budget;
    let none = || arguments.positional(name, 0, 0).map(|_| ());
    match name {
        "default" | "d" => {
            let [default, boolean] = arguments.bind(name, ["default_value", "boolean"])?;
            let replaced = value.is_undefined() || (flag(&boolean, false)? && !value.truth()?);
            Ok(match replaced {
                true => default.unwrap_or_else(|| Value::str("")),
                false => value.clone(),
            })
        }
        "length" | "count" => {
            none()?;
            let length = match value {
                Value::Loop(state) => {
                    engine.look_ahead(state, true)?;
                    state.index0.get() + 1 + state.ahead.borrow().len()
                }
                _ => value.length()?,
            };
            Ok(Value::int(length))
        }
        "attr" => {
            let [attribute] = arguments.bind(name, ["name"])?;
            let attribute = print::text(&required(&attribute, "name")?, budget)?;
            let found = attributes::get(engine, value, &attribute)?;
            Ok(found.unwrap_or_else(|| Value::undefined(&attribute)))
        }
        "tojson" => to_json(value, arguments, engine),
        "items" => {
            none()?;
            match value {
                Value::Dict(dict) => {
                    let view = Value::View(View::Items, Rc::clone(dict));
                    Value::generator(view.items(budget)?, None, budget)
                }
                _ if value.is_undefined() => Value::generator(Vec::new(), None, budget),
                _ => {
                    let fault = Fault::type_error("Can only get item pairs from a mapping.");
                    Value::generator(Vec::new(), Some(fault), budget)
                }
            }
        }
        "safe" => {
            none()?;
            Ok(Value::Markup(Rc::from(print::text(value, budget)?)))
        }
        "escape" | "e" => {
            none()?;
            Ok(Value::Markup(Rc::from(markup::escape(value, budget)?)))
        }
        "forceescape" => {
            none()?;
            let text = print::text(value, budget)?;
            Ok(Value::Markup(Rc::from(markup::escape_text(&text, budget)?)))
        }
        "string" => {
            none()?;
            soft(value, engine)
        }
        "abs" | "filesizeformat" | "float" | "int" | "round" => {
            number::call(name, value, arguments)
        }
        "capitalize" | "center" | "format" | "indent" | "lower" | "pprint" | "replace"
        | "striptags" | "title" | "trim" | "truncate" | "upper" | "urlencode" | "wordcount"
        | "wordwrap" | "xmlattr" => text::call(engine, name, value, arguments),
        "batch" | "dictsort" | "first" | "groupby" | "join" | "last" | "list" | "map" | "max"
        | "min" | "reject" | "rejectattr" | "reverse" | "select" | "selectattr" | "slice"
        | "sort" | "sum" | "unique" => sequence::call(engine, name, value, arguments),
        "random" | "urlize" => Err(Fault::runtime(format!(
            "the filter '{name}' has no place in a prompt"
        ))),
        _ => Err(Fault::runtime(format!("No filter named '{name}'."))),
    }
}

/// `soft_str(value)`: the text of a value, safe where the value is a safe text.
fn soft(value: &Value, engine: &Interpreter<'_>) -> Result<Value> {
    match value {
        Value::Str(_) | Value::Markup(_) => Ok(value.clone()),
        _ => Ok(Value::str(&print::text(value, engine.budget)?)),
    }
}

fn to_json(value: &Value, arguments: &Arguments, engine: &Interpreter<'_>) -> Result<Value> {
    let budget = engine.budget;
    let [ensure_ascii, indent, separators, sort_keys] = arguments.bind(
        "tojson",
        ["ensure_ascii", "indent", "separators", "sort_keys"],
    )?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(text) | Value::Markup(text)) => Some(text.to_string()),
        Some(width) => {
            let width = usize::try_from(width.to_i64()?).unwrap_or(0);
            budget.bytes(width)?;
            Some(" ".repeat(width))
        }
    };
    let separators = match separators {
        None | Some(Value::None) => None,
        Some(pair) => {
            let pair = pair.items(budget)?;
            match pair.as_slice() {
                [item, key] => Some((
                    super::text::string(item)?.to_owned(),
                    super::text::string(key)?.to_owned(),
                )),
                _ => return Err(Fault::value_error("separators must be two strings")),
            }
        }
    };
    let style = JsonStyle {
        ensure_ascii: flag(&ensure_ascii, false)?,
        sort_keys: flag(&sort_keys, false)?,
        indent,
        separators,
    };
    Ok(Value::str(&json::json(value, &style, budget)?))
}

/// The value at a path such as `function.name` or `0.text`, as `map(attribute=..)` takes it.
fn at_path(
    engine: &mut Interpreter<'_>,
    value: &Value,
    path: &Value,
    default: Option<&Value>,
) -> Result<Value> {
    let parts: Vec<Value> = match path {
        Value::None => Vec::new(),
        Value::Str(path) | Value::Markup(path) => path
            .split('.')
            .map(|part| match part.parse::<u64>() {
                Ok(index) if part.bytes().all(|b| b.is_ascii_digit()) => Value::int(index),
                _ => Value::str(part),
            })
            .collect(),
        index => vec![index.clone()],
    };
    let mut value = value.clone();
    for part in &parts {
        value = engine.item(&value, part)?;
        if let (true, Some(default)) = (value.is_undefined(), default) {
            value = default.clone();
        }
    }
    Ok(value)
}

/// Text in lower case, unless case matters; anything else as it is.
fn fold_case(value: Value, case_sensitive: bool) -> Value {
    match (&value, case_sensitive) {
        (Value::Str(text) | Value::Markup(text), false) => Value::str(&text.to_lowercase()),
        _ => value,
    }
}

/// Sorts stably by keys, which must be comparable.
fn sort_by_keys(
    keyed: Vec<(Value, Value)>,
    reverse: bool,
    engine: &Interpreter<'_>,
) -> Result<Vec<(Value, Value)>> {
    use std::cmp::Ordering::{Greater, Less};
    // Equal ones keep their order in reverse as well.
    let before = if reverse { Greater } else { Less };
    sorted(keyed, &mut |a: &(Value, Value), b: &(Value, Value)| {
        Ok(operators::compare(&a.0, &b.0, engine.budget)? == Some(before))
    })
}
