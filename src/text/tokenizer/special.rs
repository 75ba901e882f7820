//! A tokenizer's special tokens by name, as a chat template sees them.

use std::collections::HashSet;

use indexmap::IndexMap;
use serde_json::{Map, Value as Json};
use tokenizers::AddedToken;

use crate::quoted::Quoted;

/// The special tokens of a tokenizer by their names, such as `eos_token`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    pub(super) named: IndexMap<String, AddedToken>,
    /// Those without a name; `None` where no file has any.
    pub(super) extra: Option<Vec<AddedToken>>,
}

/// A special token that a file gives as something else than a text or an object with a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} must be a string, or an object whose `content` is one",
    Quoted(name)
)]
pub struct SpecialTokenError {
    /// The name of the token.
    pub name: String,
}

impl SpecialTokens {
    /// The special tokens that a `tokenizer_config.json` names.
    ///
    /// # Errors
    ///
    /// [`SpecialTokenError`] for the first that is not a token.
    pub(crate) fn from_config(config: &Map<String, Json>) -> Result<Self, SpecialTokenError> {
        let common = config.iter().filter(|(name, _)| is_common(name));
        let own = config.get("extra_special_tokens").and_then(Json::as_object);
        for (name, value) in common.chain(own.into_iter().flatten()) {
            if !value.is_null() && token(value, true).is_none() {
                return Err(SpecialTokenError { name: name.clone() });
            }
        }
        Ok(Self::of(config))
    }

    /// The special tokens that a file names, without what is no token.
    pub(super) fn of(config: &Map<String, Json>) -> Self {
        let mut this = Self::default();
        for (name, value) in config {
            // Names of a model's own have plain texts; `add_bos_token` is a flag.
            if (is_common(name) || (name.ends_with("_token") && value.is_string()))
                && let Some(token) = token(value, true)
            {
                this.set(name, token);
            }
        }
        let extra = ["extra_special_tokens", "additional_special_tokens"]
            .into_iter()
            .find_map(|key| config.get(key).filter(|value| !is_empty(value)));
        match extra {
            Some(Json::Object(tokens)) => {
                for (name, value) in tokens {
                    if let Some(token) = token(value, true) {
                        this.set(name, token);
                    }
                }
            }
            Some(Json::Array(tokens)) => {
                let tokens = tokens.iter().filter_map(|value| token(value, true));
                this.extra = Some(tokens.collect());
            }
            _ => {}
        }
        this
    }

    /// The text of a token by its name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.named.get(name).map(|token| token.content.as_str())
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<&str> {
        self.get("bos_token")
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<&str> {
        self.get("eos_token")
    }

    /// Every name with its text, a model's own such as `image_token` too: the variables that a
    /// chat template gets.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let named = self.named.iter();
        named.map(|(name, token)| (name.as_str(), token.content.as_str()))
    }

    /// The texts of special tokens without a name.
    pub fn extra(&self) -> impl Iterator<Item = &str> {
        let extra = self.extra.iter().flatten();
        extra.map(|token| token.content.as_str())
    }

    pub(super) fn set(&mut self, name: &str, token: AddedToken) {
        self.named.insert(name.to_owned(), token);
    }

    /// Sets a token where none of that name is.
    pub(super) fn set_default(&mut self, name: &str, text: &str) {
        if self.get(name).is_none() {
            self.set(name, AddedToken::from(text, true));
        }
    }

    /// The texts of the tokens with a common name and of those without a name.
    pub(super) fn special_texts(&self) -> HashSet<&str> {
        let common = self.iter().filter(|(name, _)| is_common(name));
        common.map(|(_, text)| text).chain(self.extra()).collect()
    }
}

/// Whether every tokenizer has a token of this name.
fn is_common(name: &str) -> bool {
    let kind = name.strip_suffix("_token");
    kind.is_some_and(|kind| ["bos", "eos", "unk", "sep", "pad", "cls", "mask"].contains(&kind))
}

fn is_empty(value: &Json) -> bool {
    match value {
        Json::Array(items) => items.is_empty(),
        Json::Object(items) => items.is_empty(),
        other => other.is_null(),
    }
}

/// A token that a file gives as a text or as an object with flags; `special` is the default of that flag.
pub(super) fn token(value: &Json, special: bool) -> Option<AddedToken> {
    if let Some(text) = value.as_str() {
        return Some(AddedToken::from(text, special));
    }
    let content = value.get("content")?.as_str()?;
    let flag =
        |name: &str, default: bool| value.get(name).and_then(Json::as_bool).unwrap_or(default);
    let special = flag("special", special);
    Some(
        AddedToken::from(content, special)
            .single_word(flag("single_word", false))
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .normalized(flag("normalized", !special)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tokens_are_texts_objects_or_nothing() {
        let config = json!({
            "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": true},
            "eos_token": "</s>", "unk_token": null, "image_token": "<image>",
            "add_bos_token": true, "additional_special_tokens": ["<a>", {"content": "<b>"}],
        });
        let tokens = SpecialTokens::from_config(config.as_object().unwrap()).unwrap();
        assert_eq!((tokens.bos(), tokens.eos()), (Some("<s>"), Some("</s>")));
        assert_eq!(
            (tokens.get("unk_token"), tokens.get("pad_token")),
            (None, None)
        );
        let named: Vec<(&str, &str)> = tokens.iter().collect();
        let expected = [
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("image_token", "<image>"),
        ];
        assert_eq!(named, expected);
        assert_eq!(tokens.extra().collect::<Vec<_>>(), ["<a>", "<b>"]);
        let config = json!({"cls_token": {"id": 1}});
        let error = SpecialTokens::from_config(config.as_object().unwrap()).unwrap_err();
        assert_eq!(error.name, "cls_token");
    }
}
