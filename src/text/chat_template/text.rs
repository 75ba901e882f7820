//! The methods of Python's `str`.

mod case;
mod parts;
mod search;

pub(super) use case::{is_lower, is_upper};
pub(super) use parts::{replace, split_lines, strip};

use case::{capitalize, casefold, is_title, swap_case, title};
use parts::{expand_tabs, justify, split_words, split_words_back};
use search::{find, window};

use std::rc::Rc;

use super::call::{Arguments, flag, whole};
use super::characters::{is_alpha, is_decimal, is_digit, is_numeric, is_printable, is_space};
use super::fault::{Fault, Result};
use super::format;
use super::interpreter::Interpreter;
use super::limits::{Budget, ITEM_BYTES};
use super::operators;
use super::value::{Dict, Value};

/// The methods there are. `encode` is not among them: it makes bytes, which no prompt holds.
pub(super) const METHODS: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];

/// `value.method(*arguments)` of a string.
pub(super) fn call(
    engine: &mut Interpreter<'_>,
    value: &Value,
    method: &str,
    arguments: &Arguments,
) -> Result<Value> {
    let text = value.as_str().unwrap_or_default();
    let budget = engine.budget;
    budget.reading(text.len())?;
    let wrap = |made: &str| -> Result<Value> {
        budget.bytes(made.len())?;
        Ok(match value {
            Value::Markup(_) => Value::Markup(Rc::from(made)),
            _ => Value::str(made),
        })
    };
    let parts = |parts: Vec<&str>| -> Result<Value> {
        budget.product(ITEM_BYTES, parts.len())?;
        Value::list(parts.into_iter().map(wrap).collect::<Result<_>>()?, budget)
    };
    let none = || arguments.positional(method, 0, 0).map(|_| ());
    match method {
        "capitalize" => {
            none()?;
            wrap(&capitalize(text))
        }
        "casefold" => {
            none()?;
            wrap(&casefold(text))
        }
        "lower" => {
            none()?;
            wrap(&text.to_lowercase())
        }
        "upper" => {
            none()?;
            wrap(&text.to_uppercase())
        }
        "swapcase" => {
            none()?;
            wrap(&swap_case(text))
        }
        "title" => {
            none()?;
            wrap(&title(text))
        }
        "isalnum" => predicate(none(), text, |c| is_alpha(c) || is_numeric(c)),
        "isalpha" => predicate(none(), text, is_alpha),
        "isdecimal" => predicate(none(), text, is_decimal),
        "isdigit" => predicate(none(), text, is_digit),
        "isnumeric" => predicate(none(), text, is_numeric),
        "isspace" => predicate(none(), text, is_space),
        "isascii" => none().map(|()| Value::Bool(text.is_ascii())),
        "isprintable" => none().map(|()| Value::Bool(text.chars().all(is_printable))),
        "islower" => none().map(|()| Value::Bool(is_lower(text))),
        "isupper" => none().map(|()| Value::Bool(is_upper(text))),
        "istitle" => none().map(|()| Value::Bool(is_title(text))),
        "isidentifier" => none().map(|()| {
            let mut chars = text.chars();
            let first = chars.next().is_some_and(|c| is_alpha(c) || c == '_');
            Value::Bool(first && chars.all(|c| is_alpha(c) || is_decimal(c) || c == '_'))
        }),
        "center" | "ljust" | "rjust" => {
            let given = arguments.positional(method, 1, 2)?;
            let width = given.first().map_or(Ok(0), Value::to_i64)?;
            let fill = match given.get(1) {
                None => ' ',
                Some(fill) => one_char(fill)?,
            };
            wrap(&justify(text, method, width, fill, budget)?)
        }
        "zfill" => {
            let given = arguments.positional(method, 1, 1)?;
            let width = given.first().map_or(Ok(0), Value::to_i64)?;
            let (sign, digits) = match text.starts_with(['+', '-']) {
                true => text.split_at(1),
                false => ("", text),
            };
            let width = width.saturating_sub(sign.len() as i64);
            wrap(&(sign.to_owned() + &justify(digits, "rjust", width, '0', budget)?))
        }
        "expandtabs" => {
            let [size] = arguments.bind(method, ["tabsize"])?;
            wrap(&expand_tabs(text, whole(&size, 8)?, budget)?)
        }
        "strip" | "lstrip" | "rstrip" => {
            let given = arguments.positional(method, 0, 1)?;
            let left = method != "rstrip";
            let right = method != "lstrip";
            let stripped = match given.first() {
                None | Some(Value::None) => strip(text, left, right, is_space),
                Some(chars) => {
                    let chars = string(chars)?;
                    budget.reading(text.len().saturating_mul(chars.len()) / 64)?;
                    strip(text, left, right, |c| chars.contains(c))
                }
            };
            wrap(stripped)
        }
        "count" | "find" | "index" | "rfind" | "rindex" => {
            let given = arguments.positional(method, 1, 3)?;
            let part = given.first().map_or(Ok(""), string)?;
            find(text, method, part, given.get(1), given.get(2), budget)
        }
        "startswith" | "endswith" => {
            let given = arguments.positional(method, 1, 3)?;
            let window = window(value, given.get(1), given.get(2), budget)?;
            let Some(window) = window
                .as_ref()
                .map(|value| value.as_str().unwrap_or_default())
            else {
                return Ok(Value::Bool(false));
            };
            let fits = |part: &Value| -> Result<bool> {
                let part = string(part)?;
                Ok(match method {
                    "startswith" => window.starts_with(part),
                    _ => window.ends_with(part),
                })
            };
            match given.first() {
                Some(Value::Tuple(parts)) => {
                    for part in &parts.items {
                        if fits(part)? {
                            return Ok(Value::Bool(true));
                        }
                    }
                    Ok(Value::Bool(false))
                }
                Some(part) => fits(part).map(Value::Bool),
                None => Ok(Value::Bool(false)),
            }
        }
        "removeprefix" | "removesuffix" => {
            let given = arguments.positional(method, 1, 1)?;
            let part = given.first().map_or(Ok(""), string)?;
            wrap(match method {
                "removeprefix" => text.strip_prefix(part).unwrap_or(text),
                _ => text.strip_suffix(part).unwrap_or(text),
            })
        }
        "partition" | "rpartition" => {
            let given = arguments.positional(method, 1, 1)?;
            let separator = given.first().map_or(Ok(""), string)?;
            if separator.is_empty() {
                return Err(Fault::value_error("empty separator"));
            }
            let split = match method {
                "partition" => text.split_once(separator),
                _ => text.rsplit_once(separator),
            };
            let three = match (split, method) {
                (Some((before, after)), _) => [before, separator, after],
                (None, "partition") => [text, "", ""],
                (None, _) => ["", "", text],
            };
            Value::tuple(three.into_iter().map(wrap).collect::<Result<_>>()?, budget)
        }
        "split" | "rsplit" => {
            let [separator, limit] = arguments.bind(method, ["sep", "maxsplit"])?;
            let limit = usize::try_from(whole(&limit, -1)?).unwrap_or(usize::MAX);
            match separator {
                None | Some(Value::None) => parts(match method {
                    "split" => split_words(text, limit),
                    _ => split_words_back(text, limit),
                }),
                Some(separator) => {
                    let separator = string(&separator)?.to_owned();
                    if separator.is_empty() {
                        return Err(Fault::value_error("empty separator"));
                    }
                    let limit = limit.saturating_add(1);
                    parts(match method {
                        "split" => text.splitn(limit, &separator).collect(),
                        _ => {
                            let mut parts: Vec<_> = text.rsplitn(limit, &separator).collect();
                            parts.reverse();
                            parts
                        }
                    })
                }
            }
        }
        "splitlines" => {
            let [keep] = arguments.bind(method, ["keepends"])?;
            parts(split_lines(text, flag(&keep, false)?))
        }
        "replace" => {
            let [old, new, count] = arguments.bind(method, ["old", "new", "count"])?;
            let missing = || Fault::type_error("replace() takes two strings");
            let old = old.ok_or_else(missing)?;
            let new = new.ok_or_else(missing)?;
            let new = match value {
                Value::Markup(_) => super::markup::escape(&new, budget)?,
                _ => string(&new)?.to_owned(),
            };
            wrap(&replace(
                text,
                string(&old)?,
                &new,
                whole(&count, -1)?,
                budget,
            )?)
        }
        "join" => {
            let given = arguments.positional(method, 1, 1)?;
            let items = given
                .first()
                .map_or(Ok(Vec::new()), |items| items.items(budget))?;
            let mut pieces = Vec::with_capacity(items.len() * 2);
            for item in items {
                let text = matches!(value, Value::Markup(_)) || item.as_str().is_some();
                if !text {
                    return Err(item.misfit("a string"));
                }
                if !pieces.is_empty() {
                    pieces.push(value.clone());
                }
                pieces.push(match (value, &item) {
                    // A safe text among plain ones is a string to `str.join`.
                    (Value::Str(_), Value::Markup(text)) => Value::Str(Rc::clone(text)),
                    _ => item,
                });
            }
            operators::concatenate(&pieces, budget)
        }
        "format" => format::format(engine, value, arguments),
        "format_map" => {
            let given = arguments.positional(method, 1, 1)?;
            let Some(Value::Dict(dict)) = given.first() else {
                return Err(Fault::type_error("format_map() takes a mapping"));
            };
            let keywords = dict
                .iter()
                .filter_map(|(key, value)| Some((key.as_str()?.to_owned(), value.clone())));
            let arguments = Arguments {
                positional: Vec::new(),
                keywords: keywords.collect(),
            };
            format::format(engine, value, &arguments)
        }
        "maketrans" => make_table(arguments, budget),
        "translate" => {
            let given = arguments.positional(method, 1, 1)?;
            let Some(Value::Dict(table)) = given.first() else {
                return Err(Fault::type_error("translate() takes a table"));
            };
            wrap(&translate(text, table, budget)?)
        }
        _ => Err(Fault::type_error(format!("str has no method {method}"))),
    }
}

pub(super) fn string(value: &Value) -> Result<&str> {
    value.as_str().ok_or_else(|| value.misfit("a string"))
}

fn one_char(value: &Value) -> Result<char> {
    let text = string(value)?;
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) => Ok(c),
        _ => Err(Fault::type_error(
            "The fill character must be exactly one character long",
        )),
    }
}

fn predicate(arguments: Result<()>, text: &str, holds: impl Fn(char) -> bool) -> Result<Value> {
    arguments.map(|()| Value::Bool(!text.is_empty() && text.chars().all(holds)))
}

fn make_table(arguments: &Arguments, budget: &Budget) -> Result<Value> {
    let given = arguments.positional("maketrans", 1, 3)?;
    let code = |c: char| Value::int(c as u32);
    let mut table = Dict::default();
    match given {
        [Value::Dict(dict)] => {
            for (key, value) in dict.iter() {
                let key = match key.as_str() {
                    Some(_) => code(one_char(key)?),
                    None => key.clone(),
                };
                table.insert(key, value.clone(), budget)?;
            }
        }
        [from, to, rest @ ..] => {
            let (from, to) = (string(from)?, string(to)?);
            if from.chars().count() != to.chars().count() {
                return Err(Fault::value_error("maketrans: texts of different lengths"));
            }
            for (from, to) in from.chars().zip(to.chars()) {
                table.insert(code(from), code(to), budget)?;
            }
            if let Some(removed) = rest.first() {
                for c in string(removed)?.chars() {
                    table.insert(code(c), Value::None, budget)?;
                }
            }
        }
        _ => {
            return Err(Fault::type_error(
                "maketrans() takes a dictionary or two texts",
            ));
        }
    }
    Ok(Value::Dict(Rc::new(table)))
}

fn translate(text: &str, table: &Dict, budget: &Budget) -> Result<String> {
    let mut out = String::new();
    for c in text.chars() {
        match table.get(&Value::int(c as u32), budget)? {
            None => out.push(c),
            Some(Value::None) => {}
            Some(Value::Str(text) | Value::Markup(text)) => {
                budget.bytes(text.len())?;
                out.push_str(text);
            }
            Some(code) => {
                let code = u32::try_from(code.to_i64()?).ok().and_then(char::from_u32);
                out.push(code.ok_or_else(|| Fault::value_error("translate: not a character"))?);
            }
        }
    }
    Ok(out)
}
