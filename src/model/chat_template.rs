//! Chat templates: the Jinja program of a model that turns messages into its prompt.
//!
//! Rendered as Hugging Face transformers does it (`apply_chat_template`): blocks trimmed, Python's
//! string methods, `tojson` and spelling of values, `raise_exception`, `strftime_now`, loop
//! controls, `{% generation %}` ignored. A template is a program from elsewhere, so what it may
//! take is limited; one that takes more ends with [`ChatTemplateError::Limit`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use minijinja::Value;

mod python;
mod sandbox;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who speaks: `system`, `user` or `assistant`, as the template knows them.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl ChatMessage {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// How [`ChatTemplate::render`] renders.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RenderOptions {
    /// Whether the prompt ends with the opening of the assistant's turn.
    pub add_generation_prompt: bool,
    /// The time that `strftime_now` tells, in UTC; the system's clock where `None`.
    pub now: Option<SystemTime>,
    /// Further variables, such as `enable_thinking` or `tools`.
    pub variables: serde_json::Map<String, serde_json::Value>,
}

/// A parsed chat template with the special tokens it refers to.
///
/// ```
/// use burn_apb::model::chat_template::{ChatMessage, ChatTemplate, RenderOptions};
///
/// let source = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}";
/// let template = ChatTemplate::parse(source)?.with_special_token("bos_token", "<s>");
/// let messages = [ChatMessage::new("user", "Hello")];
/// assert_eq!(template.render(&messages, &RenderOptions::default())?, "<s>[user] Hello");
/// # Ok::<(), burn_apb::model::chat_template::ChatTemplateError>(())
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
        sandbox::run(source, None)?;
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
    ///
    /// # Errors
    ///
    /// What is wrong with a text: not JSON, a field of another type, a template that does not parse.
    pub fn from_texts(
        jinja: Option<&str>,
        tokenizer_config: Option<&str>,
    ) -> Result<Option<Self>, ChatTemplateError> {
        let config = tokenizer_config.map(TokenizerConfig::parse).transpose()?;
        let source = jinja.or(config.as_ref().and_then(|c| c.chat_template.as_deref()));
        let Some(source) = source else {
            return Ok(None);
        };
        let template = Self::parse(source)?;
        Ok(Some(Self {
            special_tokens: config.map(|c| c.special_tokens).unwrap_or_default(),
            ..template
        }))
    }

    /// The template in the text of a `tokenizer_config.json`; `None` where it has none.
    ///
    /// # Errors
    ///
    /// As [`from_texts`](Self::from_texts).
    pub fn from_tokenizer_config(json: &str) -> Result<Option<Self>, ChatTemplateError> {
        let config = TokenizerConfig::parse(json)?;
        let Some(source) = config.chat_template else {
            return Ok(None);
        };
        Ok(Some(Self {
            special_tokens: config.special_tokens,
            ..Self::parse(&source)?
        }))
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
    /// too many instructions or too much memory.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        options: &RenderOptions,
    ) -> Result<String, ChatTemplateError> {
        let mut bytes = 0;
        let mut context: Vec<(String, Value)> = vec![
            ("tools".to_owned(), Value::from(())),
            ("documents".to_owned(), Value::from(())),
        ];
        context.extend(self.special_tokens.iter().map(|(name, token)| {
            bytes += token.len();
            (name.clone(), Value::from(token.as_str()))
        }));
        for (name, value) in &options.variables {
            context.retain(|(present, _)| present != name);
            context.push((name.clone(), from_json(value, &mut bytes)));
        }
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| {
                bytes += message.role.len() + message.content.len();
                Value::from_pairs([
                    ("role", message.role.as_str()),
                    ("content", message.content.as_str()),
                ])
            })
            .collect();
        let count = messages.len();
        context.push(("messages".to_owned(), Value::from(messages)));
        context.push((
            "add_generation_prompt".to_owned(),
            Value::from(options.add_generation_prompt),
        ));
        let input = sandbox::Input {
            context: Value::from_pairs(context),
            messages: count,
            bytes,
            now: options.now.unwrap_or_else(SystemTime::now),
        };
        sandbox::run(&self.source, Some(input))
    }
}

/// What of `tokenizer_config.json` matters here.
struct TokenizerConfig {
    chat_template: Option<String>,
    special_tokens: BTreeMap<String, String>,
}

impl TokenizerConfig {
    fn parse(json: &str) -> Result<Self, ChatTemplateError> {
        let config: serde_json::Value =
            serde_json::from_str(json).map_err(|error| ChatTemplateError::Json {
                message: error.to_string(),
            })?;
        let config = config.as_object().ok_or(ChatTemplateError::Field {
            field: "the file".to_owned(),
            expected: "a JSON object",
        })?;
        let mut special_tokens = BTreeMap::new();
        for name in ["bos_token", "eos_token", "unk_token", "pad_token"] {
            let token = match config.get(name) {
                None | Some(serde_json::Value::Null) => continue,
                Some(serde_json::Value::String(token)) => Some(token.as_str()),
                Some(token) => token.get("content").and_then(|content| content.as_str()),
            };
            let token = token.ok_or_else(|| ChatTemplateError::Field {
                field: name.to_owned(),
                expected: "a string, or an object whose `content` is one",
            })?;
            special_tokens.insert(name.to_owned(), token.to_owned());
        }
        let chat_template = match config.get("chat_template") {
            None | Some(serde_json::Value::Null) => None,
            Some(serde_json::Value::String(source)) => Some(source.clone()),
            Some(serde_json::Value::Array(named)) => Some(default_of(named)?),
            Some(_) => {
                return Err(ChatTemplateError::Field {
                    field: "chat_template".to_owned(),
                    expected: TEMPLATE_SHAPES,
                });
            }
        };
        Ok(Self {
            chat_template,
            special_tokens,
        })
    }
}

const TEMPLATE_SHAPES: &str = "a string, or a list of objects with a `name` and a `template`";

/// The template called `default` of a list of named ones.
fn default_of(named: &[serde_json::Value]) -> Result<String, ChatTemplateError> {
    let mut names = Vec::new();
    for entry in named {
        let text = |key| entry.get(key).and_then(serde_json::Value::as_str);
        let (Some(name), Some(template)) = (text("name"), text("template")) else {
            return Err(ChatTemplateError::Field {
                field: "chat_template".to_owned(),
                expected: TEMPLATE_SHAPES,
            });
        };
        if name == "default" {
            return Ok(template.to_owned());
        }
        names.push(name.to_owned());
    }
    Err(ChatTemplateError::NoDefault { names })
}

fn from_json(value: &serde_json::Value, bytes: &mut usize) -> Value {
    *bytes += size_of::<Value>();
    match value {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(flag) => Value::from(*flag),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (_, Some(integer)) => Value::from(integer),
            _ => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => {
            *bytes += text.len();
            Value::from(text.as_str())
        }
        serde_json::Value::Array(items) => Value::from(
            items
                .iter()
                .map(|v| from_json(v, bytes))
                .collect::<Vec<_>>(),
        ),
        serde_json::Value::Object(map) => Value::from_pairs(map.iter().map(|(key, value)| {
            *bytes += key.len();
            (key.as_str(), from_json(value, bytes))
        })),
    }
}

/// Why a chat template cannot be read or rendered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatTemplateError {
    /// Something is wrong with a file.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<ChatTemplateError>,
    },
    /// A file or a template is larger than any real one.
    #[error("{bytes} bytes are more than the {limit} that a chat template may take")]
    TooLarge {
        /// Its size in bytes.
        bytes: u64,
        /// The largest size that is read.
        limit: u64,
    },
    /// A file is not JSON.
    #[error("not JSON: {message}")]
    Json {
        /// The parser's words, with line and column.
        message: String,
    },
    /// A field has another type.
    #[error("{field} must be {expected}")]
    Field {
        /// The field.
        field: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A list of named templates has none called `default`.
    #[error("chat_template lists {names:?}, none of which is \"default\"")]
    NoDefault {
        /// The names there are.
        names: Vec<String>,
    },
    /// The template does not parse.
    #[error("the chat template does not parse, line {line}: {message}")]
    Syntax {
        /// The line, from 1; 0 where it is not known.
        line: usize,
        /// The engine's words.
        message: String,
    },
    /// The template fails while it renders.
    #[error("the chat template fails in line {line}: {message}")]
    Render {
        /// The line, from 1; 0 where it is not known.
        line: usize,
        /// The engine's words.
        message: String,
    },
    /// The template calls `raise_exception`: it does not take these messages.
    #[error("the chat template refuses the messages: {message}")]
    Raised {
        /// The template's words.
        message: String,
    },
    /// The template takes more than it may.
    #[error("the chat template goes beyond the limit on {limit}; no real template does")]
    Limit {
        /// What it takes too much of.
        limit: &'static str,
    },
    /// The template engine fails in itself.
    #[error("cannot run the chat template: {message}")]
    Internal {
        /// What happened.
        message: String,
    },
}

impl ChatTemplateError {
    /// The same, of a file.
    pub(crate) fn in_file(self, path: &Path) -> Self {
        match self {
            Self::File { .. } => self,
            source => Self::File {
                path: path.to_owned(),
                source: Box::new(source),
            },
        }
    }
}
