//! The fields of one object, read without keeping those that no format has.
//!
//! A line may hold millions of small values. As a tree they would take many times the line's size,
//! so that whatever is not text in a known place is passed over while it is parsed.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{ProblemKind, SHOWN_KEYS};

/// The most characters of a key that are kept to be shown.
const LONGEST_KEY: usize = 40;

/// A value where text is looked for.
#[derive(Debug, PartialEq)]
pub(super) enum Field {
    /// Text.
    Text(String),
    /// A list; its first text.
    List(Option<String>),
    /// Null.
    Nothing,
    /// Anything else.
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
    /// The first keys of all, one more than are shown.
    pub(super) keys: Vec<String>,
}

/// What a conversation comes to.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// The user's last message that has an answer, and the answer.
    pub(super) answered: Option<(String, String)>,
    /// A message of the user's after that.
    pub(super) waiting: Option<String>,
    /// Whether something in it has another form than a message.
    pub(super) not_text: bool,
}

impl Field {
    /// The text, empty for null.
    pub(super) fn text(self, field: &'static str) -> Result<String, ProblemKind> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Nothing => Ok(String::new()),
            Self::List(_) | Self::Other => Err(ProblemKind::NotText { field }),
        }
    }

    /// The text, or the first of a list.
    pub(super) fn first_text(self, field: &'static str) -> Result<String, ProblemKind> {
        match self {
            Self::List(text) => Ok(text.unwrap_or_default()),
            other => other.text(field),
        }
    }
}

impl Record {
    /// Whether document or question stand under a name of their own.
    pub(super) fn names_its_parts(&self) -> bool {
        let names = [&self.document, &self.context, &self.question, &self.query];
        names.iter().any(|field| field.is_some())
    }
}

impl Messages {
    fn take(&mut self, message: Message) {
        let content = match message.content {
            Some(Content::Text(text)) => text,
            // A call of a tool comes without content.
            Some(Content::Nothing) | None => return,
            Some(Content::Other) => {
                self.not_text = true;
                return;
            }
        };
        match message.role.as_deref() {
            Some("user") => self.waiting = Some(content),
            Some("assistant") => match (self.waiting.take(), &mut self.answered) {
                (Some(user), answered) => *answered = Some((user, content)),
                (None, Some((_, answer))) => *answer = content,
                (None, None) => {}
            },
            _ => {}
        }
    }
}

/// One message of a conversation.
#[derive(Default)]
struct Message {
    role: Option<String>,
    content: Option<Content>,
}

/// The content of a message, or one part of it.
enum Content {
    Text(String),
    Nothing,
    Other,
}

/// Visitor methods for values that are not looked at; each takes the value from the parser.
macro_rules! other_values {
    ($other:expr, $nothing:expr) => {
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
            Ok($nothing)
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
    other_values!(Field::Other, Field::Nothing);

    fn visit_str<E>(self, text: &str) -> Result<Field, E> {
        Ok(Field::Text(text.into()))
    }

    fn visit_string<E>(self, text: String) -> Result<Field, E> {
        Ok(Field::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Field, A::Error> {
        let mut first = None;
        while first.is_none() {
            match list.next_element()? {
                Some(Text(text)) => first = text,
                None => return Ok(Field::List(None)),
            }
        }
        rest_of(list)?;
        Ok(Field::List(first))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Field, A::Error> {
        fields_of(map)?;
        Ok(Field::Other)
    }
});

/// A text, or nothing in the place of any other value.
struct Text(Option<String>);

deserialize_any!(Text, TextVisitor, "any value", {
    other_values!(Text(None), Text(None));

    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text(Some(text.into())))
    }

    fn visit_string<E>(self, text: String) -> Result<Text, E> {
        Ok(Text(Some(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Text, A::Error> {
        rest_of(list)?;
        Ok(Text(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Text, A::Error> {
        fields_of(map)?;
        Ok(Text(None))
    }
});

deserialize_any!(Record, RecordVisitor, "an object with a sample", {
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
        let mut record = Record::default();
        while let Some(key) = map.next_key::<String>()? {
            let field = match key.as_str() {
                "document" => &mut record.document,
                "context" => &mut record.context,
                "question" => &mut record.question,
                "query" => &mut record.query,
                "answer" => &mut record.answer,
                "instruction" => &mut record.instruction,
                "input" => &mut record.input,
                "output" => &mut record.output,
                _ => {
                    if key == "messages" {
                        record.messages = Some(map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                    record.keep(&key);
                    continue;
                }
            };
            *field = Some(map.next_value()?);
            record.keep(&key);
        }
        Ok(record)
    }
});

impl Record {
    fn keep(&mut self, key: &str) {
        if self.keys.len() <= SHOWN_KEYS {
            self.keys.push(key.chars().take(LONGEST_KEY).collect());
        }
    }
}

deserialize_any!(Messages, MessagesVisitor, "a list of messages", {
    other_values!(no_messages(), Messages::default());

    fn visit_str<E>(self, _: &str) -> Result<Messages, E> {
        Ok(no_messages())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Messages, A::Error> {
        let mut messages = Messages::default();
        while let Some(message) = list.next_element()? {
            messages.take(message);
        }
        Ok(messages)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Messages, A::Error> {
        fields_of(map)?;
        Ok(no_messages())
    }
});

fn no_messages() -> Messages {
    Messages {
        not_text: true,
        ..Messages::default()
    }
}

deserialize_any!(
    Message,
    MessageVisitor,
    "a message with role and content",
    {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message, A::Error> {
            let mut message = Message::default();
            while let Some(key) = map.next_key::<String>()? {
                match key.as_str() {
                    "role" => message.role = map.next_value::<Text>()?.0,
                    "content" => message.content = Some(map.next_value()?),
                    _ => {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
            }
            Ok(message)
        }
    }
);

deserialize_any!(Content, ContentVisitor, "any value", {
    other_values!(Content::Other, Content::Nothing);

    fn visit_str<E>(self, text: &str) -> Result<Content, E> {
        Ok(Content::Text(text.into()))
    }

    fn visit_string<E>(self, text: String) -> Result<Content, E> {
        Ok(Content::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Content, A::Error> {
        let mut all: Option<String> = None;
        while let Some(Part(text)) = parts.next_element()? {
            match (&mut all, text) {
                // A blank line keeps a document and a question in two parts apart.
                (Some(all), Some(text)) => {
                    all.push_str("\n\n");
                    all.push_str(&text);
                }
                (all, Some(text)) => *all = Some(text),
                (_, None) => {}
            }
        }
        Ok(all.map_or(Content::Nothing, Content::Text))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Content, A::Error> {
        fields_of(map)?;
        Ok(Content::Other)
    }
});

/// The text of one part of a content, if it has one; images have none.
struct Part(Option<String>);

deserialize_any!(Part, PartVisitor, "a part of a content", {
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Part, A::Error> {
        let mut text = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == "text" {
                text = map.next_value::<Text>()?.0;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Part(text))
    }
});

fn rest_of<'de, A: SeqAccess<'de>>(mut list: A) -> Result<(), A::Error> {
    while list.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

fn fields_of<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}
