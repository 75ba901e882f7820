//! The methods of Python's `str`.

mod case;
mod parts;
mod search;

pub(super) use case::{is_lower, is_upper};
pub(super) use parts::{replace, split_lines, strip};

use case::{capitalize, casefold, is_title, swap_case, title};
use parts::{expand_tabs, justify, split_words};
use search::{find, window};

use std::rc::Rc;

use super::call::{Arguments, Functions, flag, required, size, whole};
use super::characters::{is_alpha, is_decimal, is_digit, is_numeric, is_printable, is_space};
use super::fault::{Fault, Result};
use super::format;
use super::interpreter::Interpreter;
use super::limits::{Budget, ITEM_BYTES};
use super::operators;
use super::value::{Dict, Value};

/// The methods there are. `encode` is not among them: it makes bytes, which no prompt holds.
pub(super) const METHODS: &Functions = &[
    (
        "capitalize casefold lower swapcase title upper",
        Some((0, 0)),
    ),
    (
        "isalnum isalpha isascii isdecimal isdigit isidentifier",
        Some((0, 0)),
    ),
    (
        "islower isnumeric isprintable isspace istitle isupper",
        Some((0, 0)),
    ),
    ("lstrip rstrip strip", Some((0, 1))),
    (
        "format_map join partition removeprefix removesuffix",
        Some((1, 1)),
    ),
    ("rpartition translate zfill", Some((1, 1))),
    ("center ljust rjust", Some((1, 2))),
    (
        "count endswith find index maketrans rfind rindex startswith",
        Some((1, 3)),
    ),
    ("expandtabs format replace rsplit split splitlines", None),
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
        Ok(Value::text(made, value.is_safe()))
    };
    let parts = |parts: Vec<&str>| -> Result<Value> {
        budget.product(ITEM_BYTES, parts.len())?;
        Value::list(parts.into_iter().map(wrap).collect::<Result<_>>()?, budget)
    };
    let given = arguments.counted(METHODS, method)?;
    let part = || given.first().map_or(Ok(""), string);
    let separator = |separator: &str| match separator.is_empty() {
        true => Err(Fault::value_error("empty separator")),
        false => Ok(separator.to_owned()),
    };
    let holds = |predicate: fn(char) -> bool| {
        Ok(Value::Bool(!text.is_empty() && text.chars().all(predicate)))
    };
    match method {
        "capitalize" => wrap(&capitalize(text)),
        "casefold" => wrap(&casefold(text)),
        "lower" => wrap(&text.to_lowercase()),
        "upper" => wrap(&text.to_uppercase()),
        "swapcase" => wrap(&swap_case(text)),
        "title" => wrap(&title(text)),
        "isalnum" => holds(|c| is_alpha(c) || is_numeric(c)),
        "isalpha" => holds(is_alpha),
        "isdecimal" => holds(is_decimal),
        "isdigit" => holds(is_digit),
        "isnumeric" => holds(is_numeric),
        "isspace" => holds(is_space),
        "isascii" => Ok(Value::Bool(text.is_ascii())),
        "isprintable" => Ok(Value::Bool(text.chars().all(is_printable))),
        "islower" => Ok(Value::Bool(is_lower(text))),
        "isupper" => Ok(Value::Bool(is_upper(text))),
        "istitle" => Ok(Value::Bool(is_title(text))),
        "isidentifier" => {
            let rest = text.trim_start_matches(|c| is_alpha(c) || c == '_');
            let rest = rest
                .chars()
                .all(|c| is_alpha(c) || is_decimal(c) || c == '_');
            let first = text.chars().next();
            Ok(Value::Bool(
                rest && first.is_some_and(|c| is_alpha(c) || c == '_'),
            ))
        }
        "center" | "ljust" | "rjust" => {
            let width = given.first().map_or(Ok(0), Value::to_i64)?;
            let fill = given.get(1).map_or(Ok(' '), one_char)?;
            wrap(&justify(text, method, width, fill, budget)?)
        }
        "zfill" => {
            let width = given.first().map_or(Ok(0), Value::to_i64)?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            let width = width.saturating_sub(sign.len() as i64);
            wrap(&(sign.to_owned() + &justify(digits, "rjust", width, '0', budget)?))
        }
        "expandtabs" => {
            let [tab] = arguments.bind(method, ["tabsize"])?;
            wrap(&expand_tabs(text, size(&tab, 8)?, budget)?)
        }
        "strip" | "lstrip" | "rstrip" => {
            let (left, right) = (method != "rstrip", method != "lstrip");
            wrap(match given.first() {
                None | Some(Value::None) => strip(text, left, right, is_space),
                Some(chars) => {
                    let chars = string(chars)?;
                    budget.reading(text.len().saturating_mul(chars.len()) / 64)?;
                    strip(text, left, right, |c| chars.contains(c))
                }
            })
        }
        "count" | "find" | "index" | "rfind" | "rindex" => {
            let window = window(text, given.get(1), given.get(2), budget)?;
            find(window, method, part()?)
        }
        "startswith" | "endswith" => {
            let Some((_, window)) = window(text, given.get(1), given.get(2), budget)? else {
                return Ok(Value::Bool(false));
            };
            let candidates = match given.first() {
                Some(Value::Tuple(candidates)) => candidates.items.as_slice(),
                _ => given.get(..1).unwrap_or_default(),
            };
            for candidate in candidates {
                let candidate = string(candidate)?;
                if (method == "startswith" && window.starts_with(candidate))
                    || (method == "endswith" && window.ends_with(candidate))
                {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        "removeprefix" => wrap(text.strip_prefix(part()?).unwrap_or(text)),
        "removesuffix" => wrap(text.strip_suffix(part()?).unwrap_or(text)),
        "partition" | "rpartition" => {
            let separator = separator(part()?)?;
            let three = match method {
                "partition" => text.split_once(&separator).map(|(a, b)| [a, &separator, b]),
                _ => text
                    .rsplit_once(&separator)
                    .map(|(a, b)| [a, &separator, b]),
            };
            let three = three.unwrap_or(match method {
                "partition" => [text, "", ""],
                _ => ["", "", text],
            });
            Value::tuple(three.into_iter().map(wrap).collect::<Result<_>>()?, budget)
        }
        "split" | "rsplit" => {
            let [by, limit] = arguments.bind(method, ["sep", "maxsplit"])?;
            let limit = usize::try_from(whole(&limit, -1)?).unwrap_or(usize::MAX);
            let forwards = method == "split";
            let Some(by) = super::call::given(by) else {
                return parts(split_words(text, limit, forwards));
            };
            let (by, limit) = (separator(string(&by)?)?, limit.saturating_add(1));
            if forwards {
                return parts(text.splitn(limit, &by).collect());
            }
            let mut found: Vec<_> = text.rsplitn(limit, &by).collect();
            found.reverse();
            parts(found)
        }
        "splitlines" => {
            let [keep] = arguments.bind(method, ["keepends"])?;
            parts(split_lines(text, flag(&keep, false)?))
        }
        "replace" => {
            let [old, new, count] = arguments.bind(method, ["old", "new", "count"])?;
            let (old, new) = (required(&old, "old")?, required(&new, "new")?);
            let new = match value {
                Value::Markup(_) => super::markup::escape(&new, budget)?,
                _ => string(&new)?.to_owned(),
            };
            let count = whole(&count, -1)?;
            wrap(&replace(text, string(&old)?, &new, count, budget)?)
        }
        "join" => {
            let items = given
                .first()
                .map_or(Ok(Vec::new()), |items| items.items(budget))?;
            let mut pieces = Vec::with_capacity(items.len() * 2);
            for item in items {
                if !value.is_safe() && item.as_str().is_none() {
                    return Err(item.mismatch("a string"));
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
        "maketrans" => make_table(given, budget),
        "translate" => {
            let Some(Value::Dict(table)) = given.first() else {
                return Err(Fault::type_error("translate() takes a table"));
            };
            wrap(&translate(text, table, budget)?)
        }
        _ => Err(Fault::type_error(format!("str has no method {method}"))),
    }
}

pub(super) fn string(value: &Value) -> Result<&str> {
    value.as_str().ok_or_else(|| value.mismatch("a string"))
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

fn make_table(given: &[Value], budget: &Budget) -> Result<Value> {
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
