//! Filters of lists and of what else can be iterated over.

use minijinja::machinery::ast::BinOpKind;

use crate::text::chat_template::call::{Arguments, flag, given, required};
use crate::text::chat_template::fault::{Fault, Result};
use crate::text::chat_template::interpreter::Interpreter;
use crate::text::chat_template::operators;
use crate::text::chat_template::slices::{Slice, slice};
use crate::text::chat_template::sorting::sorted;
use crate::text::chat_template::value::{Key, Value};

pub(super) fn call(
    engine: &mut Interpreter<'_>,
    name: &str,
    value: &Value,
    arguments: &Arguments,
) -> Result<Value> {
    let budget = engine.budget;
    match name {
        "list" => Value::list(value.items(budget)?, budget),
        "first" => {
            if let Value::Generator(generator) = value {
                let first = generator.items.borrow_mut().next();
                if let Some(first) = first {
                    return Ok(first);
                }
            }
            let first = value.items(budget)?.into_iter().next();
            Ok(first.unwrap_or_else(|| Value::undefined("the first item of an empty sequence")))
        }
        "last" => {
            if matches!(value, Value::Generator(_)) {
                return Err(value.mismatch("a sequence that can be reversed"));
            }
            let last = value.items(budget)?.pop();
            Ok(last.unwrap_or_else(|| Value::undefined("the last item of an empty sequence")))
        }
        "reverse" => {
            if value.as_str().is_some() {
                let backwards = Slice {
                    step: Some(-1),
                    ..Slice::default()
                };
                return slice(value, backwards, budget);
            }
            let mut items = value.items(budget)?;
            items.reverse();
            Value::generator(items, None, budget)
        }
        "join" => {
            let [separator, attribute] = arguments.bind(name, ["d", "attribute"])?;
            let mut items = value.items(budget)?;
            if let Some(attribute) = given(attribute) {
                for item in &mut items {
                    *item = at_path(engine, item, &attribute, None)?;
                }
            }
            join(engine, &items, &separator.unwrap_or_else(|| Value::str("")))
        }
        "sort" => {
            let [reverse, case, attribute] =
                arguments.bind(name, ["reverse", "case_sensitive", "attribute"])?;
            let (reverse, case) = (flag(&reverse, false)?, flag(&case, false)?);
            let paths: Vec<Value> = match attribute.unwrap_or(Value::None) {
                Value::Str(text) => text.split(',').map(Value::str).collect(),
                path => vec![path],
            };
            let mut keyed = Vec::new();
            for item in value.items(budget)? {
                let mut key = Vec::with_capacity(paths.len());
                for path in &paths {
                    key.push(fold_case(at_path(engine, &item, path, None)?, case));
                }
                keyed.push((Value::list(key, budget)?, item));
            }
            let sorted = sort_by_keys(keyed, reverse, engine)?;
            Value::list(sorted.into_iter().map(|(_, item)| item).collect(), budget)
        }
        "unique" => {
            let [case, attribute] = arguments.bind(name, ["case_sensitive", "attribute"])?;
            let (case, path) = (flag(&case, false)?, attribute.unwrap_or(Value::None));
            let mut seen = std::collections::HashSet::new();
            let mut items = Vec::new();
            for item in value.items(budget)? {
                let key = fold_case(at_path(engine, &item, &path, None)?, case);
                if seen.insert(Key::of(&key, budget)?) {
                    items.push(item);
                }
            }
            Value::generator(items, None, budget)
        }
        "min" | "max" => {
            let [case, attribute] = arguments.bind(name, ["case_sensitive", "attribute"])?;
            let (case, path) = (flag(&case, false)?, attribute.unwrap_or(Value::None));
            let wanted = match name {
                "min" => std::cmp::Ordering::Less,
                _ => std::cmp::Ordering::Greater,
            };
            let mut best: Option<(Value, Value)> = None;
            for item in value.items(budget)? {
                let key = fold_case(at_path(engine, &item, &path, None)?, case);
                let better = match &best {
                    None => true,
                    Some((so_far, _)) => operators::compare(&key, so_far, budget)? == Some(wanted),
                };
                if better {
                    best = Some((key, item));
                }
            }
            let none = || Value::undefined("an item of an empty sequence");
            Ok(best.map_or_else(none, |(_, item)| item))
        }
        "sum" => {
            let [attribute, start] = arguments.bind(name, ["attribute", "start"])?;
            let path = attribute.unwrap_or(Value::None);
            let mut sum = start.unwrap_or_else(|| Value::int(0));
            if sum.as_str().is_some() {
                return Err(Fault::type_error("sum() can't sum strings"));
            }
            for item in value.items(budget)? {
                let item = at_path(engine, &item, &path, None)?;
                sum = operators::binary(BinOpKind::Add, &sum, &item, budget)?;
            }
            Ok(sum)
        }
        "dictsort" => dict_sort(engine, value, arguments),
        "groupby" => group_by(engine, value, arguments),
        "batch" => {
            let [count, fill] = arguments.bind(name, ["linecount", "fill_with"])?;
            let (count, fill) = (required(&count, "linecount")?.to_i64()?, given(fill));
            let items = value.items(budget)?;
            let size = match usize::try_from(count) {
                Ok(size @ 1..) => size,
                // Jinja2's loop never finds a batch of that size.
                _ => items.len().max(1),
            };
            let mut batches = Vec::new();
            for batch in items.chunks(size) {
                let mut batch = batch.to_vec();
                if let Some(fill) = fill.clone() {
                    budget.product(48, size)?;
                    batch.resize(size, fill);
                }
                batches.push(Value::list(batch, budget)?);
            }
            Value::generator(batches, None, budget)
        }
        _ => {
            let [count, fill] = arguments.bind(name, ["slices", "fill_with"])?;
            let (count, fill) = (required(&count, "slices")?.to_i64()?, given(fill));
            if count == 0 {
                return Err(Fault::value_error("integer division or modulo by zero"));
            }
            let items = value.items(budget)?;
            let count = usize::try_from(count).unwrap_or(0);
            budget.product(48, count)?;
            let (each, more) = (items.len() / count.max(1), items.len() % count.max(1));
            let mut slices = Vec::new();
            let mut rest = items.as_slice();
            for at in 0..count {
                let (taken, behind) = rest.split_at(each + usize::from(at < more));
                let mut taken = taken.to_vec();
                taken.extend(fill.clone().filter(|_| at >= more));
                slices.push(Value::list(taken, budget)?);
                rest = behind;
            }
            Value::generator(slices, None, budget)
        }
    }
}

fn join(engine: &Interpreter<'_>, items: &[Value], separator: &Value) -> Result<Value> {
    let budget = engine.budget;
    let separator = engine.printed(separator)?;
    let mut out = String::new();
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(&separator);
        }
        out.push_str(&engine.printed(item)?);
        if out.len() > budget.value_bytes() {
            return Err(Fault::limit("the size of a value"));
        }
    }
    budget.bytes(out.len())?;
    Ok(Value::text(out, engine.autoescape))
}

fn dict_sort(engine: &mut Interpreter<'_>, value: &Value, arguments: &Arguments) -> Result<Value> {
    let budget = engine.budget;
    let [case, by, reverse] = arguments.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
    let (case, reverse) = (flag(&case, false)?, flag(&reverse, false)?);
    let by_value = match by.as_ref().map(|by| by.as_str()) {
        None | Some(Some("key")) => false,
        Some(Some("value")) => true,
        _ => {
            return Err(Fault::runtime(
                "You can only sort by either \"key\" or \"value\"",
            ));
        }
    };
    let Value::Dict(dict) = value else {
        return Err(value.mismatch("a mapping"));
    };
    let mut keyed = Vec::new();
    for (key, value) in dict.iter() {
        let by = if by_value { value } else { key };
        let pair = Value::tuple(vec![key.clone(), value.clone()], budget)?;
        keyed.push((fold_case(by.clone(), case), pair));
    }
    let sorted = sort_by_keys(keyed, reverse, engine)?;
    Value::list(sorted.into_iter().map(|(_, pair)| pair).collect(), budget)
}

fn group_by(engine: &mut Interpreter<'_>, value: &Value, arguments: &Arguments) -> Result<Value> {
    let budget = engine.budget;
    let [attribute, default, case] =
        arguments.bind("groupby", ["attribute", "default", "case_sensitive"])?;
    let path = required(&attribute, "attribute")?;
    let default = given(default);
    let case = flag(&case, false)?;
    let mut keyed = Vec::new();
    for item in value.items(budget)? {
        let key = at_path(engine, &item, &path, default.as_ref())?;
        keyed.push((fold_case(key, case), item));
    }
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in sort_by_keys(keyed, false, engine)? {
        match groups.last_mut() {
            Some((last, items)) if operators::equal(last, &key, budget)? => items.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let mut made = Vec::new();
    for (key, items) in groups {
        // The key as the first item of the group spells it.
        let key = match (case, items.first()) {
            (false, Some(first)) => at_path(engine, first, &path, default.as_ref())?,
            _ => key,
        };
        let items = Value::list(items, budget)?;
        made.push(Value::tuple(vec![key, items], budget)?);
    }
    Value::list(made, budget)
}

/// The value at a path such as `function.name` or `0.text`, as `map(attribute=..)` takes it.
pub(super) fn at_path(
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
