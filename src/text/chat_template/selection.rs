//! Which of a model's chat templates is used: files before configuration, then by name.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{ChatTemplate, ChatTemplateError};
use crate::text::json;
use crate::text::tokenizer::SpecialTokens;

/// The texts of a model's files that hold chat templates; `None` where there is no such file.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChatTemplateFiles<'t> {
    /// `chat_template.jinja`.
    pub jinja: Option<&'t str>,
    /// The files of `additional_chat_templates/`: each name without `.jinja`, and the text.
    pub additional: &'t [(String, String)],
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'t str>,
    /// `chat_template.json`, which older processors have.
    pub chat_template_json: Option<&'t str>,
}

/// All chat templates of a model by name, with the special tokens that they refer to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatTemplates {
    sources: BTreeMap<String, String>,
    special_tokens: BTreeMap<String, String>,
}

/// The name of the template that is used where none is asked for.
const DEFAULT: &str = "default";
/// The one that goes before it where there are tools.
const TOOL_USE: &str = "tool_use";
const SHAPES: &str =
    "a string, an object of templates by name, or a list of objects with a `name` and a `template`";

impl ChatTemplates {
    /// Reads the templates of a model. As in transformers, files of their own replace all that
    /// `tokenizer_config.json` has; `chat_template.json` counts where there is nothing else.
    ///
    /// # Errors
    ///
    /// [`ChatTemplateError::Json`], [`ChatTemplateError::Field`] and
    /// [`ChatTemplateError::SpecialToken`]. The templates themselves are parsed by
    /// [`select`](Self::select).
    pub fn read(files: &ChatTemplateFiles<'_>) -> Result<Self, ChatTemplateError> {
        let config = files.tokenizer_config.map(object).transpose()?;
        let mut templates = Self::default();
        if let Some(config) = config.as_ref().and_then(Value::as_object) {
            templates = templates.with_special_tokens(&SpecialTokens::from_config(config)?);
        }
        templates.sources = files.additional.iter().cloned().collect();
        let jinja = files
            .jinja
            .map(|text| (DEFAULT.to_owned(), text.to_owned()));
        templates.sources.extend(jinja);
        for text in [config, files.chat_template_json.map(object).transpose()?] {
            let found = text.as_ref().and_then(|text| text.get("chat_template"));
            if let (true, Some(found)) = (templates.sources.is_empty(), found) {
                templates.sources = named(found)?;
            }
        }
        Ok(templates)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// The names there are; a single template is called `default`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sources.keys().map(String::as_str)
    }

    /// The source of a template.
    pub fn source(&self, name: &str) -> Option<&str> {
        self.sources.get(name).map(String::as_str)
    }

    /// The template called `name`; without a name `tool_use` where there are tools, or else
    /// `default`.
    ///
    /// # Errors
    ///
    /// [`ChatTemplateError::NoSuchTemplate`] or [`ChatTemplateError::NoDefault`] with the names
    /// there are, and the errors of [`ChatTemplate::parse`].
    pub fn select(
        &self,
        name: Option<&str>,
        has_tools: bool,
    ) -> Result<ChatTemplate, ChatTemplateError> {
        let names = || self.names().map(str::to_owned).collect();
        let source = match name {
            Some(name) => self
                .source(name)
                .ok_or_else(|| ChatTemplateError::NoSuchTemplate {
                    name: name.to_owned(),
                    names: names(),
                }),
            None => self
                .source(TOOL_USE)
                .filter(|_| has_tools)
                .or_else(|| self.source(DEFAULT))
                .ok_or_else(|| ChatTemplateError::NoDefault { names: names() }),
        }?;
        self.parse(source)
    }

    /// A template of another source, with the special tokens of these.
    ///
    /// # Errors
    ///
    /// As [`ChatTemplate::parse`].
    pub fn parse(&self, source: &str) -> Result<ChatTemplate, ChatTemplateError> {
        let template = ChatTemplate::parse(source)?;
        let tokens = self.special_tokens.iter();
        Ok(tokens.fold(template, |template, (name, token)| {
            template.with_special_token(name, token)
        }))
    }

    /// Sets special tokens for all templates.
    pub fn with_special_tokens(mut self, tokens: &SpecialTokens) -> Self {
        let tokens = tokens.iter();
        self.special_tokens
            .extend(tokens.map(|(name, text)| (name.to_owned(), text.to_owned())));
        self
    }
}

fn object(text: &str) -> Result<Value, ChatTemplateError> {
    let value: Value = json::from_str(text).map_err(|error| ChatTemplateError::Json {
        message: error.to_string(),
    })?;
    match value.is_object() {
        true => Ok(value),
        false => Err(ChatTemplateError::Field {
            field: "the file".to_owned(),
            expected: "a JSON object",
        }),
    }
}

fn named(value: &Value) -> Result<BTreeMap<String, String>, ChatTemplateError> {
    let wrong = || ChatTemplateError::Field {
        field: "chat_template".to_owned(),
        expected: SHAPES,
    };
    let text = |value: Option<&Value>| {
        value
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(wrong)
    };
    match value {
        Value::Null => Ok(BTreeMap::new()),
        Value::String(source) => Ok([(DEFAULT.to_owned(), source.clone())].into()),
        Value::Object(named) => named
            .iter()
            .map(|(name, source)| Ok((name.clone(), text(Some(source))?)))
            .collect(),
        Value::Array(named) => named
            .iter()
            .map(|entry| Ok((text(entry.get("name"))?, text(entry.get("template"))?)))
            .collect(),
        _ => Err(wrong()),
    }
}
