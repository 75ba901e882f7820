//! `tokenizer.json` and `tokenizer_config.json` from GGUF metadata.

use serde_json::{Map, Value as Json, json};

use super::error::GgufError;
use super::{Gguf, Value, sentencepiece};

/// GPT-2's words: contractions, letters, digits, the rest, white space.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
/// Qwen2's words: digits one by one.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Llama 3's words: digits in threes.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Kinds of tokens, by their numbers in `tokenizer.ggml.token_type`.
pub(super) mod token {
    pub(in super::super) const NORMAL: i64 = 1;
    pub(in super::super) const UNKNOWN: i64 = 2;
    pub(in super::super) const CONTROL: i64 = 3;
    pub(in super::super) const USER_DEFINED: i64 = 4;
    pub(in super::super) const BYTE: i64 = 6;
}

/// How text is cut into words before merging, by llama.cpp's name for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Words {
    Gpt2,
    SmolLm,
    Qwen2,
    Llama3,
    /// What llama.cpp does for files that do not say.
    Default,
}

impl Words {
    fn of(name: Option<&str>) -> Result<Self, GgufError> {
        match name {
            Some("gpt-2") => Ok(Self::Gpt2),
            Some("smollm") => Ok(Self::SmolLm),
            Some("qwen2" | "deepseek-r1-qwen") => Ok(Self::Qwen2),
            Some("llama-bpe" | "llama3" | "llama-v3") => Ok(Self::Llama3),
            None | Some("default") => Ok(Self::Default),
            Some(other) => Err(GgufError::Unsupported {
                what: "a pre-tokenizer other than gpt-2, smollm, qwen2, llama-bpe and default (use the model's Hugging Face folder)",
                found: other.to_string(),
            }),
        }
    }

    fn pre_tokenizer(self) -> Json {
        let split = |pattern: &str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
        let steps = match self {
            Self::Gpt2 => vec![byte_level(false, false, true)],
            Self::SmolLm => vec![
                json!({ "type": "Digits", "individual_digits": true }),
                byte_level(false, false, true),
            ],
            Self::Qwen2 => vec![split(QWEN2), byte_level(false, false, false)],
            Self::Llama3 => vec![split(LLAMA3), byte_level(false, true, false)],
            Self::Default => {
                let punctuation = r"[\p{P}\$\+<=>\^~\|]+";
                vec![
                    split(punctuation),
                    split(GPT2),
                    split(r"\p{N}+"),
                    split("[0-9][0-9][0-9]"),
                    byte_level(false, false, false),
                ]
            }
        };
        json!({ "type": "Sequence", "pretokenizers": steps })
    }
}

fn byte_level(add_prefix_space: bool, trim_offsets: bool, use_regex: bool) -> Json {
    json!({ "type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": trim_offsets, "use_regex": use_regex })
}

/// A vocabulary as the file has it.
pub(super) struct Vocabulary<'a> {
    pub(super) tokens: &'a [String],
    kinds: Option<&'a [i64]>,
}

impl Vocabulary<'_> {
    /// The kind of a token; normal where the file does not say.
    pub(super) fn kind(&self, id: usize) -> i64 {
        self.kinds
            .and_then(|kinds| kinds.get(id).copied())
            .unwrap_or(token::NORMAL)
    }

    /// Entries of `added_tokens`, for tokens of the given kinds.
    pub(super) fn added(&self, kinds: &[i64]) -> Vec<Json> {
        let chosen = self
            .tokens
            .iter()
            .enumerate()
            .filter(|(id, _)| kinds.contains(&self.kind(*id)));
        chosen
            .map(|(id, content)| {
                json!({
                    "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": self.kind(id) != token::USER_DEFINED,
                })
            })
            .collect()
    }
}

impl Gguf {
    pub(super) fn vocabulary(&self) -> Result<Vocabulary<'_>, GgufError> {
        let key = "tokenizer.ggml.tokens";
        let tokens = match self.get(key) {
            Some(Value::Texts(tokens)) => tokens,
            Some(other) => return Err(Self::wrong(key, "an array of texts", other)),
            None => return Err(GgufError::MissingKey { key: key.into() }),
        };
        if tokens.len() > self.vocab_size {
            let (expected, found) = (
                "at most as many tokens as the embedding has rows",
                format!("{} for {}", tokens.len(), self.vocab_size),
            );
            return Err(GgufError::WrongValue {
                key: key.into(),
                expected,
                found,
            });
        }
        let key = "tokenizer.ggml.token_type";
        let kinds = match self.get(key) {
            None => None,
            Some(Value::Integers(kinds)) if kinds.len() == tokens.len() => Some(kinds.as_slice()),
            Some(other) => {
                return Err(Self::wrong(
                    key,
                    "an array with one integer for each token",
                    other,
                ));
            }
        };
        Ok(Vocabulary { tokens, kinds })
    }

    /// `tokenizer.json`: a byte-level BPE (`gpt2` in GGUF), or a SentencePiece vocabulary (`llama`)
    /// as BPE with byte fallback.
    ///
    /// # Errors
    ///
    /// No vocabulary, or one of another kind; a pre-tokenizer this crate does not know.
    pub fn tokenizer(&self) -> Result<Json, GgufError> {
        match self.text("tokenizer.ggml.model")? {
            Some("gpt2") => self.byte_level(),
            Some("llama") => sentencepiece::tokenizer(self),
            Some(other) => Err(GgufError::Unsupported {
                what: "a tokenizer other than gpt2 and llama (use the model's Hugging Face folder)",
                found: other.to_string(),
            }),
            None => Err(GgufError::MissingKey {
                key: "tokenizer.ggml.model".into(),
            }),
        }
    }

    fn byte_level(&self) -> Result<Json, GgufError> {
        let words = Words::of(self.text("tokenizer.ggml.pre")?)?;
        let vocabulary = self.vocabulary()?;
        let key = "tokenizer.ggml.merges";
        let merges = match self.get(key) {
            Some(Value::Texts(merges)) => merges,
            Some(other) => return Err(Self::wrong(key, "an array of texts", other)),
            None => return Err(GgufError::MissingKey { key: key.into() }),
        };
        let mut pairs = Vec::with_capacity(merges.len());
        for merge in merges {
            let Some((left, right)) = merge.split_once(' ') else {
                return Err(GgufError::WrongValue {
                    key: key.into(),
                    expected: "two tokens with a space between",
                    found: merge.clone(),
                });
            };
            pairs.push(json!([left, right]));
        }
        // In SmolLM's own file the special tokens are part of the vocabulary; in the others not.
        let is_piece = |kind: i64| {
            matches!(kind, token::NORMAL | token::BYTE)
                || (kind == token::CONTROL && words == Words::SmolLm)
        };
        let vocab: Map<String, Json> = vocabulary
            .tokens
            .iter()
            .enumerate()
            .filter(|(id, _)| is_piece(vocabulary.kind(*id)))
            .map(|(id, piece)| (piece.clone(), json!(id)))
            .collect();
        let qwen = words == Words::Qwen2;
        let affix = if qwen { json!("") } else { Json::Null };
        let after = match words {
            Words::Qwen2 => Some(byte_level(false, false, false)),
            Words::Llama3 => Some(byte_level(true, false, true)),
            _ => None,
        };
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": vocabulary.added(&[token::CONTROL, token::USER_DEFINED]),
            "normalizer": if qwen { json!({ "type": "NFC" }) } else { Json::Null },
            "pre_tokenizer": words.pre_tokenizer(),
            "post_processor": self.post_processor(after)?,
            "decoder": if qwen { byte_level(false, false, false) } else { byte_level(true, true, true) },
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": affix, "end_of_word_suffix": affix,
                "fuse_unk": false, "byte_fallback": false, "ignore_merges": words == Words::Llama3,
                "vocab": vocab, "merges": pairs,
            },
        }))
    }

    /// Whether a text begins with the `bos` token.
    fn adds_bos(&self) -> Result<bool, GgufError> {
        if let Some(stated) = self.flag("tokenizer.ggml.add_bos_token")? {
            return Ok(stated);
        }
        // llama.cpp's defaults.
        let llama3 = matches!(
            self.text("tokenizer.ggml.pre")?,
            Some("llama-bpe" | "llama3" | "llama-v3")
        );
        Ok(llama3 || self.text("tokenizer.ggml.model")? == Some("llama"))
    }

    /// The post-processor: `first`, then the tokens that stand around every text.
    pub(super) fn post_processor(&self, first: Option<Json>) -> Result<Json, GgufError> {
        let mut around = [None, None];
        let adds_eos = self.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        let vocabulary = self.vocabulary()?;
        for (slot, name, added) in [(0, "bos", self.adds_bos()?), (1, "eos", adds_eos)] {
            if let (true, Some(id)) = (added, self.token_id(name)?) {
                around[slot] = Some((id, vocabulary.tokens[id].as_str()));
            }
        }
        let [bos, eos] = around;
        if bos.is_none() && eos.is_none() {
            return Ok(first.unwrap_or(Json::Null));
        }
        let special = |token: Option<(usize, &str)>, text: usize| {
            token.map(|(_, content)| json!({ "SpecialToken": { "id": content, "type_id": text } }))
        };
        let text = |name: &str, text: usize| {
            let sequence = json!({ "Sequence": { "id": name, "type_id": text } });
            special(bos, text)
                .into_iter()
                .chain([sequence])
                .chain(special(eos, text))
                .collect::<Vec<Json>>()
        };
        let tokens: Map<String, Json> = around
            .iter()
            .flatten()
            .map(|(id, content)| {
                (
                    (*content).to_string(),
                    json!({ "id": content, "ids": [id], "tokens": [content] }),
                )
            })
            .collect();
        let pair = [text("A", 0), text("B", 1)].concat();
        let template = json!({
            "type": "TemplateProcessing",
            "single": text("A", 0),
            "pair": pair,
            "special_tokens": tokens,
        });
        Ok(match first {
            None => template,
            Some(first) => json!({ "type": "Sequence", "processors": [first, template] }),
        })
    }

    /// `tokenizer_config.json`: special tokens and the chat template.
    ///
    /// # Errors
    ///
    /// No vocabulary; a special token outside it.
    pub fn tokenizer_config(&self) -> Result<Json, GgufError> {
        let vocabulary = self.vocabulary()?;
        let token = |name: &str| -> Result<Json, GgufError> {
            Ok(self
                .token_id(name)?
                .map_or(Json::Null, |id| json!(vocabulary.tokens[id])))
        };
        Ok(json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": token("bos")?,
            "eos_token": token("eos")?,
            "pad_token": token("padding")?,
            "add_bos_token": self.adds_bos()?,
            "model_max_length": self.optional_integer(&self.key("context_length"))?,
            "clean_up_tokenization_spaces": false,
            "chat_template": self.chat_template(),
        }))
    }
}
