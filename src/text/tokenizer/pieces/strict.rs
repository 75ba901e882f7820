//! What encodes a text in which control tokens are spelled out, made for the first such text.

use aho_corasick::AhoCorasick;

/// Encodes text in which no control token is recognised. The template's own are written as
/// stand-ins: tokens of the same kind with texts that do not occur.
pub(crate) struct Strict {
    pub inner: tokenizers::Tokenizer,
    /// Begins and ends the text of a stand-in.
    pub mark: char,
    /// The id of the first stand-in; the others follow.
    pub first: u32,
    /// What the stand-ins stand for.
    pub tokens: Vec<u32>,
}

/// Finds the texts of control tokens.
pub(crate) struct Spellings {
    pub texts: AhoCorasick,
    pub ids: Vec<u32>,
}
