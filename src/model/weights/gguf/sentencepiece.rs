//! A SentencePiece vocabulary with scores as a `tokenizer.json`.
//!
//! SentencePiece merges the neighbours whose union has the highest score; a BPE merges the
//! neighbours that stand first in its list. So the list is every way to make a piece out of two,
//! best piece first, which is also how transformers converts Llama 2's `tokenizer.model`.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use super::error::GgufError;
use super::tokenizer::token;
use super::{Gguf, Value};

/// SentencePiece's space.
const SPACE: &str = "\u{2581}";

/// The longest piece that is taken apart, in bytes. Real ones have at most 48; the work grows with
/// the square.
const LONGEST_PIECE: usize = 512;

pub(super) fn tokenizer(gguf: &Gguf) -> Result<Json, GgufError> {
    let vocabulary = gguf.vocabulary()?;
    let key = "tokenizer.ggml.scores";
    let scores = match gguf.get(key) {
        Some(Value::Floats(scores)) if scores.len() == vocabulary.tokens.len() => scores,
        Some(other) => {
            return Err(Gguf::wrong(
                key,
                "an array with one float for each token",
                other,
            ));
        }
        None => return Err(GgufError::MissingKey { key: key.into() }),
    };
    if let Some(long) = vocabulary
        .tokens
        .iter()
        .find(|piece| piece.len() > LONGEST_PIECE)
    {
        let found = format!("one of {} bytes", long.len());
        return Err(GgufError::WrongValue {
            key: "tokenizer.ggml.tokens".into(),
            expected: "pieces of at most 512 bytes",
            found,
        });
    }
    let pieces: Vec<(usize, &str, f32)> = vocabulary
        .tokens
        .iter()
        .zip(scores)
        .enumerate()
        .filter(|(id, _)| vocabulary.kind(*id) == token::NORMAL)
        .map(|(id, (piece, score))| (id, piece.as_str(), *score))
        .collect();
    let unknown = match gguf.token_id("unknown")? {
        Some(id) => Some(id),
        None => (0..vocabulary.tokens.len()).find(|&id| vocabulary.kind(id) == token::UNKNOWN),
    };
    let bytes = (0..vocabulary.tokens.len()).any(|id| vocabulary.kind(id) == token::BYTE);
    let vocab: Map<String, Json> = vocabulary
        .tokens
        .iter()
        .enumerate()
        .map(|(id, piece)| (piece.clone(), json!(id)))
        .collect();

    let prefixed = gguf
        .flag("tokenizer.ggml.add_space_prefix")?
        .unwrap_or(true);
    let replace = |from: &str, to: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
    let mut normalizers = vec![replace(" ", SPACE)];
    let mut decoders = vec![
        replace(SPACE, " "),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefixed {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": SPACE }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added(&[token::UNKNOWN, token::CONTROL, token::USER_DEFINED]),
        "normalizer": { "type": "Sequence", "normalizers": normalizers },
        "pre_tokenizer": null,
        "post_processor": gguf.post_processor(None)?,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown.map(|id| &vocabulary.tokens[id]),
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": true, "byte_fallback": bytes, "ignore_merges": false,
            "vocab": vocab, "merges": merges(&pieces),
        },
    }))
}

/// Every way to make a piece out of two others, best score first; ties in the order of the
/// vocabulary, then of the two parts.
fn merges<'a>(pieces: &[(usize, &'a str, f32)]) -> Vec<[&'a str; 2]> {
    let ids: HashMap<&str, usize> = pieces.iter().map(|&(id, piece, _)| (piece, id)).collect();
    let mut ranked: Vec<(f32, usize, usize, usize, [&str; 2])> = Vec::new();
    for &(id, piece, score) in pieces {
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                ranked.push((score, id, l, r, [left, right]));
            }
        }
    }
    ranked.sort_by(|a, b| {
        b.0.total_cmp(&a.0)
            .then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3)))
    });
    ranked.into_iter().map(|(.., pair)| pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_stand_in_the_order_of_scores() {
        let pieces = [
            (3, "ab", -2.0),
            (4, "a", -9.0),
            (5, "b", -9.0),
            (6, "c", -9.0),
            (7, "abc", -3.0),
            (8, "bc", -1.0),
        ];
        assert_eq!(
            merges(&pieces),
            [["b", "c"], ["a", "b"], ["ab", "c"], ["a", "bc"]]
        );
    }
}
