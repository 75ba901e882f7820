//! Folders in the layouts that Hugging Face has, against what transformers makes of them:
//! `tests/fixtures/text/tokenizer_folders.py` wrote the ids.

use std::collections::BTreeMap;

use burn_apb::text::tokenizer::{LoadedTokenizer, TextPiece, TokenizerFiles};
use serde_json::Value;

const FIXTURE: &str = include_str!("../fixtures/text/tokenizer_folders.json");

/// The content of a folder's files by their names.
fn files(fixture: &Value, folder: &Value) -> BTreeMap<String, Vec<u8>> {
    let content = |value: &Value| -> Vec<u8> {
        let part = value.as_str().and_then(|name| fixture["parts"].get(name));
        let value = part.unwrap_or(value);
        match (value.as_str(), value.get("base64")) {
            (Some(text), _) => text.as_bytes().to_vec(),
            (None, Some(encoded)) => decode_base64(encoded.as_str().unwrap()),
            (None, None) => value.to_string().into_bytes(),
        }
    };
    let files = folder["files"].as_object().unwrap();
    files
        .iter()
        .map(|(name, value)| (name.clone(), content(value)))
        .collect()
}

fn decode_base64(text: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.bytes().filter(|byte| *byte != b'=');
    let digits = digits.map(|byte| alphabet.iter().position(|c| *c == byte).unwrap());
    let (mut bits, mut count, mut bytes) = (0usize, 0, Vec::new());
    for digit in digits {
        (bits, count) = ((bits << 6) | digit, count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    bytes
}

fn load(fixture: &Value, folder: &Value) -> LoadedTokenizer {
    let files = files(fixture, folder);
    let bytes = |name: &str| files.get(name).map(Vec::as_slice);
    let text = |name: &str| bytes(name).map(|bytes| std::str::from_utf8(bytes).unwrap());
    let files = TokenizerFiles {
        tokenizer_json: bytes("tokenizer.json"),
        tokenizer_config: text("tokenizer_config.json"),
        added_tokens: text("added_tokens.json"),
        special_tokens_map: text("special_tokens_map.json"),
        vocab_json: text("vocab.json"),
        merges_txt: text("merges.txt"),
        tokenizer_model: bytes("tokenizer.model"),
        model_type: folder["model_type"].as_str(),
    };
    files.load().unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

#[test]
fn every_layout_gives_the_tokens_of_transformers() {
    let fixture: Value = serde_json::from_str(FIXTURE).unwrap();
    let mut wrong = Vec::new();
    for (name, folder) in fixture["folders"].as_object().unwrap() {
        let loaded = load(&fixture, folder);
        let tokenizer = &loaded.tokenizer;
        let special: BTreeMap<&str, &str> = loaded.special_tokens.iter().collect();
        let expected: BTreeMap<String, String> =
            serde_json::from_value(folder["special_tokens"].clone()).unwrap();
        let expected: BTreeMap<&str, &str> = expected
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        if special != expected {
            wrong.push(format!(
                "{name}: special tokens {special:?}, expected {expected:?}"
            ));
        }
        let texts = fixture["texts"].as_array().unwrap();
        for (text, expected) in texts.iter().zip(folder["texts"].as_array().unwrap()) {
            let text = text.as_str().unwrap();
            let literal = [TextPiece::Literal(text)];
            let plain = ids(&expected["plain_ids"]);
            let found = [
                ("ids", tokenizer.encode(text, true).unwrap()),
                ("plain_ids", tokenizer.encode(text, false).unwrap()),
                (
                    "literal_ids",
                    tokenizer.encode_pieces(&literal, false).unwrap().ids,
                ),
            ];
            for (kind, found) in found {
                let expected = expected.get(kind).map_or_else(|| plain.clone(), ids);
                if found != expected {
                    wrong.push(format!(
                        "{name}: {kind} of {text:?}\n  {found:?}\n  {expected:?}"
                    ));
                }
            }
            let back = tokenizer.decode(&plain, false).unwrap();
            let expected = expected
                .get("decoded")
                .map_or(text, |text| text.as_str().unwrap());
            if back != expected {
                wrong.push(format!("{name}: decoded {back:?}, expected {expected:?}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn what_is_not_read_or_gets_another_id_is_a_warning() {
    let fixture: Value = serde_json::from_str(FIXTURE).unwrap();
    let folder = &fixture["folders"]["decoder_with_flags_and_a_gap"];
    let loaded = load(&fixture, folder);
    let warnings = loaded.warnings.join("\n");
    assert!(
        warnings.contains("`<pad>` has the id 323 by the files and gets 321"),
        "{warnings}"
    );
    assert!(
        warnings.contains("special_tokens_map.json names bos_token `<s>`"),
        "{warnings}"
    );
    let beyond = loaded.beyond(323).unwrap();
    assert!(
        beyond.starts_with("1 tokens are beyond the 323 rows"),
        "{beyond}"
    );
    assert_eq!(loaded.beyond(324), None);
}

#[test]
fn damaged_files_are_refused_by_name() {
    let fixture: Value = serde_json::from_str(FIXTURE).unwrap();
    let vocab = fixture["parts"]["vocab"].as_str().unwrap();
    let refused = |files: TokenizerFiles<'_>| files.load().unwrap_err().to_string();
    let none = TokenizerFiles::default();
    assert!(refused(none).contains("found none of them"));
    for (files, message) in [
        (
            TokenizerFiles {
                tokenizer_config: Some("[]"),
                ..none
            },
            "tokenizer_config.json: expected",
        ),
        (
            TokenizerFiles {
                tokenizer_model: Some(b"\x0a\xff"),
                ..none
            },
            "tokenizer.model: expected a SentencePiece model or lines of base64",
        ),
        (
            TokenizerFiles {
                vocab_json: Some(vocab),
                merges_txt: Some(""),
                ..none
            },
            "tokenizer_class other than Qwen2Tokenizer and GPT2Tokenizer (none named)",
        ),
        (
            TokenizerFiles {
                vocab_json: Some(vocab),
                merges_txt: Some("a b c"),
                tokenizer_config: Some(r#"{"tokenizer_class": "GPT2TokenizerFast"}"#),
                ..none
            },
            "merges.txt: expected two tokens",
        ),
        (
            TokenizerFiles {
                vocab_json: Some(vocab),
                merges_txt: Some("a nosuchtoken"),
                model_type: Some("qwen3"),
                ..none
            },
            "nosuchtoken",
        ),
    ] {
        let found = refused(files);
        assert!(found.contains(message), "{found}");
    }
}
