//! A `tokenizer.json` of a SentencePiece vocabulary with scores.
//!
//! SentencePiece merges the neighbours whose union has the highest score; a BPE merges the
//! neighbours that are first in its list. So the list is every way to make a piece out of two,
//! best piece first, which is also how transformers converts Llama 2's `tokenizer.model`.

use std::cmp::Ordering;
use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::TokenizerError;
use super::vocabulary::{Kind, Steps, Vocabulary};

/// SentencePiece's space.
pub(crate) const SPACE: &str = "\u{2581}";

/// The longest piece that is taken apart, in bytes. Real ones have at most 48; the work grows with
/// the square.
const LONGEST_PIECE: usize = 512;

/// What decides between merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rank {
    /// The score of the piece that a merge makes, then its id, then those of the two parts.
    Score,
    /// The id of the piece that a merge makes, then how long the parts are, as in transformers'
    /// `LlamaTokenizer`.
    Id,
}

/// How spaces are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefix {
    /// As in the text.
    None,
    /// One more before each stretch between added tokens.
    EveryStretch,
    /// As before each stretch, unless it begins with one.
    Always,
    /// One more before the text, unless it begins with one.
    Start,
}

impl Prefix {
    /// How text is prepared and put together again.
    pub(crate) fn steps(self) -> Steps {
        let mut decoders = vec![
            replace(SPACE, " "),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if self != Prefix::None {
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        let spaces = replace(" ", SPACE);
        let prepend = json!({ "type": "Prepend", "prepend": SPACE });
        let normalizers = match self {
            Prefix::None => vec![spaces],
            Prefix::EveryStretch => vec![prepend, spaces],
            Prefix::Always | Prefix::Start => Vec::new(),
        };
        let scheme = if self == Prefix::Start {
            "first"
        } else {
            "always"
        };
        let metaspace = json!({ "type": "Metaspace", "replacement": SPACE,
            "prepend_scheme": scheme, "split": false });
        let starts = matches!(self, Prefix::Always | Prefix::Start);
        Steps {
            normalizer: json!({ "type": "Sequence", "normalizers": normalizers }),
            pre_tokenizer: if starts { metaspace } else { Json::Null },
            decoder: json!({ "type": "Sequence", "decoders": decoders }),
        }
    }
}

pub(crate) fn replace(from: &str, to: &str) -> Json {
    json!({ "type": "Replace", "pattern": { "String": from }, "content": to })
}

/// What a BPE of SentencePiece pieces is made of.
pub(crate) struct Pieces<'a> {
    pub vocabulary: &'a Vocabulary,
    /// One for each piece.
    pub scores: &'a [f32],
    pub rank: Rank,
    /// The piece for what has no other.
    pub unknown: Option<&'a str>,
    /// Whether a character without a piece becomes its bytes.
    pub byte_fallback: bool,
    /// Whether a word that is a piece is taken whole.
    pub ignore_merges: bool,
    pub added_tokens: Vec<Json>,
    pub steps: Steps,
    pub post_processor: Json,
}

impl Pieces<'_> {
    /// The content of the `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::LongPiece`].
    pub(crate) fn json(self) -> Result<Json, TokenizerError> {
        let tokens = self.vocabulary.tokens();
        if let Some(id) = tokens.iter().position(|piece| piece.len() > LONGEST_PIECE) {
            return Err(TokenizerError::LongPiece {
                id,
                bytes: tokens[id].len(),
                limit: LONGEST_PIECE,
            });
        }
        // transformers' class merges pieces of every kind; SentencePiece only normal ones.
        let merged = |id: usize| match self.rank {
            Rank::Score => self.vocabulary.kind(id) == Kind::Normal,
            Rank::Id => true,
        };
        let pieces: Vec<Piece<'_>> = tokens
            .iter()
            .enumerate()
            .filter(|(id, _)| merged(*id))
            .map(|(id, text)| Piece {
                id,
                text,
                score: self.scores.get(id).copied().unwrap_or_default(),
            })
            .collect();
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": self.unknown,
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": true, "byte_fallback": self.byte_fallback,
            "ignore_merges": self.ignore_merges,
            "vocab": self.vocabulary.vocab(), "merges": merges(&pieces, self.rank),
        });
        let steps = self.steps;
        Ok(steps.tokenizer_json(model, self.added_tokens, self.post_processor))
    }
}

struct Piece<'a> {
    id: usize,
    text: &'a str,
    score: f32,
}

/// Every way to make a piece out of two others, best first.
fn merges<'a>(pieces: &[Piece<'a>], rank: Rank) -> Vec<[&'a str; 2]> {
    let ids: HashMap<&str, usize> = pieces.iter().map(|piece| (piece.text, piece.id)).collect();
    let mut ranked: Vec<(&Piece<'_>, usize, usize, [&str; 2])> = Vec::new();
    for piece in pieces {
        for (at, _) in piece.text.char_indices().skip(1) {
            let (left, right) = piece.text.split_at(at);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                ranked.push((piece, l, r, [left, right]));
            }
        }
    }
    let length = |text: &str| text.chars().count();
    ranked.sort_by(|a, b| {
        let first = match rank {
            Rank::Score => b.0.score.total_cmp(&a.0.score),
            Rank::Id => Ordering::Equal,
        };
        let second = a.0.id.cmp(&b.0.id);
        let third = match rank {
            Rank::Score => Ordering::Equal,
            Rank::Id => length(a.3[0]).cmp(&length(b.3[0])),
        };
        let parts = (a.1, a.2).cmp(&(b.1, b.2));
        first.then(second).then(third).then(parts)
    });
    ranked.into_iter().map(|(.., pair)| pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_are_in_the_order_of_scores_or_of_ids() {
        let piece = |(id, text, score)| Piece { id, text, score };
        let pieces = [
            (3, "ab", -2.0),
            (4, "a", -9.0),
            (5, "b", -9.0),
            (6, "c", -9.0),
            (7, "abc", -3.0),
            (8, "bc", -1.0),
        ]
        .map(piece);
        assert_eq!(
            merges(&pieces, Rank::Score),
            [["b", "c"], ["a", "b"], ["ab", "c"], ["a", "bc"]]
        );
        assert_eq!(
            merges(&pieces, Rank::Id),
            [["a", "b"], ["a", "bc"], ["ab", "c"], ["b", "c"]]
        );
    }
}
