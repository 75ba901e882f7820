//! The `tokenizer.model` of Llama 3: a line for each token, its bytes in base64 and its rank.
//!
//! The rank is the token's id and the order of merging. Special tokens are in
//! `tokenizer_config.json`.

use std::collections::{BTreeSet, HashMap};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json, json};

use super::TokenizerError;
use super::byte_level::{ByteLevel, byte_characters};
use super::pre_tokenizer::PreTokenizer;
use super::vocabulary::{Base, added_token};

const FILE: &str = "tokenizer.model";

/// The longest token that is taken apart, in bytes. Llama 3's longest has 128.
const LONGEST: usize = 512;

/// Whether a `tokenizer.model` is of this kind: text whose first line is base64 and a number.
pub(super) fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    token(line).is_some()
}

fn token(line: &[u8]) -> Option<(Vec<u8>, u32)> {
    let line = std::str::from_utf8(line).ok()?;
    let (text, rank) = line.trim_end().split_once(' ')?;
    Some((STANDARD.decode(text).ok()?, rank.parse().ok()?))
}

/// The tokenizer, cutting words as Llama 3 does, as transformers does for all.
pub(super) fn base(bytes: &[u8], config: &Map<String, Json>) -> Result<Base, TokenizerError> {
    let wrong = |message: String| TokenizerError::Content {
        file: FILE,
        message,
    };
    let mut ranks: HashMap<Vec<u8>, u32> = HashMap::new();
    let mut tokens: Vec<(Vec<u8>, u32)> = Vec::new();
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let (text, rank) = token(line).ok_or_else(|| {
            wrong(format!(
                "line {}: expected base64, a space and a number",
                at + 1
            ))
        })?;
        if text.len() > LONGEST {
            return Err(wrong(format!(
                "line {}: a token of {} bytes",
                at + 1,
                text.len()
            )));
        }
        if ranks.insert(text.clone(), rank).is_some() {
            return Err(wrong(format!("line {}: a token that stands twice", at + 1)));
        }
        tokens.push((text, rank));
    }
    tokens.sort_by_key(|(_, rank)| *rank);
    let mut merges: Vec<(u32, u32, u32, [String; 2])> = Vec::new();
    let characters = byte_characters();
    let written = |bytes: &[u8]| -> String {
        bytes
            .iter()
            .map(|byte| characters[usize::from(*byte)])
            .collect()
    };
    for (text, rank) in &tokens {
        for at in 1..text.len() {
            let (left, right) = text.split_at(at);
            if let (Some(&l), Some(&r)) = (ranks.get(left), ranks.get(right)) {
                merges.push((*rank, l, r, [written(left), written(right)]));
            }
        }
    }
    merges.sort_by_key(|(rank, l, r, _)| (*rank, *l, *r));
    let words = PreTokenizer::named("llama-bpe").map_err(wrong)?;
    let vocab = tokens
        .iter()
        .map(|(text, rank)| (written(text), json!(rank)));
    let byte_level = ByteLevel {
        vocab: vocab.collect(),
        merges: merges
            .iter()
            .map(|(.., [left, right])| [left.as_str(), right.as_str()])
            .collect(),
        added_tokens: special_tokens(config, tokens.len()),
        words: *words,
        add_prefix_space: false,
        post_processor: Json::Null,
    };
    Ok(Base {
        json: byte_level.json(),
        ..Base::default()
    })
}

/// Special tokens behind the vocabulary, each at its id: where the configuration leaves an id out,
/// a reserved one.
fn special_tokens(config: &Map<String, Json>, vocab_size: usize) -> Vec<Json> {
    let decoder = config.get("added_tokens_decoder").and_then(Json::as_object);
    let named: HashMap<usize, &str> = decoder
        .into_iter()
        .flatten()
        .filter_map(|(id, token)| Some((id.parse().ok()?, token.get("content")?.as_str()?)))
        .collect();
    /// Most reserved tokens that are made up; Llama 3 has 256 special ones.
    const MOST: usize = 1 << 16;
    let end = named.keys().max().map_or(0, |last| last + 1);
    let end = end.min(vocab_size.saturating_add(MOST));
    let mut seen = BTreeSet::new();
    (vocab_size..end)
        .map(|id| match named.get(&id) {
            Some(text) => (id, (*text).to_owned()),
            None => (id, format!("<|reserved_token_{id}|>")),
        })
        .filter(|(_, text)| seen.insert(text.clone()))
        .map(|(id, text)| added_token(id, &text, true, false))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::TokenizerFiles;

    #[test]
    fn ranks_are_ids_and_merge_first_to_last() {
        let mut lines: Vec<String> = (0..=255u8)
            .map(|byte| format!("{} {byte}", STANDARD.encode([byte])))
            .collect();
        lines.push(format!("{} 256", STANDARD.encode("th")));
        lines.push(format!("{} 257", STANDARD.encode("the")));
        lines.push(format!("{} 258", STANDARD.encode("he")));
        let file = lines.join("\n");
        let config = r#"{"added_tokens_decoder": {"261": {"content": "<|eot_id|>", "special": true}},
            "bos_token": "<|eot_id|>", "add_bos_token": true}"#;
        let files = TokenizerFiles {
            tokenizer_model: Some(file.as_bytes()),
            tokenizer_config: Some(config),
            ..TokenizerFiles::default()
        };
        let tokenizer = files.load().unwrap().tokenizer;
        assert_eq!(tokenizer.encode("the", false).unwrap(), [257]);
        let ids = tokenizer.encode("thhe<|eot_id|>\u{e9}", true).unwrap();
        assert_eq!(ids, [261, 256, 258, 261, 0xc3, 0xa9]);
        assert_eq!(tokenizer.token_id("<|reserved_token_259|>"), Some(259));
    }

    #[test]
    fn bad_lines_are_named() {
        let config = Map::new();
        for (file, message) in [
            ("IQ== 0\nIg== x", "line 2: expected base64"),
            ("IQ== 0\nIQ== 1", "line 2: a token that stands twice"),
        ] {
            let error = base(file.as_bytes(), &config).err().unwrap().to_string();
            assert!(error.contains(message), "{error}");
        }
        assert!(!is_tiktoken(b"\n\x0e\n\x05<unk>"));
    }
}
