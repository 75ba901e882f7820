//! Documents of a given length, with sentences inserted.

use std::ops::{Range, RangeInclusive};

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use crate::tasks::CountTokens;
use crate::tasks::error::TaskError;
use crate::text::sentences;

/// Bytes in which tokens are counted to estimate the whole text.
const COUNTED_BYTES: usize = 1 << 18;

/// Evenly spread pieces that make them.
const PIECES: usize = 16;

/// The factor by which the estimate may be wrong: a text nearer to the limit is counted as a whole.
const MARGIN: f64 = 1.25;

/// Percentage by which a document may differ from the number of tokens drawn.
const TOLERANCE: usize = 5;

/// Lengths tried for a document: the first third ends with a sentence, the second with a word, the last
/// anywhere.
const ROUNDS: usize = 12;

/// The text and its sentences.
pub(super) struct Source<'a> {
    text: &'a str,
    starts: Vec<usize>,
    bytes_per_token: f64,
    count: &'a CountTokens<'a>,
}

/// The number of tokens of a document.
pub(super) struct Target {
    /// The number drawn.
    pub(super) tokens: usize,
    /// The fewest accepted.
    pub(super) least: usize,
    /// The most accepted.
    pub(super) most: usize,
}

/// A document.
pub(super) struct Document {
    /// Its text.
    pub(super) text: String,
    /// Its range in the source.
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
    ) -> Result<Self, TaskError> {
        let (mut bytes, mut tokens) = (0, 0);
        for piece in pieces(text) {
            bytes += piece.len();
            tokens += count(piece).map_err(TaskError::Count)?;
        }
        let mut in_all = match bytes {
            0 => 0.0,
            bytes => tokens as f64 / bytes as f64 * text.len() as f64,
        };
        if bytes < text.len() && in_all < needed as f64 * MARGIN {
            in_all = count(text).map_err(TaskError::Count)? as f64;
        }
        if in_all < needed as f64 {
            return Err(TaskError::TextTooShort {
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

    /// The starts of the sentences in a range.
    pub(super) fn starts_in(&self, range: Range<usize>) -> &[usize] {
        let first = self.starts.partition_point(|&start| start < range.start);
        let last = self.starts.partition_point(|&start| start < range.end);
        &self.starts[first..last]
    }

    /// The number of tokens of a text.
    pub(super) fn tokens(&self, text: &str) -> Result<usize, TaskError> {
        (self.count)(text).map_err(TaskError::Count)
    }

    /// The start of a document: any sentence with enough text after it.
    pub(super) fn start(&self, target: &Target, random: &mut Xoshiro256PlusPlus) -> usize {
        let last = self.text.len().saturating_sub(self.bytes(target.most));
        let choice = self.starts.partition_point(|&start| start <= last).max(1);
        let index = random.random_range(0..choice);
        self.starts.get(index).copied().unwrap_or_default()
    }

    /// The longest text of a document from `start` on, by estimate.
    pub(super) fn around(&self, start: usize, target: &Target) -> &'a str {
        let end = self
            .text
            .floor_char_boundary(start + self.bytes(target.most));
        &self.text[start..end]
    }

    /// The bytes of `tokens` tokens, by estimate.
    fn bytes(&self, tokens: usize) -> usize {
        (tokens as f64 * self.bytes_per_token) as usize
    }

    /// A document that begins at `start`, or before it where the text ends too early, with each
    /// sentence at its depth from 0 to 1. None where the sentences alone are half of it.
    pub(super) fn insert(
        &self,
        start: usize,
        target: &Target,
        inserted: &[String],
        depths: &[f64],
    ) -> Result<Option<Document>, TaskError> {
        let mut added = 0;
        for sentence in inserted {
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
            let document = self.compose(start..end, inserted, depths);
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

    /// The end of a document near `end`, before it where possible.
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

    /// The text of a range, with each sentence inserted before the source's sentence at its depth.
    fn compose(&self, range: Range<usize>, inserted: &[String], depths: &[f64]) -> Document {
        let range = range.start..range.start + self.text[range].trim_end().len();
        let mut places: Vec<usize> = self.starts_in(range.clone()).to_vec();
        places.push(range.end);
        let mut chosen: Vec<(usize, &String)> = inserted
            .iter()
            .zip(depths)
            .map(|(sentence, depth)| {
                let at = range.start + (depth * range.len() as f64) as usize;
                let place = places.partition_point(|&place| place < at);
                (place.min(places.len() - 1), sentence)
            })
            .collect();
        chosen.sort_by_key(|(place, _)| *place);
        let mut text = String::with_capacity(
            range.len() + inserted.iter().map(|s| s.len() + 2).sum::<usize>(),
        );
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

/// The parts of a text in which tokens are counted.
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
