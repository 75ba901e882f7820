//! Added and special tokens of the files beside `tokenizer.json`, collected as transformers does.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value as Json};
use tokenizers::AddedToken;

use super::TokenizerError;
use super::special::{SpecialTokens, token};
use crate::quoted::{Quoted, cut};
use crate::text::json;

pub(super) const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// Tokens that warnings of one kind name.
pub(super) const NAMED: usize = 5;

/// Characters of a value that an error shows.
const SHOWN: usize = 100;

/// Adds the first warnings of one kind, and counts the others in one of their own.
pub(super) fn warn(
    warnings: &mut Vec<String>,
    mut all: impl Iterator<Item = String>,
    others: impl FnOnce(usize) -> String,
) {
    warnings.extend(all.by_ref().take(NAMED));
    match all.count() {
        0 => {}
        count => warnings.push(others(count)),
    }
}

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
                        "added_tokens_decoder: expected ids with tokens, found {:?}: {}",
                        Quoted(id),
                        cut(value, SHOWN)
                    ),
                })?);
            }
            let other = map
                .iter()
                .filter(|(name, text)| named.get(name) != Some(*text));
            let other = other.map(|(name, text)| {
                format!(
                    "{MAP} names {} `{}` and is not read, as in transformers, because {CONFIG} has \
                     added_tokens_decoder",
                    Quoted(name),
                    Quoted(text)
                )
            });
            warn(warnings, other, |count| {
                format!("{MAP} names {count} more tokens, which are not read either")
            });
        } else {
            for (name, token) in map.named {
                named.set(&name, token.special(true));
            }
            if let Some(text) = added_tokens {
                let special = named.special_texts();
                for (text, id) in object(text, ADDED)? {
                    let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                    let id = id.ok_or_else(|| TokenizerError::Content {
                        file: ADDED,
                        message: format!("expected the id of {:?}", Quoted(&text)),
                    })?;
                    let is_special = special.contains(text.as_str());
                    added.push((id, AddedToken::from(text, is_special)));
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
        let mut known: HashMap<&str, &AddedToken> = HashMap::new();
        for token in added
            .iter()
            .map(|(_, token)| token)
            .chain(existing.values())
        {
            known.entry(&token.content).or_insert(token);
        }
        for token in named.named.values_mut() {
            if let Some(&known) = known.get(token.content.as_str()) {
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
    let AddedTokens { named, added } = added_tokens;
    let known: HashSet<&AddedToken> = existing.values().collect();
    let contents = existing.values().map(|token| token.content.as_str());
    let mut there: HashSet<&str> = contents.collect();
    let mut tokens: Vec<AddedToken> = Vec::new();
    for (_, token) in added {
        if !known.contains(token) {
            there.insert(&token.content);
            tokens.push(token.clone());
        }
    }
    for token in named.named.values().chain(named.extra.iter().flatten()) {
        if there.insert(&token.content) {
            tokens.push(token.clone());
        }
    }
    let named: HashSet<&str> = named.iter().map(|(_, text)| text).collect();
    for token in &mut tokens {
        token.special |= named.contains(token.content.as_str());
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Also that the time does not grow with the square of the tokens, which would be minutes here.
    #[test]
    fn many_tokens_are_collected_and_few_named() {
        const COUNT: usize = 100_000;
        let name = |index: usize| format!("t{index}_token");
        let own: Map<String, Json> = (0..COUNT).map(|at| (name(at), json!(name(at)))).collect();
        let config: Map<String, Json> = own
            .into_iter()
            .chain([(
                "additional_special_tokens".into(),
                json!(["<a>", "t7_token"]),
            )])
            .collect();
        let added: Map<String, Json> = (0..COUNT).map(|at| (name(at), json!(at))).collect();
        let added = Json::Object(added).to_string();
        let existing = BTreeMap::from([(0, AddedToken::from("t0_token", true))]);
        let mut warnings = Vec::new();
        let read = AddedTokens::read(&config, None, Some(&added), &existing, &mut warnings);
        let tokens = tokens_to_add(&read.unwrap(), &existing);
        // All but the one that is there, and the one without a name.
        assert_eq!(tokens.len(), COUNT);
        assert!(tokens.iter().all(|token| token.special) && warnings.is_empty());

        let decoder = json!({ "added_tokens_decoder": { "1": "<b>" } });
        let map = Json::Object(config).to_string();
        let decoder = decoder.as_object().unwrap();
        let read = AddedTokens::read(decoder, Some(&map), None, &existing, &mut warnings);
        assert!(read.is_ok());
        assert_eq!(warnings.len(), NAMED + 1);
        assert!(
            warnings[NAMED].contains("99995 more"),
            "{}",
            warnings[NAMED]
        );
    }
}
