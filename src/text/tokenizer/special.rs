//! A tokenizer's special tokens by name, as a chat template sees them.

use serde_json::{Map, Value as Json};
use tokenizers::AddedToken;

/// The names that every tokenizer has.
pub(super) const NAMES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// The texts of special tokens by their names, such as `eos_token`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    named: Vec<(String, String)>,
    extra: Vec<String>,
}

impl SpecialTokens {
    /// The special tokens that a `tokenizer_config.json` names.
    pub fn from_config(config: &Map<String, Json>) -> Self {
        let named = Named::of(config);
        named.texts()
    }

    /// The text of a token by its name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut named = self.named.iter();
        let found = named.find(|(known, _)| known == name);
        found.map(|(_, text)| text.as_str())
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<&str> {
        self.get("bos_token")
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<&str> {
        self.get("eos_token")
    }

    /// The token for what no other stands for.
    pub fn unk(&self) -> Option<&str> {
        self.get("unk_token")
    }

    /// The token that fills up a batch.
    pub fn pad(&self) -> Option<&str> {
        self.get("pad_token")
    }

    /// Every name with its text, a model's own such as `image_token` too: the variables that a
    /// chat template gets.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.named
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// Special tokens without a name.
    pub fn extra(&self) -> &[String] {
        &self.extra
    }
}

/// Special tokens with their flags while they are collected.
#[derive(Debug, Clone, Default)]
pub(super) struct Named {
    pub named: Vec<(String, AddedToken)>,
    /// `None` where no file says.
    pub extra: Option<Vec<AddedToken>>,
}

impl Named {
    /// What a `tokenizer_config.json` names.
    pub(super) fn of(config: &Map<String, Json>) -> Self {
        let mut this = Self::default();
        for (name, value) in config {
            let known = NAMES.contains(&name.as_str());
            // Names of a model's own have plain texts; `add_bos_token` is a flag.
            if (known || (name.ends_with("_token") && value.is_string()))
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
                this.extra = Some(
                    tokens
                        .iter()
                        .filter_map(|value| token(value, true))
                        .collect(),
                );
            }
            _ => {}
        }
        this
    }

    pub(super) fn set(&mut self, name: &str, token: AddedToken) {
        match self.named.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = token,
            None => self.named.push((name.to_owned(), token)),
        }
    }

    /// Sets a token where none of that name is.
    pub(super) fn set_default(&mut self, name: &str, text: &str) {
        if self.get(name).is_none() {
            self.set(name, AddedToken::from(text, true));
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&AddedToken> {
        let found = self.named.iter().find(|(known, _)| known == name);
        found.map(|(_, token)| token)
    }

    /// Whether a text is one of the common names' or of those without a name.
    pub(super) fn is_special(&self, text: &str) -> bool {
        let mut named = self.named.iter();
        named.any(|(name, token)| NAMES.contains(&name.as_str()) && token.content == text)
            || self
                .extra
                .iter()
                .flatten()
                .any(|token| token.content == text)
    }

    pub(super) fn texts(&self) -> SpecialTokens {
        let named = self.named.iter();
        let extra = self.extra.iter().flatten();
        SpecialTokens {
            named: named
                .map(|(name, token)| (name.clone(), token.content.clone()))
                .collect(),
            extra: extra.map(|token| token.content.clone()).collect(),
        }
    }
}

fn is_empty(value: &Json) -> bool {
    match value {
        Json::Array(items) => items.is_empty(),
        Json::Object(items) => items.is_empty(),
        other => other.is_null(),
    }
}

/// A token that a file gives as a text or as an object with flags; `special` where it does not say.
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
        let tokens = SpecialTokens::from_config(config.as_object().unwrap());
        assert_eq!((tokens.bos(), tokens.eos()), (Some("<s>"), Some("</s>")));
        assert_eq!((tokens.unk(), tokens.pad()), (None, None));
        let named: Vec<(&str, &str)> = tokens.iter().collect();
        let expected = [
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("image_token", "<image>"),
        ];
        assert_eq!(named, expected);
        assert_eq!(tokens.extra(), ["<a>", "<b>"]);
    }
}
