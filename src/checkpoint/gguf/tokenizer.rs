//! `tokenizer.json` and `tokenizer_config.json` from GGUF metadata.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::error::GgufError;
use super::header::Value;
use super::metadata::{Metadata, TOKENS, missing, wrong};
use super::model::Gguf;
use crate::text::tokenizer::byte_level::ByteLevel;
use crate::text::tokenizer::pre_tokenizer::{DEFAULT_NAME, PreTokenizer};
use crate::text::tokenizer::sentencepiece::{Pieces, Prefix, Rank};
use crate::text::tokenizer::vocabulary::{Kind, Vocabulary, around};
use crate::text::tokenizer::{Tokenizer, TokenizerError};

pub(super) const KINDS: &str = "tokenizer.ggml.token_type";
pub(super) const SCORES: &str = "tokenizer.ggml.scores";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";
pub(super) const MODEL: &str = "tokenizer.ggml.model";
pub(super) const PRE: &str = "tokenizer.ggml.pre";

/// Tokens that end an answer or steer code completion, whatever kind the file gives them; llama.cpp
/// makes them control tokens too.
const CONTROL_LOOKING: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "[e~[",
    "<|fim_prefix|>",
    "<|fim_suffix|>",
    "<|fim_middle|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
];

/// The tokenizer that a GGUF file describes.
#[derive(Debug, Clone)]
pub struct GgufTokenizer {
    /// The content of a `tokenizer.json`.
    pub json: Json,
    /// Guesses that were made, to be shown to the user.
    pub warnings: Vec<String>,
    tokens: Vec<String>,
}

impl GgufTokenizer {
    /// Reads a byte-level BPE (`gpt2` in GGUF), or a SentencePiece vocabulary (`llama`) as BPE with
    /// byte fallback, from a file's metadata.
    ///
    /// # Errors
    ///
    /// A [`GgufError`]: no vocabulary, or one of another kind; a repeated token; an
    /// unknown pre-tokenizer.
    pub fn read(metadata: &BTreeMap<String, Value>) -> Result<Self, GgufError> {
        let file = Metadata(metadata);
        let mut vocabulary = file.vocabulary()?;
        let mut warnings = Vec::new();
        for token in vocabulary.mark_control(CONTROL_LOOKING) {
            warnings.push(format!(
                "`{token}` is text by the file and is read as a control token, as llama.cpp does"
            ));
        }
        let json = match file.text(MODEL)? {
            Some("gpt2") => {
                if file.text(PRE)?.is_none() {
                    warnings.push(format!(
                        "the file does not say how text is cut into words (`{PRE}`); it is read as \
                         `{DEFAULT_NAME}`, llama.cpp's guess, and the model may have been trained \
                         with other tokens: convert it again with a current llama.cpp"
                    ));
                }
                file.byte_level(&vocabulary)?
            }
            Some("llama") => file.sentencepiece(&vocabulary)?,
            Some(other) => {
                return Err(GgufError::Unsupported {
                    what: "a tokenizer other than gpt2 and llama (use the model's Hugging Face folder)",
                    found: other.to_string(),
                });
            }
            None => return Err(missing(MODEL)),
        };
        Ok(Self {
            json,
            warnings,
            tokens: vocabulary.into_tokens(),
        })
    }

    /// Builds the tokenizer, and checks that every token's id is its place in the file.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Misplaced`] for the first token with another id; whatever
    /// [`Tokenizer::from_bytes`] refuses.
    pub fn build(&self) -> Result<Tokenizer, TokenizerError> {
        let tokenizer = Tokenizer::from_bytes(self.json.to_string().as_bytes())?;
        tokenizer.check_places(&self.tokens)?;
        Ok(tokenizer)
    }
}

impl<'a> Metadata<'a> {
    /// The tokens; all are normal in a file without kinds.
    fn vocabulary(self) -> Result<Vocabulary, GgufError> {
        let tokens = self.texts(TOKENS)?;
        let kinds = match self.0.get(KINDS) {
            None => Vec::new(),
            Some(Value::Integers(kinds)) if kinds.len() >= tokens.len() => kinds[..tokens.len()]
                .iter()
                .map(|&kind| Kind::from_number(kind))
                .collect(),
            Some(other) => {
                let expected = "an array with one integer for each token";
                return Err(wrong(KINDS, expected, other));
            }
        };
        Vocabulary::new(tokens.to_vec(), kinds).map_err(|error| GgufError::WrongValue {
            key: TOKENS.into(),
            expected: "each token once",
            found: error.to_string(),
        })
    }

    /// A special token by its name in the metadata, such as `bos`; of a SentencePiece vocabulary
    /// without it, `default`, if that is a control token.
    fn token(
        self,
        name: &str,
        default: usize,
        vocabulary: &'a Vocabulary,
    ) -> Result<Option<(usize, &'a str)>, GgufError> {
        let stated = self
            .0
            .contains_key(&format!("tokenizer.ggml.{name}_token_id"));
        let id = match self.token_id(name)? {
            Some(id) => id,
            None if !stated
                && self.text(MODEL)? == Some("llama")
                && matches!(vocabulary.kind(default), Kind::Control | Kind::Unknown) =>
            {
                default
            }
            None => return Ok(None),
        };
        let token = vocabulary.tokens().get(id);
        Ok(token.map(|token| (id, token.as_str())))
    }

    fn words(self) -> Result<&'static PreTokenizer, GgufError> {
        let name = self.text(PRE)?.unwrap_or(DEFAULT_NAME);
        PreTokenizer::named(name).map_err(|found| GgufError::Unsupported {
            what: "a pre-tokenizer that is not known (use the model's Hugging Face folder)",
            found,
        })
    }

    fn byte_level(self, vocabulary: &Vocabulary) -> Result<Json, GgufError> {
        let words = *self.words()?;
        let vocab = vocabulary.vocab();
        let mut merges = Vec::new();
        for merge in self.texts(MERGES)? {
            // As in llama.cpp, at the first space behind the first character.
            let cut = merge.char_indices().skip(1).find(|(_, c)| *c == ' ');
            let Some((cut, _)) = cut else {
                return Err(GgufError::WrongValue {
                    key: MERGES.into(),
                    expected: "two tokens with a space between",
                    found: merge.clone(),
                });
            };
            let pair = [&merge[..cut], &merge[cut + 1..]];
            let known = pair.iter().all(|part| vocab.contains_key(*part));
            if !known || !vocab.contains_key(&pair.concat()) {
                return Err(GgufError::WrongValue {
                    key: MERGES.into(),
                    expected: "two tokens of the vocabulary whose union is one too",
                    found: merge.clone(),
                });
            }
            merges.push(pair);
        }
        Ok(ByteLevel {
            vocab,
            merges,
            added_tokens: vocabulary.added_tokens(|_| false),
            words,
            add_prefix_space: false,
            post_processor: self.post_processor(vocabulary)?,
        }
        .json())
    }

    fn sentencepiece(self, vocabulary: &Vocabulary) -> Result<Json, GgufError> {
        let tokens = vocabulary.tokens();
        let scores: Vec<f32> = match self.0.get(SCORES) {
            Some(Value::Floats(scores)) if scores.len() >= tokens.len() => scores.clone(),
            Some(Value::Integers(scores)) if scores.len() >= tokens.len() => {
                scores.iter().map(|&score| score as f32).collect()
            }
            Some(other) => {
                let expected = "an array with one float for each token";
                return Err(wrong(SCORES, expected, other));
            }
            None => return Err(missing(SCORES)),
        };
        let prefixed = self.flag("tokenizer.ggml.add_space_prefix")?;
        let unknown = match self.token("unknown", 0, vocabulary)? {
            Some((_, token)) => Some(token),
            None => (0..tokens.len())
                .find(|&id| vocabulary.kind(id) == Kind::Unknown)
                .map(|id| tokens[id].as_str()),
        };
        // llama.cpp uses the model's name to find the tokens of Phi 3 that include white space.
        let name = self
            .text("general.name")?
            .unwrap_or_default()
            .to_lowercase();
        let phi3 = name.contains("phi-3") || name.contains("phi3");
        let trims_right = |token: &str| phi3 && !matches!(token, "<unk>" | "<s>" | "<|endoftext|>");
        let prefix = match prefixed.unwrap_or(true) {
            true => Prefix::EveryStretch,
            false => Prefix::None,
        };
        Pieces {
            vocabulary,
            scores: &scores,
            rank: Rank::Score,
            unknown,
            byte_fallback: (0..tokens.len()).any(|id| vocabulary.kind(id) == Kind::Byte),
            ignore_merges: false,
            added_tokens: vocabulary.added_tokens(trims_right),
            steps: prefix.steps(),
            post_processor: self.post_processor(vocabulary)?,
        }
        .json()
        .map_err(|error| GgufError::WrongValue {
            key: TOKENS.into(),
            expected: "pieces of at most 512 bytes",
            found: error.to_string(),
        })
    }

    /// Whether a text begins with the `bos` token; llama.cpp's defaults for files without
    /// the key.
    fn adds_bos(self) -> Result<bool, GgufError> {
        if let Some(stated) = self.flag("tokenizer.ggml.add_bos_token")? {
            return Ok(stated);
        }
        Ok(match self.text(MODEL)? {
            Some("gpt2") => self.words()?.add_bos,
            model => model == Some("llama"),
        })
    }

    fn post_processor(self, vocabulary: &Vocabulary) -> Result<Json, GgufError> {
        let adds_eos = self.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        let token = |added: bool, name: &str, default: usize| match added {
            true => self.token(name, default, vocabulary),
            false => Ok(None),
        };
        let bos = token(self.adds_bos()?, "bos", 1)?;
        Ok(around(bos, token(adds_eos, "eos", 2)?))
    }
}

impl Gguf {
    /// The tokenizer that the file describes.
    ///
    /// # Errors
    ///
    /// As [`GgufTokenizer::read`]; more tokens than the embedding has rows.
    pub fn tokenizer(&self) -> Result<GgufTokenizer, GgufError> {
        let tokenizer = GgufTokenizer::read(&self.metadata)?;
        let tokens = tokenizer.tokens.len();
        if tokens > self.vocab_size {
            return Err(GgufError::WrongValue {
                key: TOKENS.into(),
                expected: "at most as many tokens as the embedding has rows",
                found: format!("{tokens} for {}", self.vocab_size),
            });
        }
        Ok(tokenizer)
    }

    /// `tokenizer_config.json`: special tokens and the chat template.
    ///
    /// # Errors
    ///
    /// No vocabulary; a special token outside it.
    pub fn tokenizer_config(&self) -> Result<Json, GgufError> {
        let file = self.metadata();
        let vocabulary = file.vocabulary()?;
        let token = |name: &str, default: usize| -> Result<Json, GgufError> {
            let token = file.token(name, default, &vocabulary)?;
            Ok(token.map_or(Json::Null, |(_, text)| json!(text)))
        };
        Ok(json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": token("bos", 1)?,
            "eos_token": token("eos", 2)?,
            "unk_token": token("unknown", 0)?,
            "pad_token": token("padding", usize::MAX)?,
            "add_bos_token": file.adds_bos()?,
            "model_max_length": self.integer("context_length")?,
            "clean_up_tokenization_spaces": false,
            "chat_template": self.chat_template(),
        }))
    }
}
