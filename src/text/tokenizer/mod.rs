//! Text to token ids and back, by the model's own tokenizer.
//!
//! | file | holds |
//! |---|---|
//! | `mod` | [`Tokenizer`]: encoding, decoding, ids |
//! | `pieces` | prompts in which a user's text does not become control tokens |
//! | `files`, `added_tokens`, `special` | from a folder's files to a tokenizer and its special tokens |
//! | `class` | transformers' classes that cut text in a way of their own |
//! | `byte_level`, `pre_tokenizer` | byte-level BPE, and how text is cut into words, by name |
//! | `sentencepiece`, `model_file`, `protobuf` | SentencePiece vocabularies, and their `tokenizer.model` |
//! | `tiktoken` | the `tokenizer.model` of Llama 3 |
//! | `parts` | a BPE taken apart, to be written in another format |
//! | `vocabulary` | tokens whose ids are their places, and the parts of a `tokenizer.json` |

// Of three, some parts serve GGUF files only.
mod added_tokens;
pub(crate) mod byte_level;
mod class;
mod error;
mod files;
mod model_file;
#[cfg(feature = "gguf")]
pub(crate) mod parts;
mod pieces;
#[cfg_attr(not(feature = "gguf"), allow(dead_code))]
pub(crate) mod pre_tokenizer;
mod protobuf;
#[cfg(test)]
pub(super) mod samples;
#[cfg_attr(not(feature = "gguf"), allow(dead_code))]
pub(crate) mod sentencepiece;
mod special;
mod tiktoken;
#[cfg_attr(not(feature = "gguf"), allow(dead_code))]
pub(crate) mod vocabulary;

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;

pub use error::TokenizerError;
pub use files::{LoadedTokenizer, TokenizerFiles};
pub use pieces::TextPiece;
pub use special::{SpecialTokenError, SpecialTokens};

use added_tokens::check_added_of_file;
use error::{MAX_FILE_BYTES, MAX_VALUES};
use pieces::strict::{Spellings, Strict};
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{Encoding, PostProcessor};

use super::json;

/// A model's tokenizer.
///
/// Truncation and padding of the file are off: a document is encoded whole.
pub struct Tokenizer {
    /// Without its post-processor, which may trim the offsets of tokens.
    inner: tokenizers::Tokenizer,
    post_processor: Option<PostProcessorWrapper>,
    vocab_size: usize,
    special: HashSet<u32>,
    /// Tokens that text of a user may not become: the special ones and those that were named.
    control: HashSet<u32>,
    byte_fallback: bool,
    /// What encodes text in which control tokens are spelled out; few texts need it.
    strict: OnceLock<Strict>,
    spellings: OnceLock<Option<Spellings>>,
}

/// Token ids with where in the text they come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedText {
    /// The ids, special tokens that were asked for included.
    pub ids: Vec<u32>,
    /// For each token of the text itself, its bytes of the text, as `start..end`.
    /// Tokens that share a character all name its bytes.
    pub spans: Vec<(usize, usize)>,
    /// How many of `ids` are before the first token of the text.
    pub special_before: usize,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::File`] where the file cannot be read, is larger than 64 MiB or is not a
    /// tokenizer.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let path = path.as_ref();
        let read = || -> Result<Self, TokenizerError> {
            let found = std::fs::metadata(path)?;
            // Before opening, because opening a pipe would wait for a writer.
            if !found.is_file() {
                let text = "expected a regular file, found a folder, device or pipe";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text).into());
            }
            if found.len() > MAX_FILE_BYTES {
                return Err(TokenizerError::TooLarge { bytes: found.len() });
            }
            let mut bytes = Vec::new();
            let mut file = File::open(path)?.take(MAX_FILE_BYTES + 1);
            file.read_to_end(&mut bytes)?;
            Self::from_bytes(&bytes)
        };
        read().map_err(|source| TokenizerError::File {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    /// Reads the content of a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::TooLarge`], [`TokenizerError::TooManyValues`], [`TokenizerError::TooManyAdded`] and
    /// [`TokenizerError::Parse`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenizerError> {
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(TokenizerError::TooLarge {
                bytes: bytes.len() as u64,
            });
        }
        if let Some(values) = json::values_above(bytes, MAX_VALUES) {
            return Err(TokenizerError::TooManyValues { values });
        }
        let read = |bytes: &[u8]| -> Result<tokenizers::Tokenizer, TokenizerError> {
            check_added_of_file(bytes)?;
            guard(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(TokenizerError::parse)
        };
        let inner = read(bytes).or_else(|error| {
            // Only where the file is no JSON, what Python alone accepts is replaced.
            let text = std::str::from_utf8(bytes).unwrap_or_default();
            match json::strict(text) {
                Cow::Borrowed(same) if same.len() == bytes.len() => Err(error),
                strict => read(strict.as_bytes()).map_err(|found| match found {
                    TokenizerError::Parse { .. } => error,
                    found => found,
                }),
            }
        });
        Self::from_inner(inner?)
    }

    fn from_inner(mut inner: tokenizers::Tokenizer) -> Result<Self, TokenizerError> {
        guard(|| inner.with_truncation(None).map(|_| ())).map_err(TokenizerError::parse)?;
        inner.with_padding(None);
        let post_processor = inner.get_post_processor().cloned();
        inner.with_post_processor(None::<PostProcessorWrapper>);
        // Ids may have gaps, so the largest counts and not their number.
        let vocab_size = inner.get_vocab(true).into_values().max();
        let vocab_size = vocab_size.map_or(0, |largest| largest as usize + 1);
        if vocab_size == 0 {
            return Err(TokenizerError::parse("the vocabulary is empty"));
        }
        let byte_fallback = match inner.get_decoder() {
            Some(decoder) => serde_json::to_string(decoder)
                .map_err(TokenizerError::parse)?
                .contains("\"ByteFallback\""),
            None => false,
        };
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special);
        let special: HashSet<u32> = special.map(|(&id, _)| id).collect();
        Ok(Self {
            inner,
            post_processor,
            vocab_size,
            control: special.clone(),
            special,
            byte_fallback,
            strict: OnceLock::new(),
            spellings: OnceLock::new(),
        })
    }

    /// The token ids of `text`. With `add_special`, those that the tokenizer puts around a text
    /// (Llama's begin-of-text) are added; a rendered chat template has its own. Special tokens
    /// spelled out in the text become those tokens.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Encode`].
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoding = guard(|| self.inner.encode_fast(text, false)).map_err(encode_error)?;
        if add_special {
            return Ok(self.surround(encoding)?.get_ids().to_vec());
        }
        Ok(encoding.get_ids().to_vec())
    }

    /// As [`encode`](Self::encode), with the place of every token in the text.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Encode`].
    pub fn encode_with_spans(
        &self,
        text: &str,
        add_special: bool,
    ) -> Result<EncodedText, TokenizerError> {
        let encoding = guard(|| self.inner.encode(text, false)).map_err(encode_error)?;
        let spans = encoding.get_offsets().to_vec();
        self.finish(encoding, spans, add_special)
    }

    /// Puts special tokens around an encoded text.
    fn finish(
        &self,
        encoding: Encoding,
        spans: Vec<(usize, usize)>,
        add_special: bool,
    ) -> Result<EncodedText, TokenizerError> {
        let own = encoding.get_ids().to_vec();
        if !add_special {
            return Ok(EncodedText {
                ids: own,
                spans,
                special_before: 0,
            });
        }
        let ids = self.surround(encoding)?.get_ids().to_vec();
        let special_before = (0..=ids.len().saturating_sub(own.len()))
            .find(|&start| ids[start..].starts_with(&own))
            .ok_or_else(|| TokenizerError::Encode {
                message: "the post-processor changes the tokens of the text".to_owned(),
            })?;
        Ok(EncodedText {
            ids,
            spans,
            special_before,
        })
    }

    fn surround(&self, encoding: Encoding) -> Result<Encoding, TokenizerError> {
        match &self.post_processor {
            Some(processor) => {
                guard(|| processor.process(encoding, None, true)).map_err(encode_error)
            }
            None => Ok(encoding),
        }
    }

    /// The text of `ids`. Bytes that are no UTF-8 become U+FFFD. With `skip_special`, special
    /// tokens are left out.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::UnknownId`] for an id beyond the vocabulary, [`TokenizerError::Decode`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        self.check_ids(ids)?;
        guard(|| self.inner.decode(ids, skip_special))
            .map_err(|message| TokenizerError::Decode { message })
    }

    /// Whether every id is within the vocabulary.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::UnknownId`] for the first that is not.
    pub fn check_ids(&self, ids: &[u32]) -> Result<(), TokenizerError> {
        match ids.iter().position(|&id| id as usize >= self.vocab_size) {
            None => Ok(()),
            Some(index) => Err(TokenizerError::UnknownId {
                id: ids[index],
                index,
                vocab_size: self.vocab_size,
            }),
        }
    }

    /// Checks that the id of every token is its place among `tokens`.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Misplaced`] for the first that is not.
    pub fn check_places(&self, tokens: &[String]) -> Result<(), TokenizerError> {
        for (index, token) in tokens.iter().enumerate() {
            let found = self.token_id(token);
            let back = found.and_then(|id| self.token(id));
            if found.map(|id| id as usize) != Some(index) || back.as_ref() != Some(token) {
                return Err(TokenizerError::Misplaced {
                    token: token.clone(),
                    index,
                    found,
                });
            }
        }
        Ok(())
    }

    /// The id of a token, such as `<|im_end|>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id, as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// One more than the largest token id. A model's embedding may have more rows than this.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Whether `id` is a special token, such as `<|im_end|>`, and no text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// Whether `id` is a token of its own beside the vocabulary's pieces, special or not.
    pub fn is_added(&self, id: u32) -> bool {
        // Of the tokenizer itself, the same call copies all tokens.
        let added = self.inner.get_added_vocabulary();
        added.get_added_tokens_decoder().contains_key(&id)
    }

    /// Whether `id` is one byte of a character that is not in the vocabulary (`<0xE2>`).
    pub(super) fn is_byte(&self, id: u32) -> bool {
        self.byte_fallback
            && self
                .token(id)
                .is_some_and(|token| token.len() == 6 && token.starts_with("<0x"))
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size)
            .finish_non_exhaustive()
    }
}

/// Runs a call into the tokenizers crate, which panics on some files that no tool would write.
fn guard<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the tokenizer panicked".to_owned()),
    }
}

fn encode_error(message: String) -> TokenizerError {
    TokenizerError::Encode { message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        let tokenizer = samples::byte_level();
        let text = "the \u{20ac} path\n\n";
        let ids = tokenizer.encode(text, false).unwrap();
        // "th" and "\n\n" are one token each, the bytes of the euro sign three; neither cut at 4
        // nor filled up to 16.
        assert_eq!(ids.len(), 11);
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        let with_start = tokenizer.encode(text, true).unwrap();
        assert_eq!(with_start[0], 261);
        assert_eq!(with_start[1..], ids);
        assert_eq!(tokenizer.decode(&with_start, true).unwrap(), text);
        assert_eq!(
            tokenizer.decode(&with_start, false).unwrap(),
            format!("<s>{text}")
        );
        assert_eq!(tokenizer.encode("<|end|>", false).unwrap(), [300]);
    }

    #[test]
    fn ids_may_have_gaps() {
        let tokenizer = samples::byte_level();
        assert_eq!(tokenizer.vocab_size(), 301);
        assert_eq!(tokenizer.token_id("<|end|>"), Some(300));
        assert_eq!(tokenizer.token(300).as_deref(), Some("<|end|>"));
        assert_eq!(tokenizer.token_id("<|start|>"), None);
        assert!(tokenizer.is_special(300) && !tokenizer.is_special(65));
        let error = tokenizer.decode(&[65, 301], false).unwrap_err();
        assert_eq!(
            error.to_string(),
            "token 1 has the id 301, but the vocabulary ends at 301"
        );
    }

    #[test]
    fn spans_are_not_trimmed() {
        let tokenizer = samples::byte_level();
        let encoded = tokenizer.encode_with_spans("a.\n\n\u{20ac}", true).unwrap();
        assert_eq!(encoded.special_before, 1);
        assert_eq!(encoded.ids[0], 261);
        // "\n\n" is merged before ".\n" would be; the bytes of the euro sign all name it whole.
        let expected = [(0, 1), (1, 2), (2, 4), (4, 7), (4, 7), (4, 7)];
        assert_eq!(encoded.spans, expected);
    }

    #[test]
    fn bad_files_are_refused() {
        for json in [
            "",
            "{}",
            "[]",
            r#"{"version": "1.0", "model": {"type": "BPE"}}"#,
            r#"{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}"#,
            r#"{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}"#,
            r#"{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}"#,
        ] {
            let error = Tokenizer::from_bytes(json.as_bytes()).unwrap_err();
            assert!(matches!(error, TokenizerError::Parse { .. }), "{error}");
        }
        assert!(Tokenizer::from_bytes(&[0xff, 0xfe]).is_err());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let message = |path: &Path| Tokenizer::from_file(path).unwrap_err().to_string();
        assert!(message(&path).contains("tokenizer.json: cannot read"));
        std::fs::write(&path, "{").unwrap();
        assert!(message(&path).contains("tokenizer.json: not a tokenizer.json: EOF"));
        assert!(message(folder.path()).contains("expected a regular file"));
        let many = format!("[{}", ",".repeat(MAX_VALUES));
        let error = Tokenizer::from_bytes(many.as_bytes()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "8388609 values are more than a tokenizer may have (8388608)"
        );
    }
}
