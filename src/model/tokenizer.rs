//! Text to token ids and back, by the model's own `tokenizer.json`.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{Encoding, PostProcessor};

/// Largest `tokenizer.json` that is read, in bytes. Those of 256,000 tokens take about 35 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// A model's tokenizer.
///
/// Truncation and padding that the file may ask for are off: a document is encoded whole.
pub struct Tokenizer {
    /// Without its post-processor, which may trim the offsets of tokens.
    inner: tokenizers::Tokenizer,
    post_processor: Option<PostProcessorWrapper>,
    vocab_size: usize,
    special: HashSet<u32>,
    byte_fallback: bool,
}

/// Token ids with where in the text they come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedText {
    /// The ids, special tokens that were asked for included.
    pub ids: Vec<u32>,
    /// For each token of the text itself, the bytes of the text it stands for, as `start..end`.
    /// Tokens that share a character all name its bytes.
    pub spans: Vec<(usize, usize)>,
    /// How many of `ids` stand before the first token of the text.
    pub special_before: usize,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::File`] where the file cannot be read, is larger than 256 MiB or is not a
    /// tokenizer.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let path = path.as_ref();
        let read = || -> Result<Self, TokenizerError> {
            let bytes = std::fs::metadata(path)?.len();
            if bytes > MAX_FILE_BYTES {
                return Err(TokenizerError::TooLarge { bytes });
            }
            Self::from_bytes(&std::fs::read(path)?)
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
    /// [`TokenizerError::TooLarge`] and [`TokenizerError::Parse`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenizerError> {
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(TokenizerError::TooLarge {
                bytes: bytes.len() as u64,
            });
        }
        let parse = |message: String| TokenizerError::Parse { message };
        let mut inner = guard(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(parse)?;
        guard(|| inner.with_truncation(None).map(|_| ())).map_err(parse)?;
        inner.with_padding(None);
        let post_processor = inner.get_post_processor().cloned();
        inner.with_post_processor(None::<PostProcessorWrapper>);
        // Ids may have gaps, so the largest counts and not their number.
        let vocab_size = inner.get_vocab(true).into_values().max();
        let vocab_size = vocab_size.map_or(0, |largest| largest as usize + 1);
        if vocab_size == 0 {
            return Err(parse("the vocabulary is empty".to_owned()));
        }
        let byte_fallback = match inner.get_decoder() {
            Some(decoder) => serde_json::to_string(decoder)
                .map_err(|error| parse(error.to_string()))?
                .contains("\"ByteFallback\""),
            None => false,
        };
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special);
        let special = special.map(|(&id, _)| id).collect();
        Ok(Self {
            inner,
            post_processor,
            vocab_size,
            special,
            byte_fallback,
        })
    }

    /// The token ids of `text`. With `add_special`, those that the tokenizer puts around a text
    /// (Llama's begin-of-text) come too; a rendered chat template brings its own. Special tokens
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
        if !add_special {
            return Ok(EncodedText {
                ids: encoding.get_ids().to_vec(),
                spans,
                special_before: 0,
            });
        }
        let own = encoding.get_ids().to_vec();
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
        self.inner.get_added_tokens_decoder().contains_key(&id)
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

/// Why a tokenizer cannot be read or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// Something is wrong with a file.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<TokenizerError>,
    },
    /// The file cannot be read.
    #[error("cannot read the file: {0}")]
    Read(#[from] std::io::Error),
    /// The file is larger than any real one.
    #[error("{bytes} bytes are more than a tokenizer may take ({MAX_FILE_BYTES})")]
    TooLarge {
        /// Its size in bytes.
        bytes: u64,
    },
    /// The content is not a tokenizer.
    #[error("not a tokenizer.json: {message}")]
    Parse {
        /// What the parser says.
        message: String,
    },
    /// The text cannot be encoded.
    #[error("cannot turn the text into tokens: {message}")]
    Encode {
        /// What the tokenizer says.
        message: String,
    },
    /// The tokens cannot be decoded.
    #[error("cannot turn the tokens into text: {message}")]
    Decode {
        /// What the tokenizer says.
        message: String,
    },
    /// A token id is beyond the vocabulary.
    #[error("token {index} has the id {id}, but the vocabulary ends at {vocab_size}")]
    UnknownId {
        /// The id.
        id: u32,
        /// Its place among the ids.
        index: usize,
        /// One more than the largest id there is.
        vocab_size: usize,
    },
}

/// Small tokenizers for the tests of this room.
#[cfg(test)]
pub(super) mod samples {
    use super::Tokenizer;
    use serde_json::{Value, json};

    type Vocabulary = serde_json::Map<String, Value>;

    /// The characters that byte-level BPE writes the 256 bytes as.
    fn byte_characters() -> Vec<String> {
        let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let mut shifted = 0x100..;
        (0..256u32)
            .map(|b| {
                if printable(b) {
                    b
                } else {
                    shifted.next().unwrap()
                }
            })
            .map(|c| char::from_u32(c).unwrap().to_string())
            .collect()
    }

    fn numbered(tokens: Vec<String>) -> Vocabulary {
        let tokens = tokens.into_iter().enumerate();
        tokens.map(|(id, token)| (token, json!(id))).collect()
    }

    fn special(id: u32, content: &str) -> Value {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    }

    /// 256 bytes, three merges, two tokens across characters, `<s>` before a text, and `<|end|>`
    /// after a gap in the ids. Asks to cut texts at 4 tokens and to fill them up to 16.
    pub fn byte_level() -> Tokenizer {
        let bytes = byte_characters();
        let merges: Vec<(String, String)> = [(b't', b'h'), (b'\n', b'\n'), (b'.', b'\n')]
            .map(|(a, b)| (bytes[a as usize].clone(), bytes[b as usize].clone()))
            .into();
        let mut tokens = bytes.clone();
        tokens.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
        let pairs: [[usize; 2]; 2] = [[0xe2, 0x82], [0xac, 0xe2]];
        tokens.extend(pairs.map(|pair| pair.map(|b| bytes[b].as_str()).concat()));
        let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false,
            "trim_offsets": true, "use_regex": false});
        let json = json!({
            "version": "1.0",
            "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0,
                "direction": "Right"},
            "padding": {"strategy": {"Fixed": 16}, "direction": "Right",
                "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"},
            "added_tokens": [special(261, "<s>"), special(300, "<|end|>")],
            "normalizer": null,
            "pre_tokenizer": byte_level,
            "post_processor": {"type": "Sequence", "processors": [
                byte_level,
                {"type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                        {"Sequence": {"id": "A", "type_id": 0}}],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                        {"Sequence": {"id": "B", "type_id": 1}}],
                    "special_tokens": {"<s>": {"id": "<s>", "ids": [261], "tokens": ["<s>"]}}}]},
            "decoder": byte_level,
            "model": {"type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
                "byte_fallback": false, "vocab": numbered(tokens), "merges": merges}
        });
        let mut json = json;
        // `<s>` and `<|end|>` are in the vocabulary, as in Qwen's: that is what fixes their ids.
        let vocab = json["model"]["vocab"].as_object_mut().unwrap();
        vocab.insert("<s>".to_owned(), json!(261));
        vocab.insert("<|end|>".to_owned(), json!(300));
        Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
    }

    /// As Llama 2's: spaces are U+2581, one is put before a text, unknown characters are bytes.
    pub fn byte_fallback() -> Tokenizer {
        let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned()];
        tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
        let words = [
            "\u{2581}",
            "\u{2581}a",
            "a",
            "b",
            "ab",
            "\u{2581}\u{2581}",
            "\u{e9}",
        ];
        tokens.extend(words.map(String::from));
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(1, "<s>")],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "\u{2581}"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
            "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>",
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
                "byte_fallback": true, "vocab": numbered(tokens), "merges": [
                    ["\u{2581}", "a"], ["a", "b"], ["\u{2581}", "\u{2581}"]]}
        });
        Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back() {
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
    }
}
