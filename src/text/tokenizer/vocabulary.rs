//! A vocabulary as GGUF and SentencePiece files hold it: tokens in the order of their ids, each of
//! a kind.
//!
//! Every token goes into the model's own vocabulary, the special ones too: that is what fixes its
//! id. The tokenizers crate numbers added tokens that are not in there by itself.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};
use tokenizers::AddedToken;

use super::TokenizerError;

/// What a token is, by the numbers that GGUF and SentencePiece share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A part of a text. Also what is never used, and unknown numbers.
    Normal,
    /// The token for what has no other.
    Unknown,
    /// A special token, which is no text.
    Control,
    /// A text that is never cut.
    UserDefined,
    /// One byte, spelled `<0xE2>`.
    Byte,
}

impl Kind {
    pub(crate) fn from_number(number: i64) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }

    /// Its number.
    #[cfg(feature = "gguf")]
    pub(crate) fn number(self) -> i32 {
        match self {
            Self::Normal => 1,
            Self::Unknown => 2,
            Self::Control => 3,
            Self::UserDefined => 4,
            Self::Byte => 6,
        }
    }
}

/// Tokens with their kinds; a token's id is its place.
#[derive(Debug, Clone)]
pub(crate) struct Vocabulary {
    tokens: Vec<String>,
    kinds: Vec<Kind>,
}

impl Vocabulary {
    /// Tokens with the numbers of their kinds. An empty token gets a name of its own, as in
    /// llama.cpp, which no text spells.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Duplicate`], [`TokenizerError::NoTokens`].
    pub(crate) fn new(mut tokens: Vec<String>, kinds: Vec<Kind>) -> Result<Self, TokenizerError> {
        for (id, token) in tokens.iter_mut().enumerate() {
            if token.is_empty() {
                *token = format!("[EMPTY_{id}]");
            }
        }
        let vocabulary = Self { tokens, kinds };
        if vocabulary.tokens.is_empty() {
            return Err(TokenizerError::NoTokens);
        }
        let mut ids: HashMap<&str, usize> = HashMap::with_capacity(vocabulary.tokens.len());
        for (id, token) in vocabulary.tokens.iter().enumerate() {
            if let Some(first) = ids.insert(token, id) {
                return Err(TokenizerError::Duplicate {
                    token: token.clone(),
                    first,
                    second: id,
                });
            }
        }
        Ok(vocabulary)
    }

    pub(crate) fn tokens(&self) -> &[String] {
        &self.tokens
    }

    pub(crate) fn into_tokens(self) -> Vec<String> {
        self.tokens
    }

    /// The kind of a token; normal for one beyond the kinds.
    pub(crate) fn kind(&self, id: usize) -> Kind {
        self.kinds.get(id).copied().unwrap_or(Kind::Normal)
    }

    /// Makes tokens that end or steer an answer special where the file has them as text.
    /// Returns those it changed.
    pub(crate) fn mark_control(&mut self, texts: &[&str]) -> Vec<&str> {
        let kinds = &mut self.kinds;
        kinds.resize(self.tokens.len(), Kind::Normal);
        let mut changed = Vec::new();
        for (token, kind) in self.tokens.iter().zip(kinds) {
            if texts.contains(&token.as_str()) && !matches!(kind, Kind::Control | Kind::Unknown) {
                *kind = Kind::Control;
                changed.push(token.as_str());
            }
        }
        changed
    }

    /// `vocab` of a `tokenizer.json`: every token with its id.
    pub(crate) fn vocab(&self) -> Map<String, Json> {
        let tokens = self.tokens.iter().enumerate();
        tokens
            .map(|(id, token)| (token.clone(), json!(id)))
            .collect()
    }

    /// `added_tokens` of a `tokenizer.json`: control and unknown tokens, which are special, and
    /// user-defined ones, which are not. `trims_right` is whether a token includes the white
    /// space after it.
    pub(crate) fn added_tokens(&self, trims_right: impl Fn(&str) -> bool) -> Vec<Json> {
        let tokens = self.tokens.iter().enumerate();
        tokens
            .filter_map(|(id, token)| {
                let special = match self.kind(id) {
                    Kind::Control | Kind::Unknown => true,
                    Kind::UserDefined => false,
                    Kind::Normal | Kind::Byte => return None,
                };
                Some(added_token(id, token, special, trims_right(token)))
            })
            .collect()
    }
}

/// The entries of `normalizer`, `pre_tokenizer` and `decoder` of a `tokenizer.json`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Steps {
    pub normalizer: Json,
    pub pre_tokenizer: Json,
    pub decoder: Json,
}

impl Steps {
    /// The content of a `tokenizer.json` with this model.
    pub(crate) fn tokenizer_json(
        self,
        model: Json,
        added_tokens: Vec<Json>,
        post_processor: Json,
    ) -> Json {
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added_tokens,
            "normalizer": self.normalizer,
            "pre_tokenizer": self.pre_tokenizer,
            "post_processor": post_processor,
            "decoder": self.decoder,
            "model": model,
        })
    }
}

/// A tokenizer without the tokens that the files beside it add.
#[derive(Default)]
pub(super) struct Base {
    pub json: Json,
    /// Tokens that the file itself makes special or never cuts.
    pub extra: Vec<AddedToken>,
    /// Special tokens where no file names others.
    pub defaults: Vec<(&'static str, String)>,
    /// Whether added tokens are matched before text is normalised, whatever their flags are.
    pub raw_added: bool,
    /// Whether the tokens around a text are set anew even where no file names them.
    pub bare: bool,
}

/// An entry of `added_tokens`.
pub(crate) fn added_token(id: usize, content: &str, special: bool, rstrip: bool) -> Json {
    json!({ "id": id, "content": content, "single_word": false, "lstrip": false,
        "rstrip": rstrip, "normalized": false, "special": special })
}

/// A post-processor that puts tokens, given with their ids, before and behind every text.
pub(crate) fn around(before: Option<(usize, &str)>, behind: Option<(usize, &str)>) -> Json {
    if before.is_none() && behind.is_none() {
        return Json::Null;
    }
    let special = |token: Option<(usize, &str)>, text: usize| {
        token.map(|(_, content)| json!({ "SpecialToken": { "id": content, "type_id": text } }))
    };
    let text = |name: &str, text: usize| -> Vec<Json> {
        let sequence = json!({ "Sequence": { "id": name, "type_id": text } });
        let tokens = special(before, text).into_iter().chain([sequence]);
        tokens.chain(special(behind, text)).collect()
    };
    let tokens: Map<String, Json> = [before, behind]
        .into_iter()
        .flatten()
        .map(|(id, content)| {
            let token = json!({ "id": content, "ids": [id], "tokens": [content] });
            (content.to_owned(), token)
        })
        .collect();
    let pair = [text("A", 0), text("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": pair,
        "special_tokens": tokens,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_has_its_place_as_its_id() {
        let texts = ["a", "", "<s>", "<u>", "<0x0A>"].map(String::from).to_vec();
        let kinds = [1, 5, 3, 4, 6].map(Kind::from_number).to_vec();
        let vocabulary = Vocabulary::new(texts, kinds).unwrap();
        let vocab = vocabulary.vocab();
        assert_eq!(vocab.len(), 5);
        for (id, token) in ["a", "[EMPTY_1]", "<s>", "<u>", "<0x0A>"]
            .iter()
            .enumerate()
        {
            assert_eq!(vocab[*token], id, "{token}");
        }
        let added = vocabulary.added_tokens(|token| token == "<u>");
        let flags = added
            .iter()
            .map(|t| (&t["id"], &t["special"], &t["rstrip"]));
        let expected = [json!([2, true, false]), json!([3, false, true])];
        for ((id, special, rstrip), expected) in flags.zip(expected) {
            assert_eq!(json!([id, special, rstrip]), expected);
        }
    }

    #[test]
    fn a_token_listed_twice_is_refused() {
        let texts = ["a", "b", "a"].map(String::from).to_vec();
        let error = Vocabulary::new(texts, Vec::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "expected each token of the vocabulary once, found \"a\" as token 0 and as token 2"
        );
        assert!(Vocabulary::new(Vec::new(), Vec::new()).is_err());
    }

    #[test]
    fn control_looking_tokens_become_control() {
        let texts = ["a", "<|im_end|>", "</s>"].map(String::from).to_vec();
        let kinds = [1, 1, 3].map(Kind::from_number).to_vec();
        let mut vocabulary = Vocabulary::new(texts, kinds).unwrap();
        assert_eq!(
            vocabulary.mark_control(&["<|im_end|>", "</s>"]),
            ["<|im_end|>"]
        );
        assert_eq!(vocabulary.kind(1), Kind::Control);
    }
}
