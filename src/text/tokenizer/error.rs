//! What can be wrong with a tokenizer.

use std::path::PathBuf;

use crate::quoted::{QuotePath, Quoted, cut};
use crate::size::size;

/// Characters of a parser's message that an error shows: it may repeat a text of the file.
const SHOWN: usize = 400;

/// Largest `tokenizer.json` that is read, in bytes. Those of 256,000 tokens take about 35 MB.
pub(super) const MAX_FILE_BYTES: u64 = 64 << 20;

/// Values of a `tokenizer.json` that is read. Gemma's has 1.8 million.
pub(super) const MAX_VALUES: usize = 1 << 23;

/// Added tokens of a tokenizer that is read. Llama 3 has 256, Gemma 6,400, models of speech up to 66,000.
pub(super) const MAX_ADDED: usize = 1 << 17;

/// Bytes of the texts of all added tokens together; of 66,000 they are 0.7 MiB. The automaton that finds them takes some
/// seconds to make at this limit, and 100 to 200 times the bytes in memory.
pub(super) const MAX_ADDED_BYTES: usize = 2 << 20;

/// Why a tokenizer cannot be read or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// Something is wrong with a file.
    #[error("{}: {source}", path.quoted())]
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
    #[error(
        "{bytes} bytes are more than a tokenizer may take ({})",
        size(MAX_FILE_BYTES)
    )]
    TooLarge {
        /// Its size in bytes.
        bytes: u64,
    },
    /// The file has more values than any real one: as a tree, they would take many times its size.
    #[error("{values} values are more than a tokenizer may have ({MAX_VALUES})")]
    TooManyValues {
        /// Its values.
        values: usize,
    },
    /// More added tokens than any real tokenizer has, or longer ones: to make them ready would take minutes.
    #[error(
        "expected at most {MAX_ADDED} added tokens of {} together, found {tokens} of {bytes} bytes; leave out those for \
         which the model has no row",
        size(MAX_ADDED_BYTES as u64)
    )]
    TooManyAdded {
        /// Its added tokens, those of the files beside it included.
        tokens: usize,
        /// The bytes of their texts.
        bytes: usize,
    },
    /// The content is not a tokenizer.
    #[error("not a tokenizer.json: {}", cut(message, SHOWN))]
    Parse {
        /// The parser's message.
        message: String,
    },
    /// The text cannot be encoded.
    #[error("cannot turn the text into tokens: {}", cut(message, SHOWN))]
    Encode {
        /// The tokenizer's message.
        message: String,
    },
    /// The tokens cannot be decoded.
    #[error("cannot turn the tokens into text: {}", cut(message, SHOWN))]
    Decode {
        /// The tokenizer's message.
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
    /// A vocabulary without tokens.
    #[error("expected a vocabulary, found one without tokens")]
    NoTokens,
    /// A token is listed twice.
    #[error(
        "expected each token of the vocabulary once, found {:?} as token {first} and as token {second}",
        Quoted(token)
    )]
    Duplicate {
        /// The token.
        token: String,
        /// Its first place.
        first: usize,
        /// Its second place.
        second: usize,
    },
    /// A token's id is not its place in the file.
    #[error(
        "token {:?}: expected the id {index}, its place in the file, found {}",
        Quoted(token),
        match found { Some(id) => format!("the id {id}"), None => "no such token".to_owned() }
    )]
    Misplaced {
        /// The token.
        token: String,
        /// Its place in the file.
        index: usize,
        /// The id that the tokenizer gives it.
        found: Option<u32>,
    },
    /// A piece of a SentencePiece vocabulary is longer than any real one.
    #[error("expected pieces of at most {limit} bytes, found one of {bytes} (piece {id})")]
    LongPiece {
        /// Its id.
        id: usize,
        /// Its length in bytes.
        bytes: usize,
        /// The most that is read, in bytes.
        limit: usize,
    },
    /// One of a tokenizer's files has other content than its name promises.
    #[error("{file}: {}", cut(message, SHOWN))]
    Content {
        /// The name of the file.
        file: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// A tokenizer of a kind that is not built here.
    #[error(
        "{file}: {} is not supported; save the tokenizer with transformers' \
         `AutoTokenizer.from_pretrained(..).save_pretrained(..)`, which writes tokenizer.json",
        cut(what, SHOWN)
    )]
    Unsupported {
        /// The name of the file.
        file: &'static str,
        /// What is not supported.
        what: String,
    },
    /// None of the files that a tokenizer is built from.
    #[error(
        "expected tokenizer.json, vocab.json with merges.txt, or tokenizer.model, found none of them"
    )]
    NoFiles,
}

impl TokenizerError {
    pub(super) fn parse(error: impl ToString) -> Self {
        Self::Parse {
            message: error.to_string(),
        }
    }
}
