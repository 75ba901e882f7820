//! Chat templates: the Jinja program of a model that turns messages into its prompt.
//!
//! Rendered as Hugging Face transformers does it (`apply_chat_template`): minijinja parses a
//! template, and an interpreter runs the syntax tree with Python's values, operators, methods and
//! output, and with Jinja2's filters and tests. minijinja's own engine renders many published templates
//! differently. Templates are untrusted programs, so steps and memory are limited; one that takes more
//! ends with [`ChatTemplateError::Limit`].
//!
//! | file | what it holds |
//! |---|---|
//! | `message`, `variable` | the messages, and what a template is given beside them |
//! | `selection` | the choice among a model's templates |
//! | `source` | text and tags as Jinja2 cuts them, for minijinja's parser |
//! | `engine`, `interpreter`, `expression` | parsing, statements, expressions |
//! | `value`, `operators`, `slices`, `sorting`, `print`, `json` | Python's values and what is computed with them |
//! | `call`, `attributes`, `text`, `characters`, `format` | Python's calls, methods and formatting |
//! | `filters`, `tests`, `globals`, `markup`, `clock` | Jinja2's and transformers' filters, tests and functions |
//! | `limits`, `fault`, `error` | limits on steps and memory, exceptions, errors |

use std::collections::BTreeMap;

mod attributes;
mod call;
mod characters;
mod clock;
mod engine;
mod error;
mod expression;
mod fault;
mod filters;
mod format;
mod globals;
mod interpreter;
mod json;
mod limits;
mod markup;
mod message;
mod operators;
mod print;
mod selection;
mod slices;
mod sorting;
mod source;
mod tests;
mod text;
mod value;
mod variable;

pub use error::ChatTemplateError;
pub use message::ChatMessage;
pub use selection::{ChatTemplateFiles, ChatTemplates};
pub use variable::{RenderOptions, TemplateValue};

/// The variables that every template is given.
const RESERVED: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

/// A parsed chat template with the special tokens it refers to.
///
/// ```
/// use burn_apb::text::chat_template::{ChatMessage, ChatTemplate, RenderOptions};
///
/// let source = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}";
/// let template = ChatTemplate::parse(source)?.with_special_token("bos_token", "<s>");
/// let messages = [ChatMessage::new("user", "Hello")];
/// assert_eq!(template.render(&messages, &RenderOptions::default())?, "<s>[user] Hello");
/// # Ok::<(), burn_apb::text::chat_template::ChatTemplateError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    source: String,
    special_tokens: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// Parses a template. Its `bos_token` and the like are undefined, and print as nothing, until
    /// given by [`with_special_token`](Self::with_special_token).
    ///
    /// # Errors
    ///
    /// [`ChatTemplateError::Syntax`] with the line, [`ChatTemplateError::TooLarge`] above 128 KiB.
    pub fn parse(source: &str) -> Result<Self, ChatTemplateError> {
        engine::run(source, None)?;
        Ok(Self {
            source: source.to_owned(),
            special_tokens: BTreeMap::new(),
        })
    }

    /// Sets a variable such as `bos_token` or `eos_token`.
    pub fn with_special_token(mut self, name: impl Into<String>, token: impl Into<String>) -> Self {
        self.special_tokens.insert(name.into(), token.into());
        self
    }

    /// The template of a model whose files are in memory: the text of a `chat_template.jinja` goes
    /// before the one in the text of a `tokenizer_config.json`; `None` where there is neither.
    /// [`ChatTemplates`] has all templates of a model, by name.
    ///
    /// # Errors
    ///
    /// What is wrong with a text: not JSON, a field of another type, a template that does not parse.
    pub fn from_texts(
        jinja: Option<&str>,
        tokenizer_config: Option<&str>,
    ) -> Result<Option<Self>, ChatTemplateError> {
        let templates = ChatTemplates::read(&ChatTemplateFiles {
            jinja,
            tokenizer_config,
            ..ChatTemplateFiles::default()
        })?;
        match templates.is_empty() {
            true => Ok(None),
            false => templates.select(None, false).map(Some),
        }
    }

    /// The template in the text of a `tokenizer_config.json`; `None` where it has none.
    ///
    /// # Errors
    ///
    /// As [`from_texts`](Self::from_texts).
    pub fn from_tokenizer_config(json: &str) -> Result<Option<Self>, ChatTemplateError> {
        Self::from_texts(None, Some(json))
    }

    /// The template's source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The special tokens that the template sees, by variable name.
    pub fn special_tokens(&self) -> &BTreeMap<String, String> {
        &self.special_tokens
    }

    /// Renders `messages` into a prompt. The result holds the special tokens as text, `bos_token`
    /// too where the template has it, so it is to be encoded without adding any.
    ///
    /// # Errors
    ///
    /// [`ChatTemplateError::Raised`] where the template refuses the messages,
    /// [`ChatTemplateError::Render`] where it fails, [`ChatTemplateError::Limit`] where it takes
    /// too many instructions or too much memory, [`ChatTemplateError::ReservedVariable`] where a
    /// variable is called `messages`, `tools`, `documents` or `add_generation_prompt`.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        options: &RenderOptions,
    ) -> Result<String, ChatTemplateError> {
        if let Some(name) = RESERVED
            .iter()
            .find(|name| options.variables.contains_key(**name))
        {
            return Err(ChatTemplateError::ReservedVariable {
                name: (*name).to_owned(),
            });
        }
        let input = engine::Input {
            special_tokens: &self.special_tokens,
            messages,
            options,
        };
        engine::run(&self.source, Some(input))
    }
}
