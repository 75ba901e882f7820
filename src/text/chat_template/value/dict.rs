//! Dictionaries.

use std::rc::Rc;

use indexmap::IndexMap;
use num_bigint::BigInt;

use super::{Value, integral, nesting_above};
use crate::text::chat_template::fault::{Fault, Result};
use crate::text::chat_template::limits::{Budget, ITEM_BYTES};

/// A dictionary, in the order of insertion.
#[derive(Default, Clone)]
pub(crate) struct Dict {
    entries: IndexMap<Key, (Value, Value)>,
    pub(super) nesting: u16,
}

/// What Python compares and hashes of a key: `1`, `1.0` and `True` are the same key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Undefined,
    None,
    Int(BigInt),
    Float(u64),
    Str(Rc<str>),
    Tuple(Vec<Key>),
    Other(usize),
}

impl Key {
    pub(crate) fn of(value: &Value, budget: &Budget) -> Result<Self> {
        budget.steps(1)?;
        Ok(match value {
            Value::Undefined(_) => Self::Undefined,
            Value::None => Self::None,
            Value::Bool(flag) => Self::Int(BigInt::from(u8::from(*flag))),
            Value::Int(value) => Self::Int(value.clone()),
            Value::Float(value) => match integral(*value) {
                Some(value) => Self::Int(value),
                None => Self::Float(value.to_bits()),
            },
            Value::Str(text) | Value::Markup(text) => Self::Str(Rc::clone(text)),
            Value::Tuple(seq) => {
                budget.product(ITEM_BYTES, seq.items.len())?;
                Self::Tuple(
                    seq.items
                        .iter()
                        .map(|item| Self::of(item, budget))
                        .collect::<Result<_>>()?,
                )
            }
            Value::Range(range) => Self::Tuple(vec![
                Self::Other(0),
                Self::Int(range.start.into()),
                Self::Int(range.step.into()),
                Self::Int(range.length.into()),
            ]),
            Value::Namespace(namespace) => Self::Other(Rc::as_ptr(namespace) as usize),
            Value::Generator(generator) => Self::Other(Rc::as_ptr(generator) as usize),
            _ => {
                return Err(Fault::type_error(format!(
                    "unhashable type: '{}'",
                    value.type_name()
                )));
            }
        })
    }
}

impl Dict {
    pub(crate) fn insert(&mut self, key: Value, value: Value, budget: &Budget) -> Result<()> {
        budget.bytes(2 * ITEM_BYTES)?;
        let nesting = nesting_above([&key, &value].into_iter())?;
        self.nesting = self.nesting.max(nesting);
        match self.entries.entry(Key::of(&key, budget)?) {
            // Python keeps the first key where an equal one is assigned.
            indexmap::map::Entry::Occupied(mut entry) => entry.get_mut().1 = value,
            indexmap::map::Entry::Vacant(entry) => {
                entry.insert((key, value));
            }
        }
        Ok(())
    }

    pub(crate) fn get(&self, key: &Value, budget: &Budget) -> Result<Option<&Value>> {
        let key = Key::of(key, budget)?;
        Ok(self.entries.get(&key).map(|(_, value)| value))
    }

    pub(crate) fn get_str(&self, key: &str) -> Option<&Value> {
        let key = Key::Str(Rc::from(key));
        self.entries.get(&key).map(|(_, value)| value)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn keys(&self) -> impl DoubleEndedIterator<Item = &Value> {
        self.entries.values().map(|(key, _)| key)
    }

    pub(crate) fn values(&self) -> impl DoubleEndedIterator<Item = &Value> {
        self.entries.values().map(|(_, value)| value)
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&Value, &Value)> {
        self.entries.values().map(|(key, value)| (key, value))
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }
}
