//! Added and special tokens of the files beside `tokenizer.json`, collected as transformers does.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};
use tokenizers::AddedToken;

use super::TokenizerError;
use super::special::{SpecialTokens, token};
use crate::text::json;

pub(super) const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// The tokens that the files beside a tokenizer add, as transformers collects them.
pub(super) struct AddedTokens {
    pub named: SpecialTokens,
    /// Added tokens by the ids that the files give them.
    pub added: Vec<(u32, AddedToken)>,
}

impl AddedTokens {
    /// Reads the files beside `tokenizer.json`: the configuration, `special_tokens_map.json` and
    /// `added_tokens.json`.
    pub(super) fn read(
        config: &Map<String, Json>,
        map: Option<&str>,
        added_tokens: Option<&str>,
        existing: &BTreeMap<u32, AddedToken>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, TokenizerError> {
        let mut named = SpecialTokens::of(config);
        let mut added: Vec<(u32, AddedToken)> = Vec::new();
        let map = SpecialTokens::of(&map.map_or(Ok(Map::new()), |text| object(text, MAP))?);
        if let Some(decoder) = config.get("added_tokens_decoder").and_then(Json::as_object) {
            for (id, value) in decoder {
                let entry = id.parse().ok().zip(token(value, false));
                added.push(entry.ok_or_else(|| TokenizerError::Content {
                    file: CONFIG,
                    message: format!(
                        "added_tokens_decoder: expected ids with tokens, found {id:?}: {value}"
                    ),
                })?);
            }
            for (name, text) in map.iter() {
                if named.get(name) != Some(text) {
                    warnings.push(format!(
                        "{MAP} names {name} `{text}` and is not read, as in transformers, because \
                         {CONFIG} has added_tokens_decoder"
                    ));
                }
            }
        } else {
            for (name, token) in map.named {
                named.set(&name, token.special(true));
            }
            if let Some(text) = added_tokens {
                for (text, id) in object(text, ADDED)? {
                    let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                    let id = id.ok_or_else(|| TokenizerError::Content {
                        file: ADDED,
                        message: format!("expected the id of {text:?}"),
                    })?;
                    added.push((id, AddedToken::from(text.as_str(), named.is_special(&text))));
                }
            }
            added.retain(|(id, _)| !existing.contains_key(id));
            // Behind the added tokens, which these do not make special.
            if let (None, Some(extra)) = (&named.extra, map.extra) {
                named.extra = Some(extra);
            }
        }
        added.sort_by_key(|(id, _)| *id);
        // A named token has the flags that it has among the added ones.
        for (_, token) in &mut named.named {
            let added = added.iter().map(|(_, token)| token);
            let mut known = added.chain(existing.values());
            if let Some(known) = known.find(|known| known.content == token.content) {
                *token = known.clone();
            }
        }
        Ok(AddedTokens { named, added })
    }
}

/// The tokens that a tokenizer does not have yet, or has with other flags.
pub(super) fn tokens_to_add(
    added_tokens: &AddedTokens,
    existing: &BTreeMap<u32, AddedToken>,
) -> Vec<AddedToken> {
    let mut tokens: Vec<AddedToken> = Vec::new();
    for (_, token) in &added_tokens.added {
        if !existing.values().any(|known| known == token) {
            tokens.push(token.clone());
        }
    }
    let named = added_tokens.named.named.iter().map(|(_, token)| token);
    for token in named.chain(added_tokens.named.extra.iter().flatten()) {
        let known = |known: &AddedToken| known.content == token.content;
        if !existing.values().any(known) && !tokens.iter().any(known) {
            tokens.push(token.clone());
        }
    }
    for token in &mut tokens {
        let mut named = added_tokens.named.named.iter();
        token.special |= named.any(|(_, named)| named.content == token.content);
    }
    tokens
}

/// The object that a JSON file holds.
pub(super) fn object(text: &str, file: &'static str) -> Result<Map<String, Json>, TokenizerError> {
    let wrong = |message: String| TokenizerError::Content { file, message };
    match json::from_str(text) {
        Ok(Json::Object(object)) => Ok(object),
        Ok(_) => Err(wrong("expected a JSON object".to_owned())),
        Err(error) => Err(wrong(error.to_string())),
    }
}
