//! Parses and runs a template, with its input turned into Python's values.

use std::collections::{BTreeMap, HashMap};

use minijinja::machinery;
use minijinja::syntax::SyntaxConfig;
use serde_json::Value as Json;

use super::fault::Result;
use super::interpreter::Interpreter;
use super::limits::{Budget, ITEM_BYTES, MAX_SOURCE_BYTES, STACK_BYTES};
use super::value::Value;
use super::variable::MARK;
use super::{ChatMessage, ChatTemplateError, RenderOptions, clock, source};

/// What a template is given.
pub(super) struct Input<'i> {
    pub special_tokens: &'i BTreeMap<String, String>,
    pub messages: &'i [ChatMessage],
    pub options: &'i RenderOptions,
}

/// Parses `template`, and renders it where there is `input`.
///
/// It does so on a thread of its own, since deep templates take a deep stack.
pub(super) fn run(
    template: &str,
    input: Option<Input<'_>>,
) -> std::result::Result<String, ChatTemplateError> {
    if template.len() > MAX_SOURCE_BYTES {
        return Err(ChatTemplateError::TooLarge {
            bytes: template.len() as u64,
            limit: MAX_SOURCE_BYTES as u64,
        });
    }
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("chat-template".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || run_here(template, input))
            .map_err(|error| ChatTemplateError::Internal {
                message: format!("cannot start a thread: {error}"),
            })?
            .join()
            .unwrap_or_else(|_| {
                Err(ChatTemplateError::Internal {
                    message: "the template engine panicked".to_owned(),
                })
            })
    })
}

fn run_here(
    template: &str,
    input: Option<Input<'_>>,
) -> std::result::Result<String, ChatTemplateError> {
    let normalized = source::normalize(template)?;
    let syntax = SyntaxConfig::builder()
        .keep_trailing_newline(true)
        .build()
        .map_err(|error| syntax_error(&error))?;
    let tree = machinery::parse(&normalized, "chat_template", syntax)
        .map_err(|error| syntax_error(&error))?;
    let Some(input) = input else {
        return Ok(String::new());
    };

    let bytes = input.bytes();
    let budget = Budget::new(input.messages.len(), bytes);
    let context = input.context(&budget)?;
    let now = clock::local_time(input.options.now, input.options.utc_offset);
    let mut interpreter = Interpreter::new(&normalized, context, now, &budget);
    Ok(interpreter.render(&tree)?)
}

fn syntax_error(error: &minijinja::Error) -> ChatTemplateError {
    let message = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    ChatTemplateError::Syntax {
        line: error.line().unwrap_or(0),
        message,
    }
}

impl Input<'_> {
    fn bytes(&self) -> usize {
        let tokens: usize = self.special_tokens.values().map(String::len).sum();
        let messages: usize = self
            .messages
            .iter()
            .flat_map(|message| message.fields().iter())
            .map(|(key, value)| key.len() + size(value))
            .sum();
        let lists = [&self.options.tools, &self.options.documents];
        let lists: usize = lists.into_iter().flatten().flatten().map(size).sum();
        let variables: usize = self
            .options
            .variables
            .values()
            .map(|value| size(&value.json))
            .sum();
        tokens + messages + lists + variables
    }

    fn context(&self, budget: &Budget) -> Result<HashMap<String, Value>> {
        let list = |list: &Option<Vec<Json>>| match list {
            None => Ok(Value::None),
            Some(items) => {
                let items = items.iter().map(|item| from_json(item, false, budget));
                Value::list(items.collect::<Result<_>>()?, budget)
            }
        };
        let mut context = HashMap::new();
        for (name, token) in self.special_tokens {
            context.insert(name.clone(), Value::str(token));
        }
        for (name, value) in &self.options.variables {
            context.insert(name.clone(), from_json(&value.json, value.marked, budget)?);
        }
        let messages = self.messages.iter().map(|message| {
            let fields = message.normalized().into_iter();
            let fields =
                fields.map(|(key, value)| Ok((Value::str(key), from_json(value, false, budget)?)));
            Value::dict(fields, budget)
        });
        let messages = Value::list(messages.collect::<Result<_>>()?, budget)?;
        context.insert("messages".to_owned(), messages);
        context.insert("tools".to_owned(), list(&self.options.tools)?);
        context.insert("documents".to_owned(), list(&self.options.documents)?);
        context.insert(
            "add_generation_prompt".to_owned(),
            Value::Bool(self.options.add_generation_prompt),
        );
        Ok(context)
    }
}

fn size(value: &Json) -> usize {
    ITEM_BYTES
        + match value {
            Json::String(text) => text.len(),
            Json::Array(items) => items.iter().map(size).sum(),
            Json::Object(map) => map.iter().map(|(key, value)| key.len() + size(value)).sum(),
            _ => 0,
        }
}

/// A value of JSON; where it is `marked`, its strings that begin with [`MARK`] are numbers.
fn from_json(json: &Json, marked: bool, budget: &Budget) -> Result<Value> {
    Ok(match json {
        Json::Null => Value::None,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::int(integer),
            (_, Some(integer)) => Value::int(integer),
            _ => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => {
            budget.bytes(text.len())?;
            let number = text.strip_prefix(MARK).filter(|_| marked);
            let integer = number
                .and_then(|number| number.parse().ok())
                .map(Value::Int);
            let float = || {
                number
                    .and_then(|number| number.parse().ok())
                    .map(Value::Float)
            };
            integer.or_else(float).unwrap_or_else(|| Value::str(text))
        }
        Json::Array(items) => {
            let items = items.iter().map(|item| from_json(item, marked, budget));
            Value::list(items.collect::<Result<_>>()?, budget)?
        }
        Json::Object(map) => {
            let entries = map
                .iter()
                .map(|(key, value)| Ok((Value::str(key), from_json(value, marked, budget)?)));
            Value::dict(entries, budget)?
        }
    })
}
