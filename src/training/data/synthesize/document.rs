//! Documents of a wanted length, with sentences hidden in them.

use std::ops::{Range, RangeInclusive};

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use super::sentences;
use super::{CountTokens, DataError};

/// A text of at most so many bytes is counted as a whole; of a longer one, pieces that make so many.
const COUNTED_BYTES: usize = 1 << 18;

/// How many pieces, evenly spread.
const PIECES: usize = 16;

/// How much the estimate may be off where a text is nearly too short, and must be counted.
const DOUBT: f64 = 1.25;

/// How many tokens of a hundred a document may have more or less than the number drawn.
const TOLERANCE: usize = 5;

/// How many lengths are tried for a document: the first ones end with a sentence, the others with a
/// word, the last ones anywhere.
const ROUNDS: usize = 12;

/// The text and its sentences.
pub(super) struct Source<'a> {
    text: &'a str,
    starts: Vec<usize>,
    bytes_per_token: f64,
    count: &'a CountTokens<'a>,
}

/// How many tokens a document should have.
pub(super) struct Target {
    /// The number drawn.
    pub(super) tokens: usize,
    /// The fewest that will do.
    pub(super) least: usize,
    /// The most.
    pub(super) most: usize,
}

/// A document.
pub(super) struct Document {
    /// Its text.
    pub(super) text: String,
    /// Where in the source it was taken.
    pub(super) range: Range<usize>,
}

impl Target {
    /// Draws a number from a range.
    pub(super) fn draw(range: &RangeInclusive<usize>, random: &mut Xoshiro256PlusPlus) -> Self {
        let tokens = random.random_range(range.clone());
        let off = tokens / 100 * TOLERANCE + tokens % 100 * TOLERANCE / 100;
        Self {
            tokens,
            least: tokens - off,
            most: (tokens + off).min(*range.end()),
        }
    }
}

impl<'a> Source<'a> {
    /// Refuses a text of fewer than `needed` tokens.
    pub(super) fn new(
        text: &'a str,
        count: &'a CountTokens<'a>,
        needed: usize,
    ) -> Result<Self, DataError> {
        let (mut bytes, mut tokens) = (0, 0);
        for piece in pieces(text) {
            bytes += piece.len();
            tokens += count(piece)?;
        }
        let mut in_all = match bytes {
            0 => 0.0,
            bytes => tokens as f64 / bytes as f64 * text.len() as f64,
        };
        if bytes < text.len() && in_all < needed as f64 * DOUBT {
            in_all = count(text)? as f64;
        }
        if in_all < needed as f64 {
            return Err(DataError::TextTooShort {
                tokens: in_all as usize,
                needed,
            });
        }
        Ok(Self {
            text,
            starts: sentences::starts(text),
            bytes_per_token: text.len() as f64 / in_all.max(1.0),
            count,
        })
    }

    /// The text.
    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// Where the text's sentences start, as far as they do in a range.
    pub(super) fn starts_in(&self, range: Range<usize>) -> &[usize] {
        let first = self.starts.partition_point(|&start| start < range.start);
        let last = self.starts.partition_point(|&start| start < range.end);
        &self.starts[first..last]
    }

    /// How many tokens a text has.
    pub(super) fn tokens(&self, text: &str) -> Result<usize, DataError> {
        Ok((self.count)(text)?)
    }

    /// Where a document begins: any sentence with enough text behind it.
    pub(super) fn start(&self, target: &Target, random: &mut Xoshiro256PlusPlus) -> usize {
        let last = self.text.len().saturating_sub(self.bytes(target.most));
        let choice = self.starts.partition_point(|&start| start <= last).max(1);
        let index = random.random_range(0..choice);
        self.starts.get(index).copied().unwrap_or_default()
    }

    /// The text that a document from `start` on has at most, by estimate.
    pub(super) fn around(&self, start: usize, target: &Target) -> &'a str {
        let end = self
            .text
            .floor_char_boundary(start + self.bytes(target.most));
        &self.text[start..end]
    }

    /// How many bytes so many tokens have, by estimate.
    fn bytes(&self, tokens: usize) -> usize {
        (tokens as f64 * self.bytes_per_token) as usize
    }

    /// A document that begins at `start`, or as much before it as the text is too short behind it,
    /// with each sentence at its depth from 0 to 1. None where the sentences alone are half of it.
    pub(super) fn hide(
        &self,
        start: usize,
        target: &Target,
        hidden: &[String],
        depths: &[f64],
    ) -> Result<Option<Document>, DataError> {
        let mut added = 0;
        for sentence in hidden {
            added += self.tokens(sentence)?;
        }
        if added > target.tokens / 2 {
            return Ok(None);
        }
        let wanted = (target.tokens - added) as f64;
        let mut start = start;
        let mut length = self.bytes(target.tokens - added);
        // Lengths known to give too few tokens and too many.
        let (mut short, mut long) = (0, usize::MAX);
        let mut best: Option<(usize, Document)> = None;
        for round in 0..ROUNDS {
            let end = self.end(start, start.saturating_add(length), round);
            let document = self.compose(start..end, hidden, depths);
            let tokens = self.tokens(&document.text)?;
            let fits = tokens <= target.most;
            if fits && best.as_ref().is_none_or(|(most, _)| tokens > *most) {
                best = Some((tokens, document));
            }
            if fits && tokens >= target.least {
                break;
            }
            let found = end - start;
            let per_token = found as f64 / tokens.saturating_sub(added).max(1) as f64;
            length = (wanted * per_token) as usize;
            if !fits {
                long = long.min(found);
            } else if end < self.text.len() {
                short = short.max(found);
            } else if start > 0 {
                let before = start.saturating_sub(length.saturating_sub(found).max(1));
                let index = self.starts.partition_point(|&start| start <= before);
                start = index.checked_sub(1).map_or(0, |index| self.starts[index]);
                (short, long) = (0, usize::MAX);
                continue;
            } else {
                break;
            }
            if length <= short || length >= long {
                length = match long {
                    usize::MAX => short.saturating_mul(2),
                    long => short + (long - short) / 2,
                };
            }
        }
        Ok(best.map(|(_, document)| document))
    }

    /// The end of a document near `end`, before it where it can be.
    fn end(&self, start: usize, end: usize, round: usize) -> usize {
        if end >= self.text.len() {
            return self.text.len();
        }
        let end = self.text.floor_char_boundary(end);
        let sentence = self
            .starts
            .partition_point(|&start| start <= end)
            .checked_sub(1);
        let sentence = sentence.map(|index| self.starts[index]);
        let word = self.text[start..end]
            .rfind(char::is_whitespace)
            .map(|at| start + at);
        let found = match round * 3 / ROUNDS {
            0 => sentence.filter(|&at| at > start).or(word),
            1 => word,
            _ => None,
        };
        found.unwrap_or(end).max(start)
    }

    /// The text of a range with each sentence before the one of the source's that is at its depth.
    fn compose(&self, range: Range<usize>, hidden: &[String], depths: &[f64]) -> Document {
        let range = range.start..range.start + self.text[range].trim_end().len();
        let mut places: Vec<usize> = self.starts_in(range.clone()).to_vec();
        places.push(range.end);
        let mut chosen: Vec<(usize, &String)> = hidden
            .iter()
            .zip(depths)
            .map(|(sentence, depth)| {
                let at = range.start + (depth * range.len() as f64) as usize;
                let place = places.partition_point(|&place| place < at);
                (place.min(places.len() - 1), sentence)
            })
            .collect();
        // The order of sentences in one place is that of their depths only by chance, which will do.
        chosen.sort_by_key(|(place, _)| *place);
        let mut text =
            String::with_capacity(range.len() + hidden.iter().map(|s| s.len() + 2).sum::<usize>());
        let mut from = range.start;
        for (place, sentence) in chosen {
            let to = places[place];
            text.push_str(&self.text[from..to]);
            if text.chars().next_back().is_some_and(|c| !c.is_whitespace()) {
                text.push(' ');
            }
            text.push_str(sentence);
            if to < range.end {
                text.push(' ');
            }
            from = to;
        }
        text.push_str(&self.text[from..range.end]);
        Document { text, range }
    }
}

/// Parts of a text to count tokens in.
fn pieces(text: &str) -> Vec<&str> {
    if text.len() <= COUNTED_BYTES {
        return vec![text];
    }
    let step = text.len() / PIECES;
    let pieces = (0..PIECES).map(|index| {
        let start = text.floor_char_boundary(index * step);
        &text[start..text.floor_char_boundary(start + COUNTED_BYTES / PIECES)]
    });
    pieces.collect()
}
