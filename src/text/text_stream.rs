//! Decodes tokens one by one into complete characters; the pieces together are the decoded whole.

use std::ops::RangeInclusive;

use super::tokenizer::{Tokenizer, TokenizerError};

/// Tokens of a window that is not shortened. A character has four bytes at most, each a token of its own.
const LONGEST_WINDOW: usize = 16;

/// The fewest last tokens of a window that are kept, and the most: of four neighbouring places, one is between characters,
/// unless tokens hold the end of one and the beginning of the next.
const KEPT: RangeInclusive<usize> = 4..=7;

/// Turns a growing list of token ids into pieces of text.
///
/// A character may be spread over several tokens; it is emitted with its last byte. Put
/// together, the pieces and [`finish`](Self::finish) are the text of [`Tokenizer::decode`] for all
/// ids.
#[derive(Debug)]
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    skip_special: bool,
    /// The last ids: those that gave the last piece (what comes next may depend on it, by a space
    /// that is dropped at the start), and all since.
    window: Vec<u32>,
    /// How many of them gave that piece.
    context: usize,
    /// How many bytes of the window's text have been emitted.
    emitted: usize,
}

impl<'t> TextStream<'t> {
    /// An empty stream. With `skip_special`, special tokens give no text.
    pub fn new(tokenizer: &'t Tokenizer, skip_special: bool) -> Self {
        Self {
            tokenizer,
            skip_special,
            window: Vec::new(),
            context: 0,
            emitted: 0,
        }
    }

    /// Takes the next token and gives the text that is complete with it, which may be empty.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::UnknownId`] for an id beyond the vocabulary, which is not taken, and
    /// [`TokenizerError::Decode`].
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        self.tokenizer.check_ids(&[id])?;
        if self.skip_special && self.tokenizer.is_special(id) {
            return Ok(String::new());
        }
        self.window.push(id);
        // A run of byte tokens is decoded as a whole: one byte that does not fit spoils them all.
        if self.tokenizer.is_byte(id) {
            return Ok(String::new());
        }
        let text = self.decode()?;
        // What ends with U+FFFD may be the beginning of a character; one before that is what it is.
        let complete = text
            .strip_suffix(char::REPLACEMENT_CHARACTER)
            .unwrap_or(&text);
        let piece = complete.get(self.emitted..).unwrap_or_default().to_owned();
        self.emitted = self.emitted.max(complete.len());
        if complete.len() == text.len() && !piece.is_empty() {
            // The next piece is what the text has beyond this window's.
            self.window.drain(..self.context);
            self.context = self.window.len();
            self.emitted = self.decode()?.len();
        } else if self.window.len() > LONGEST_WINDOW {
            self.shorten(&text)?;
        }
        Ok(piece)
    }

    /// Drops all but the last tokens of a window that gives no whole character, such as one of bytes that are no UTF-8, where
    /// the text is that of both parts: every token decodes it anew.
    fn shorten(&mut self, text: &str) -> Result<(), TokenizerError> {
        for kept in KEPT {
            let (before, last) = self.window.split_at(self.window.len() - kept);
            let parts = [before, last].map(|ids| self.tokenizer.decode(ids, self.skip_special));
            let [before, last] = parts;
            let (before, last) = (before?, last?);
            if text.strip_prefix(before.as_str()) == Some(last.as_str()) {
                let pending = text.len().saturating_sub(self.emitted);
                self.emitted = last.len().saturating_sub(pending);
                self.window.drain(..self.window.len() - kept);
                self.context = 0;
                break;
            }
        }
        Ok(())
    }

    /// Gives what is left, with U+FFFD for bytes that are no complete character, and empties the
    /// stream.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Decode`].
    pub fn finish(&mut self) -> Result<String, TokenizerError> {
        let text = self.decode()?;
        let piece = text.get(self.emitted..).unwrap_or_default().to_owned();
        *self = Self::new(self.tokenizer, self.skip_special);
        Ok(piece)
    }

    fn decode(&self) -> Result<String, TokenizerError> {
        self.tokenizer.decode(&self.window, self.skip_special)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tokenizer::samples;
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    static BYTE_LEVEL: LazyLock<Tokenizer> = LazyLock::new(samples::byte_level);
    static BYTE_FALLBACK: LazyLock<Tokenizer> = LazyLock::new(samples::byte_fallback);

    fn pieces(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> Vec<String> {
        let mut stream = TextStream::new(tokenizer, skip_special);
        let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        pieces.push(stream.finish().unwrap());
        assert_eq!(stream.finish().unwrap(), "", "finish empties the stream");
        pieces
    }

    #[test]
    fn a_character_is_emitted_with_its_last_byte() {
        let pieces = |ids: &[u32], skip_special| pieces(&BYTE_LEVEL, ids, skip_special);
        let bytes: Vec<u32> = "a\u{20ac}\u{1f308}b".bytes().map(u32::from).collect();
        let expected = ["a", "", "", "\u{20ac}", "", "", "", "\u{1f308}", "b", ""];
        assert_eq!(pieces(&bytes, false), expected);
        // A token with the end of one character and the beginning of the next.
        let expected = ["", "\u{20ac}", "", "\u{20ac}", ""];
        assert_eq!(pieces(&[259, 260, 0x82, 0xac], false), expected);
        // Cut short, and broken off by a letter.
        let expected = ["a", "", "", "\u{fffd}"];
        assert_eq!(pieces(&[0x61, 0xe2, 0x82], false), expected);
        assert_eq!(pieces(&[0xe2, 0x61], false), ["", "\u{fffd}a", ""]);
        assert_eq!(pieces(&[261, 0x61, 300], true), ["", "a", "", ""]);
        assert_eq!(pieces(&[0x61, 300], false), ["a", "<|end|>", ""]);
    }

    #[test]
    fn byte_tokens_are_emitted_at_the_end_of_their_run() {
        let ids = BYTE_FALLBACK.encode("a \u{20ac}ab a", false).unwrap();
        let pieces = pieces(&BYTE_FALLBACK, &ids, false);
        assert_eq!(pieces.concat(), "a \u{20ac}ab a");
        assert_eq!(pieces.first().map(String::as_str), Some("a"));
        assert!(pieces.contains(&"\u{20ac}ab".to_owned()), "{pieces:?}");
    }

    #[test]
    fn an_unknown_id_is_refused() {
        let mut stream = TextStream::new(&BYTE_LEVEL, false);
        assert_eq!(stream.push(0x61).unwrap(), "a");
        let error = stream.push(9999).unwrap_err();
        assert!(matches!(error, TokenizerError::UnknownId { id: 9999, .. }));
        assert_eq!(stream.push(0x62).unwrap(), "b");
    }

    /// Also that the time does not grow with the square of the tokens, which would be minutes here.
    #[test]
    fn bytes_that_are_no_characters_are_not_decoded_again_and_again() {
        let ids = [0xff, 0xe2, 0x82, 0xf0, 0x9f].repeat(20_000);
        let mut stream = TextStream::new(&BYTE_LEVEL, false);
        let mut text = String::new();
        for &id in &ids {
            text += &stream.push(id).unwrap();
            assert!(stream.window.len() <= LONGEST_WINDOW);
        }
        // All but the last are known to be no characters.
        assert_eq!(text.chars().count(), 3 * 20_000 - 1);
        text += &stream.finish().unwrap();
        assert_eq!(text, BYTE_LEVEL.decode(&ids, false).unwrap());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Any ids, mostly no UTF-8 at all, give in sum what decoding them at once gives.
        #[test]
        fn byte_level_pieces_sum_to_the_whole(
            ids in prop::collection::vec(
                prop_oneof![0..262u32, 0xc0..0xf8u32, 0x80..0xc0u32, Just(300)], 0..40),
            skip_special: bool,
        ) {
            let whole = BYTE_LEVEL.decode(&ids, skip_special).unwrap();
            prop_assert_eq!(pieces(&BYTE_LEVEL, &ids, skip_special).concat(), whole);
        }

        #[test]
        fn byte_fallback_pieces_sum_to_the_whole(
            ids in prop::collection::vec(
                prop_oneof![0..265u32, 258..265u32, 0xc4..0xfau32, Just(1)], 0..40),
            skip_special: bool,
        ) {
            let whole = BYTE_FALLBACK.decode(&ids, skip_special).unwrap();
            prop_assert_eq!(pieces(&BYTE_FALLBACK, &ids, skip_special).concat(), whole);
        }

        /// Real text never shows a replacement character on the way.
        #[test]
        fn text_streams_without_replacement_characters(text in "[^\u{fffd}]{0,30}") {
            for tokenizer in [&*BYTE_LEVEL, &*BYTE_FALLBACK] {
                let ids = tokenizer.encode(&text, false).unwrap();
                let pieces = pieces(tokenizer, &ids, false);
                let replaced = pieces.concat().contains(char::REPLACEMENT_CHARACTER);
                prop_assert!(!replaced);
                prop_assert_eq!(pieces.concat(), tokenizer.decode(&ids, false).unwrap());
            }
        }
    }
}
