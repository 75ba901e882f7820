//! Added and special tokens of the files beside `tokenizer.json`, collected as transformers does.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value as Json};
use tokenizers::AddedToken;

use super::TokenizerError;
use super::error::{MAX_ADDED, MAX_ADDED_BYTES};
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

/// Refuses more added tokens than can be made ready within seconds, by their texts.
///
/// # Errors
///
/// [`TokenizerError::TooManyAdded`].
pub(super) fn check_added<'a>(
    texts: impl IntoIterator<Item = &'a str>,
) -> Result<(), TokenizerError> {
    let (mut tokens, mut bytes) = (0, 0);
    for text in texts {
        (tokens, bytes) = (tokens + 1, bytes + text.len());
    }
    match tokens > MAX_ADDED || bytes > MAX_ADDED_BYTES {
        true => Err(TokenizerError::TooManyAdded { tokens, bytes }),
        false => Ok(()),
    }
}

/// [`check_added`] of a `tokenizer.json`, before its reader makes them ready. What else is wrong with the file, its reader
/// says.
pub(super) fn check_added_of_file(json: &[u8]) -> Result<(), TokenizerError> {
    // An entry takes a hundred bytes beside its text.
    if json.len() <= MAX_ADDED_BYTES {
        return Ok(());
    }
    match serde_json::from_slice::<AddedTexts>(json) {
        Ok(AddedTexts(texts)) => check_added(texts.iter().map(|added| added.content.as_str())),
        Err(_) => Ok(()),
    }
}

/// The texts of the added tokens of a `tokenizer.json`.
#[derive(Default)]
struct AddedTexts(Vec<AddedText>);

#[derive(Deserialize)]
struct AddedText {
    content: String,
}

impl<'de> Deserialize<'de> for AddedTexts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AddedTextsVisitor)
    }
}

struct AddedTextsVisitor;

impl<'de> Visitor<'de> for AddedTextsVisitor {
    type Value = AddedTexts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tokenizer")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AddedTexts, A::Error> {
        let mut texts = AddedTexts::default();
        while let Some(key) = map.next_key::<String>()? {
            // The last one counts, as for the tokenizers crate.
            if key == "added_tokens" {
                texts.0 = map.next_value()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(texts)
    }
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
    use crate::text::tokenizer::vocabulary::added_token;
    use crate::text::tokenizer::{Tokenizer, TokenizerFiles};

    /// A `tokenizer.json` of two letters and these added tokens.
    fn file(added: impl Iterator<Item = String>) -> Vec<u8> {
        let added = added.enumerate();
        let added = added.map(|(at, text)| added_token(2 + at, &text, true, false).to_string());
        let added: Vec<String> = added.collect();
        let model = r#"{"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}"#;
        let added = added.join(",");
        format!(r#"{{"version": "1.0", "added_tokens": [{added}], "model": {model}}}"#).into_bytes()
    }

    fn too_many(error: TokenizerError) -> (usize, usize) {
        match error {
            TokenizerError::TooManyAdded { tokens, bytes } => (tokens, bytes),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn more_added_tokens_than_can_be_made_ready_are_refused() {
        let many = file((0..=MAX_ADDED).map(|at| format!("{at:06}")));
        let error = Tokenizer::from_bytes(&many).unwrap_err();
        assert_eq!(
            error.to_string(),
            "expected at most 131072 added tokens of 2 MiB together, found 131073 of 786438 bytes; leave out those for \
             which the model has no row"
        );
        let long = file((0..3).map(|at| format!("{at}").repeat(MAX_ADDED_BYTES / 2)));
        let error = Tokenizer::from_bytes(&long).unwrap_err();
        assert_eq!(too_many(error), (3, MAX_ADDED_BYTES / 2 * 3));
        // As Python writes it.
        let marked = [&b"\xef\xbb\xbf"[..], &long].concat();
        too_many(Tokenizer::from_bytes(&marked).unwrap_err());
        // Twice in one file, the last one counts.
        let twice = String::from_utf8(long)
            .unwrap()
            .replacen('{', "{\"added_tokens\": [],", 1);
        too_many(Tokenizer::from_bytes(twice.as_bytes()).unwrap_err());

        // In the files beside it; the same ones count once.
        let few = file((0..3).map(|at| format!("{at}")));
        let text = "x".repeat(MAX_ADDED_BYTES);
        let load = |added: &str| {
            let files = TokenizerFiles {
                tokenizer_json: Some(few.as_slice()),
                added_tokens: Some(added),
                ..TokenizerFiles::default()
            };
            files.load().map(|_| ())
        };
        let error = load(&json!({ text: 5 }).to_string()).unwrap_err();
        assert_eq!(too_many(error), (4, MAX_ADDED_BYTES + 3));
        load(r#"{"1": 3, "y": 5}"#).unwrap();
    }

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
