//! A tokenizer taken apart, as far as it can be written in another format.

use std::collections::HashMap;

use serde_json::Value as Json;
use tokenizers::AddedToken;
use tokenizers::models::ModelWrapper;

use super::pre_tokenizer::{DIGIT, GPT2, NUMBER};
use super::sentencepiece::{Prefix, SPACE};
use super::vocabulary::Kind;
use super::{Tokenizer, guard};

/// The parts of a BPE.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The token of every id; none where there is a gap.
    pub tokens: Vec<Option<String>>,
    /// The kind of every id.
    pub kinds: Vec<Kind>,
    /// Tokens beside the vocabulary's pieces.
    pub added: Vec<AddedToken>,
    /// The merges in the order of their ranks.
    pub merges: Vec<[String; 2]>,
    /// Whether a word that is a token stays whole.
    pub ignore_merges: bool,
    /// How text is cut.
    pub cut: Cut,
}

/// How text is cut into what is merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cut {
    /// By regular expressions, applied in order, into words, whose bytes are merged.
    Words {
        patterns: Vec<String>,
        /// Whether text is brought into Unicode's normal form C first.
        nfc: bool,
    },
    /// Not at all: characters are merged, and those without a piece become their bytes.
    Pieces(Prefix),
}

impl Tokenizer {
    /// The parts, or what of the tokenizer has none.
    pub(crate) fn parts(&self) -> Result<Parts, String> {
        let ModelWrapper::BPE(bpe) = self.inner.get_model() else {
            return Err("a model other than BPE".into());
        };
        let affix = |affix: &Option<String>| affix.as_ref().is_some_and(|text| !text.is_empty());
        if affix(&bpe.continuing_subword_prefix) || affix(&bpe.end_of_word_suffix) {
            return Err("continuing_subword_prefix or end_of_word_suffix".into());
        }
        if bpe.dropout.is_some_and(|dropout| dropout != 0.0) {
            return Err("dropout".into());
        }
        let cut = self.cut(bpe.byte_fallback)?;
        if bpe.ignore_merges && matches!(cut, Cut::Pieces(_)) {
            return Err("ignore_merges beside pieces".into());
        }
        let mut tokens = vec![None; self.vocab_size];
        let mut kinds = vec![Kind::Normal; self.vocab_size];
        for (token, id) in self.inner.get_vocab(false) {
            if matches!(cut, Cut::Pieces(_)) && is_byte(&token) {
                kinds[id as usize] = Kind::Byte;
            }
            tokens[id as usize] = Some(token);
        }
        let mut added: Vec<(u32, AddedToken)> =
            self.inner.get_added_tokens_decoder().into_iter().collect();
        added.sort_by_key(|(id, _)| *id);
        for (id, token) in &added {
            kinds[*id as usize] = match token.special {
                true if bpe.unk_token.as_ref() == Some(&token.content) => Kind::Unknown,
                true => Kind::Control,
                false => Kind::UserDefined,
            };
            tokens[*id as usize] = Some(token.content.clone());
        }
        let json = guard(|| Ok(serde_json::to_value(bpe)?))?;
        Ok(Parts {
            tokens,
            kinds,
            added: added.into_iter().map(|(_, token)| token).collect(),
            merges: serde_json::from_value(json["merges"].clone()).map_err(|e| e.to_string())?,
            ignore_merges: bpe.ignore_merges,
            cut,
        })
    }

    fn cut(&self, byte_fallback: bool) -> Result<Cut, String> {
        let normalizer = guard(|| Ok(serde_json::to_value(self.inner.get_normalizer())?))?;
        let pre_tokenizer = guard(|| Ok(serde_json::to_value(self.inner.get_pre_tokenizer())?))?;
        let normalizers = steps(&normalizer, "normalizers");
        let cuts = steps(&pre_tokenizer, "pretokenizers");
        let last = cuts.last().copied().unwrap_or(&Json::Null);
        if kind(last) != "ByteLevel" {
            return match byte_fallback {
                true => prefix(&normalizers, &cuts).map(Cut::Pieces),
                false => Err("neither ByteLevel nor byte_fallback".into()),
            };
        }
        if byte_fallback {
            return Err("byte_fallback beside ByteLevel".into());
        }
        let nfc = match normalizers[..] {
            [] => false,
            [only] if kind(only) == "NFC" => true,
            _ => return Err(format!("the normalizer {normalizer}")),
        };
        if last["add_prefix_space"] == true {
            return Err("add_prefix_space of ByteLevel".into());
        }
        let mut patterns = Vec::with_capacity(cuts.len());
        for cut in &cuts[..cuts.len() - 1] {
            let regex = cut["pattern"]["Regex"].as_str();
            let isolated = cut["behavior"] == "Isolated" && cut["invert"] == false;
            patterns.push(match (kind(cut), regex) {
                ("Split", Some(regex)) if isolated => regex.to_owned(),
                ("Digits", _) if cut["individual_digits"] == true => DIGIT.to_owned(),
                ("Digits", _) => NUMBER.to_owned(),
                _ => return Err(format!("the pre-tokenizer {cut}")),
            });
        }
        if last["use_regex"] != false {
            patterns.push(GPT2.to_owned());
        }
        Ok(Cut::Words { patterns, nfc })
    }
}

/// How spaces are written before pieces are merged.
fn prefix(normalizers: &[&Json], cuts: &[&Json]) -> Result<Prefix, String> {
    let spaces = |step: &Json| {
        kind(step) == "Replace" && step["pattern"]["String"] == " " && step["content"] == SPACE
    };
    let prepends = |step: &Json| kind(step) == "Prepend" && step["prepend"] == SPACE;
    match (normalizers, cuts) {
        ([first, second], []) if prepends(first) && spaces(second) => Ok(Prefix::EveryStretch),
        ([only], []) if spaces(only) => Ok(Prefix::None),
        ([], [only]) if kind(only) == "Metaspace" && only["split"] == false => {
            match only["prepend_scheme"].as_str() {
                Some("always") => Ok(Prefix::Always),
                Some("first") => Ok(Prefix::Start),
                Some("never") => Ok(Prefix::None),
                _ => Err(format!("the pre-tokenizer {only}")),
            }
        }
        _ => Err("a normalizer or pre-tokenizer other than SentencePiece's spaces".into()),
    }
}

/// The steps of a part of a `tokenizer.json`, those of sequences one after the other.
fn steps<'a>(part: &'a Json, name: &str) -> Vec<&'a Json> {
    match part {
        Json::Null => Vec::new(),
        _ if kind(part) == "Sequence" => {
            let inner = part[name].as_array().into_iter().flatten();
            inner.flat_map(|part| steps(part, name)).collect()
        }
        _ => vec![part],
    }
}

fn kind(step: &Json) -> &str {
    step["type"].as_str().unwrap_or_default()
}

/// Whether a piece is a byte: `<0xE2>`.
fn is_byte(piece: &str) -> bool {
    let digits = piece
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

impl Parts {
    /// Scores with which the neighbours that make the best piece are merged first, as by the list of merges: of each
    /// token, by its id. Or which merge has no such place.
    pub(crate) fn scores(&self) -> Result<Vec<f32>, String> {
        let mut ranks: HashMap<String, usize> = HashMap::new();
        let mut last = String::new();
        for [left, right] in &self.merges {
            let piece = [left.as_str(), right].concat();
            if piece == last {
                continue;
            }
            let next = ranks.len();
            if ranks.insert(piece.clone(), next).is_some() {
                return Err(format!(
                    "`{left}` and `{right}` apart from other merges that make `{piece}`"
                ));
            }
            last = piece;
        }
        let score = |token: &Option<String>| {
            let rank = token.as_ref().and_then(|token| ranks.get(token));
            -(*rank.unwrap_or(&ranks.len()) as f32)
        };
        Ok(self.tokens.iter().map(score).collect())
    }
}
