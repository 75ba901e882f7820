//! Macros, and the bodies of `call` blocks.

use std::rc::Rc;

use minijinja::machinery::ast::{self, Expr, Spanned};

use super::{Interpreter, Macro, line};
use crate::text::chat_template::call::{Arguments, unexpected};
use crate::text::chat_template::fault::{Fault, Result};
use crate::text::chat_template::value::{Dict, Value};

impl<'a> Interpreter<'a> {
    pub(super) fn declare(&mut self, declaration: &'a Spanned<ast::Macro<'a>>) -> Result<Value> {
        let span = declaration.span();
        let text = self
            .source
            .get(span.start_offset as usize..span.end_offset as usize)
            .unwrap_or_default();
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let names = |name: &str| text.split(|c| !is_word(c)).any(|word| word == name);
        self.closures += 1;
        self.macros.push(Macro {
            declaration,
            scope: self.current,
            takes_caller: names("caller"),
            takes_more: names("varargs"),
            takes_keywords: names("kwargs"),
        });
        let id = self.macros.len() - 1;
        if let Some((name, parameters)) = self.signature(id) {
            for (at, parameter) in parameters.iter().enumerate() {
                if parameters.iter().take(at).any(|other| other == parameter) {
                    let message = format!("macro '{name}' has two parameters '{parameter}'");
                    return Err(Fault::runtime(message).at(line(span)));
                }
            }
        }
        Ok(Value::Macro(id))
    }

    /// The macro's name and the names of its parameters.
    pub(crate) fn signature(&self, id: usize) -> Option<(&'a str, Vec<&'a str>)> {
        let declaration = self.macros.get(id)?.declaration;
        let names = declaration
            .args
            .iter()
            .filter_map(|argument| match argument {
                Expr::Var(variable) => Some(variable.id),
                _ => None,
            });
        Some((declaration.name, names.collect()))
    }

    pub(crate) fn call_macro(&mut self, id: usize, arguments: &Arguments) -> Result<Value> {
        let found = self.macros.get(id).copied().zip(self.signature(id));
        let Some((site, (name, parameters))) = found else {
            return Err(Fault::runtime("no such macro"));
        };
        let defaults = &site.declaration.defaults;
        let mut values: Vec<Option<Value>> = vec![None; parameters.len()];
        for (slot, value) in values.iter_mut().zip(&arguments.positional) {
            *slot = Some(value.clone());
        }
        let more = arguments.positional.get(parameters.len()..);
        let more = more.unwrap_or_default().to_vec();
        if !more.is_empty() && !site.takes_more {
            return Err(Fault::type_error(format!(
                "macro '{name}' takes not more than {} argument(s)",
                parameters.len()
            )));
        }
        let mut caller = None;
        let mut others = Dict::default();
        for (keyword, value) in &arguments.keywords {
            let slot = parameters.iter().position(|parameter| parameter == keyword);
            match slot.and_then(|at| values.get_mut(at)) {
                Some(Some(_)) => {
                    return Err(Fault::type_error(format!(
                        "macro '{name}' got multiple values for argument '{keyword}'"
                    )));
                }
                Some(slot) => *slot = Some(value.clone()),
                None if keyword == "caller" && site.takes_caller => caller = Some(value.clone()),
                None if site.takes_keywords && keyword != "caller" => {
                    others.insert(Value::str(keyword), value.clone(), self.budget)?;
                }
                None => return Err(unexpected(name, keyword)),
            }
        }
        let more = Value::tuple(more, self.budget)?;
        let run = |engine: &mut Self| {
            if site.takes_caller && !parameters.contains(&"caller") {
                let missing = || Value::undefined("No caller defined");
                engine.define("caller", caller.unwrap_or_else(missing));
            }
            if site.takes_keywords {
                engine.define("kwargs", Value::Dict(Rc::new(others)));
            }
            if site.takes_more {
                engine.define("varargs", more);
            }
            let without = parameters.len().saturating_sub(defaults.len());
            let missing: Vec<bool> = values.iter().map(Option::is_none).collect();
            for (parameter, value) in parameters.iter().zip(values) {
                let undefined =
                    || Value::undefined(format!("parameter '{parameter}' was not provided"));
                engine.define(parameter, value.unwrap_or_else(undefined));
            }
            // A default may name the parameters before it.
            for (at, default) in (without..).zip(defaults) {
                if let (Some(true), Some(parameter)) = (missing.get(at), parameters.get(at)) {
                    let value = engine.evaluate(default)?;
                    engine.define(parameter, value);
                }
            }
            engine.statements(&site.declaration.body)
        };
        self.called(|engine| engine.scoped(site.scope, run))
    }
}
