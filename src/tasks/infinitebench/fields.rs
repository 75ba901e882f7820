//! Values of the fields of a sample. One of another kind than expected is kept as the name of its kind, so
//! that the error can name field, expected and found, and takes no memory.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::{Place, PublishedError, shown};
use super::white::trim;

/// The most texts of a list. The longest published ones have about 30,000.
const MOST_TEXTS: usize = 1 << 17;

/// The most bytes of the texts of a list together.
const MOST_BYTES: usize = 1 << 20;

/// The value of a field.
#[derive(Debug)]
pub(in crate::tasks) enum Value {
    Text(String),
    /// As it is written, with decimals where it has any.
    Number(String),
    /// Texts and numbers, or what else there is. A list that is the only item of another is that list.
    List(Result<Vec<String>, &'static str>),
    /// Another value.
    Other(&'static str),
}

impl Default for Value {
    fn default() -> Self {
        Self::Other("no such field")
    }
}

impl Value {
    /// The text.
    pub(in crate::tasks) fn text(
        self,
        place: Place,
        field: &'static str,
    ) -> Result<String, PublishedError> {
        match self {
            Self::Text(text) => Ok(text),
            other => Err(PublishedError::field(place, field, "text", other.kind())),
        }
    }

    /// The text, which is not only white space.
    pub(in crate::tasks) fn filled(
        self,
        place: Place,
        field: &'static str,
    ) -> Result<String, PublishedError> {
        let text = self.text(place, field)?;
        if trim(&text).is_empty() {
            let expected = "text that is not only white space";
            return Err(PublishedError::field(place, field, expected, shown(&text)));
        }
        Ok(text)
    }

    /// The text, the number, or those of the list, at least one.
    pub(in crate::tasks) fn texts(
        self,
        place: Place,
        field: &'static str,
    ) -> Result<Vec<String>, PublishedError> {
        let found = match self {
            Self::List(Ok(texts)) if !texts.is_empty() => return Ok(texts),
            Self::Text(text) | Self::Number(text) if text.len() <= MOST_BYTES => {
                return Ok(vec![text]);
            }
            Self::Text(_) => "a longer text".into(),
            other => other.kind(),
        };
        let expected = "a text, a number, or a list of them, of at most 1048576 bytes";
        Err(PublishedError::field(place, field, expected, found))
    }

    fn kind(&self) -> String {
        match self {
            Self::Text(text) => format!("the text {}", shown(text)),
            Self::Number(number) => format!("the number {number}"),
            Self::List(Ok(texts)) if texts.is_empty() => "an empty list".into(),
            Self::List(Ok(_)) => "a list".into(),
            Self::List(Err(item)) => format!("a list with {item}"),
            Self::Other(kind) => (*kind).into(),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.into()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number.to_string()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number.to_string()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Number(format!("{number:?}")))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Other("a truth value"))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Other("null"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Other("an object"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = List::default();
        while let Some(item) = items.next_element()? {
            if let Err(refused) = list.push(item) {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Value::List(Err(refused)));
            }
        }
        Ok(Value::List(Ok(list.texts)))
    }
}

/// A list as it is read.
#[derive(Default)]
struct List {
    texts: Vec<String>,
    bytes: usize,
    /// The texts are those of a list in it.
    inner: bool,
}

impl List {
    fn push(&mut self, item: Value) -> Result<(), &'static str> {
        let mixed = "a list and other items";
        let text = match item {
            Value::List(Ok(texts)) if self.texts.is_empty() && !self.inner => {
                (self.texts, self.inner) = (texts, true);
                return Ok(());
            }
            Value::Text(text) | Value::Number(text) if !self.inner => text,
            Value::List(Err(refused)) => return Err(refused),
            Value::Other(kind) => return Err(kind),
            Value::List(Ok(_)) | Value::Text(_) | Value::Number(_) => return Err(mixed),
        };
        self.bytes = self.bytes.saturating_add(text.len());
        if self.bytes > MOST_BYTES {
            return Err("more than 1048576 bytes");
        }
        if self.texts.len() >= MOST_TEXTS {
            return Err("more than 131072 items");
        }
        self.texts.push(text);
        Ok(())
    }
}
