//! Jinja2's filters: `value|name`.

mod number;
mod sequence;
mod text;

use std::rc::Rc;

use super::call::{Arguments, FILTERS, find, flag, given, required, unexpected};
use super::fault::{Fault, Result};
use super::interpreter::Interpreter;
use super::json::{self, JsonStyle};
use super::markup;
use super::text::string;
use super::value::{Value, View};
use super::{attributes, print, tests};
use sequence::at_path;

/// `value|name(*arguments)`.
pub(super) fn call(
    engine: &mut Interpreter<'_>,
    name: &str,
    value: &Value,
    arguments: &Arguments,
) -> Result<Value> {
    let budget = engine.budget;
    arguments.counted(FILTERS, name)?;
    match name {
        "default" | "d" => {
            let [default, boolean] = arguments.bind(name, ["default_value", "boolean"])?;
            let replaced = value.is_undefined() || (flag(&boolean, false)? && !value.truth()?);
            Ok(match replaced {
                true => default.unwrap_or_else(|| Value::str("")),
                false => value.clone(),
            })
        }
        "length" | "count" => Ok(Value::int(match value {
            Value::Loop(state) => {
                engine.look_ahead(state, true)?;
                state.index0.get() + 1 + state.ahead.borrow().len()
            }
            _ => value.length()?,
        })),
        "attr" => {
            let [attribute] = arguments.bind(name, ["name"])?;
            let attribute = print::text(&required(&attribute, "name")?, budget)?;
            let found = attributes::get(engine, value, &attribute)?;
            Ok(found.unwrap_or_else(|| Value::undefined(&attribute)))
        }
        "items" => match value {
            Value::Dict(dict) => {
                let view = Value::View(View::Items, Rc::clone(dict));
                Value::generator(view.items(budget)?, None, budget)
            }
            _ => {
                let fault = || Fault::type_error("Can only get item pairs from a mapping.");
                let fault = (!value.is_undefined()).then(fault);
                Value::generator(Vec::new(), fault, budget)
            }
        },
        "tojson" => to_json(value, arguments, engine),
        "safe" => Ok(Value::text(print::text(value, budget)?, true)),
        "escape" | "e" => Ok(Value::text(markup::escape(value, budget)?, true)),
        "forceescape" => {
            let text = print::text(value, budget)?;
            Ok(Value::text(markup::escape_text(&text, budget)?, true))
        }
        "string" => text::soft(value, engine),
        "abs" | "filesizeformat" | "float" | "int" | "round" => {
            number::call(name, value, arguments)
        }
        "map" => map(engine, value, arguments),
        "select" | "reject" | "selectattr" | "rejectattr" => select(engine, name, value, arguments),
        "batch" | "dictsort" | "first" | "groupby" | "join" | "last" | "list" | "max" | "min"
        | "reverse" | "slice" | "sort" | "sum" | "unique" => {
            sequence::call(engine, name, value, arguments)
        }
        "random" | "urlize" => Err(Fault::runtime(format!(
            "the filter '{name}' has no place in a prompt"
        ))),
        _ if find(FILTERS, name).is_some() => text::call(engine, name, value, arguments),
        _ => Err(Fault::runtime(format!("No filter named '{name}'."))),
    }
}

fn to_json(value: &Value, arguments: &Arguments, engine: &Interpreter<'_>) -> Result<Value> {
    let budget = engine.budget;
    let [ensure_ascii, indent, separators, sort_keys] = arguments.bind(
        "tojson",
        ["ensure_ascii", "indent", "separators", "sort_keys"],
    )?;
    let indent = given(indent).map(|indent| text::margin(&indent, budget));
    let separators = match given(separators) {
        None => None,
        Some(pair) => match pair.items(budget)?.as_slice() {
            [item, key] => Some((string(item)?.to_owned(), string(key)?.to_owned())),
            _ => return Err(Fault::value_error("separators must be two strings")),
        },
    };
    let style = JsonStyle {
        ensure_ascii: flag(&ensure_ascii, false)?,
        sort_keys: flag(&sort_keys, false)?,
        indent: indent.transpose()?,
        separators,
    };
    Ok(Value::str(&json::json(value, &style, budget)?))
}

/// Collects the items of a generator; an exception that ends it is raised when they are used up.
fn generate(
    engine: &mut Interpreter<'_>,
    value: &Value,
    mut make: impl FnMut(&mut Interpreter<'_>, Value) -> Result<Option<Value>>,
) -> Result<Value> {
    let mut made = Vec::new();
    let mut end = None;
    // Jinja2 evaluates nothing for an empty sequence, not even the arguments.
    if value.truth()? {
        match value.items(engine.budget) {
            Ok(items) => {
                for item in items {
                    match make(engine, item) {
                        Ok(Some(value)) => made.push(value),
                        Ok(None) => {}
                        Err(fault) => {
                            end = Some(fault);
                            break;
                        }
                    }
                }
            }
            Err(fault) => end = Some(fault),
        }
    }
    Value::generator(made, end, engine.budget)
}

fn map(engine: &mut Interpreter<'_>, value: &Value, arguments: &Arguments) -> Result<Value> {
    if arguments.positional.is_empty()
        && let Some(path) = arguments.keyword("attribute")
    {
        let other = |name: &str| name != "attribute" && name != "default";
        if let Some((name, _)) = arguments.keywords.iter().find(|(name, _)| other(name)) {
            return Err(unexpected("map", name));
        }
        let (path, default) = (path.clone(), arguments.keyword("default").cloned());
        let default = given(default);
        return generate(engine, value, |engine, item| {
            at_path(engine, &item, &path, default.as_ref()).map(Some)
        });
    }
    let (filter, rest) = named(arguments);
    generate(engine, value, |engine, item| {
        let filter = filter.as_ref().map(|name| print::text(name, engine.budget));
        let filter = filter.ok_or_else(|| Fault::runtime("map requires a filter argument"))??;
        call(engine, &filter, &item, &rest).map(Some)
    })
}

/// The first argument, and the others.
fn named(arguments: &Arguments) -> (Option<Value>, Arguments) {
    let mut rest = arguments.clone();
    let name = match rest.positional.is_empty() {
        true => None,
        false => Some(rest.positional.remove(0)),
    };
    (name, rest)
}

fn select(
    engine: &mut Interpreter<'_>,
    name: &str,
    value: &Value,
    arguments: &Arguments,
) -> Result<Value> {
    let by_attribute = name.ends_with("attr");
    let wanted = name.starts_with("select");
    let (path, arguments) = match by_attribute {
        true => named(arguments),
        false => (Some(Value::None), arguments.clone()),
    };
    let (test, rest) = named(&arguments);
    generate(engine, value, |engine, item| {
        let path = path.as_ref();
        let path = path.ok_or_else(|| Fault::runtime("Missing parameter for attribute name"))?;
        let tested = at_path(engine, &item, path, None)?;
        let holds = match &test {
            None => tested.truth()?,
            Some(test) => {
                let test = print::text(test, engine.budget)?;
                tests::call(engine, &test, &tested, &rest)?
            }
        };
        Ok((holds == wanted).then_some(item))
    })
}
