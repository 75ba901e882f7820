//! The fields of one object.
//!
//! A line may hold millions of small values. As a tree they would take many times the size of the line,
//! so values that no format uses are dropped while they are parsed.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::training::data::report::{ProblemKind, SHOWN_KEYS};

/// The most characters of a key that are kept to be shown.
const LONGEST_KEY: usize = 40;

/// A value that may hold text.
#[derive(Debug, Default, PartialEq)]
pub(super) enum Field {
    #[default]
    Null,
    Text(String),
    List {
        /// The first text of the list.
        first: Option<String>,
        /// The texts of its objects, with a blank line between: the parts of a message.
        parts: Option<String>,
    },
    /// An object, with the text under the key `text`.
    Object(Option<String>),
    Other,
}

/// The fields of all formats.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) document: Option<Field>,
    pub(super) context: Option<Field>,
    pub(super) question: Option<Field>,
    pub(super) query: Option<Field>,
    pub(super) answer: Option<Field>,
    pub(super) instruction: Option<Field>,
    pub(super) input: Option<Field>,
    pub(super) output: Option<Field>,
    pub(super) messages: Option<Messages>,
    /// The first keys, one more than are shown.
    pub(super) keys: Vec<String>,
}

/// The messages of a conversation that a sample is made from.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// The user's last message that has an answer, and the answer.
    pub(super) answered: Option<(String, String)>,
    /// A later message of the user.
    pub(super) unanswered: Option<String>,
    /// Whether a value has another form than a message with text.
    pub(super) not_text: bool,
}

/// One message.
#[derive(serde::Deserialize)]
#[serde(expecting = "a message with role and content")]
struct Message {
    #[serde(default)]
    role: Field,
    #[serde(default)]
    content: Field,
}

impl Field {
    /// The text, empty for null.
    pub(super) fn text(self, field: &'static str) -> Result<String, ProblemKind> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Null => Ok(String::new()),
            _ => Err(ProblemKind::NotText { field }),
        }
    }

    /// The text, or the first of a list.
    pub(super) fn first_text(self, field: &'static str) -> Result<String, ProblemKind> {
        match self {
            Self::List { first, .. } => Ok(first.unwrap_or_default()),
            other => other.text(field),
        }
    }
}

impl Record {
    /// Whether document or question have a key of their own.
    pub(super) fn has_parts(&self) -> bool {
        let names = [&self.document, &self.context, &self.question, &self.query];
        names.iter().any(|field| field.is_some())
    }

    fn add_key(&mut self, key: &str) {
        if self.keys.len() <= SHOWN_KEYS {
            self.keys.push(key.chars().take(LONGEST_KEY).collect());
        }
    }
}

impl Messages {
    fn add(&mut self, message: Message) {
        let content = match message.content {
            Field::Text(text)
            | Field::List {
                parts: Some(text), ..
            } => text,
            // A call of a tool has no content.
            Field::Null | Field::List { first: None, .. } => return,
            _ => {
                self.not_text = true;
                return;
            }
        };
        match message.role {
            Field::Text(role) if role == "user" => self.unanswered = Some(content),
            Field::Text(role) if role == "assistant" => {
                match (self.unanswered.take(), &mut self.answered) {
                    (Some(user), answered) => *answered = Some((user, content)),
                    (None, Some((_, answer))) => *answer = content,
                    (None, None) => {}
                }
            }
            _ => {}
        }
    }
}

/// Visitor methods for values without text.
macro_rules! values_without_text {
    ($other:expr, $null:expr) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($other)
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($other)
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($other)
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($other)
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($null)
        }
    };
}

macro_rules! deserialize_any {
    ($type:ty, $visitor:ident, $expecting:literal, { $($methods:tt)* }) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any($visitor)
            }
        }

        struct $visitor;

        impl<'de> Visitor<'de> for $visitor {
            type Value = $type;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($expecting)
            }

            $($methods)*
        }
    };
}

deserialize_any!(Field, FieldVisitor, "any value", {
    values_without_text!(Field::Other, Field::Null);

    fn visit_str<E>(self, text: &str) -> Result<Field, E> {
        Ok(Field::Text(text.into()))
    }

    fn visit_string<E>(self, text: String) -> Result<Field, E> {
        Ok(Field::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Field, A::Error> {
        let (mut first, mut parts) = (None, None::<String>);
        while let Some(element) = list.next_element()? {
            match (element, &mut parts) {
                (Field::Text(text), _) if first.is_none() => first = Some(text),
                (Field::Object(Some(text)), Some(parts)) => {
                    parts.push_str("\n\n");
                    parts.push_str(&text);
                }
                (Field::Object(Some(text)), parts) => *parts = Some(text),
                _ => {}
            }
        }
        Ok(Field::List { first, parts })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "text" {
                map.next_value::<IgnoredAny>()?;
            } else if let Field::Text(text) = map.next_value()? {
                found = Some(text);
            }
        }
        Ok(Field::Object(found))
    }
});

deserialize_any!(Record, RecordVisitor, "an object with a sample", {
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
        let mut record = Record::default();
        while let Some(key) = map.next_key::<String>()? {
            record.add_key(&key);
            let field = match key.as_str() {
                "document" => &mut record.document,
                "context" => &mut record.context,
                "question" => &mut record.question,
                "query" => &mut record.query,
                "answer" => &mut record.answer,
                "instruction" => &mut record.instruction,
                "input" => &mut record.input,
                "output" => &mut record.output,
                "messages" => {
                    record.messages = Some(map.next_value()?);
                    continue;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *field = Some(map.next_value()?);
        }
        Ok(record)
    }
});

/// A value that is not a list of messages.
fn not_messages() -> Messages {
    Messages {
        not_text: true,
        ..Messages::default()
    }
}

deserialize_any!(Messages, MessagesVisitor, "a list of messages", {
    values_without_text!(not_messages(), Messages::default());

    fn visit_str<E>(self, _: &str) -> Result<Messages, E> {
        Ok(not_messages())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Messages, A::Error> {
        let mut messages = Messages::default();
        while let Some(message) = list.next_element()? {
            messages.add(message);
        }
        Ok(messages)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Messages, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(not_messages())
    }
});
