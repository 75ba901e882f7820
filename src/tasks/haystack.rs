//! The text in which needles are hidden.

use std::ops::Range;

use super::error::TaskError;
use crate::text::sentences;

/// A text in which needles are hidden. Its words are separated by single spaces, as in RULER. A
/// document that is longer than the text repeats it.
#[derive(Debug, Clone)]
pub struct Haystack {
    text: String,
    /// The end of each word.
    ends: Vec<usize>,
    /// The words that begin a sentence, ascending.
    sentences: Vec<usize>,
}

impl Haystack {
    /// Takes the words of `text`.
    ///
    /// # Errors
    ///
    /// [`TaskError::EmptyText`].
    pub fn new(text: &str) -> Result<Self, TaskError> {
        let mut joined = String::with_capacity(text.len());
        let mut ends = Vec::new();
        for word in text.split_whitespace() {
            if !joined.is_empty() {
                joined.push(' ');
            }
            joined.push_str(word);
            ends.push(joined.len());
        }
        if ends.is_empty() {
            return Err(TaskError::EmptyText);
        }
        let mut sentences: Vec<usize> = sentences::starts(&joined)
            .into_iter()
            .map(|start| ends.partition_point(|&end| end <= start))
            .collect();
        // Several sentences of Chinese may be one word.
        sentences.dedup();
        Ok(Self {
            text: joined,
            ends,
            sentences,
        })
    }

    /// The number of words.
    pub fn words(&self) -> usize {
        self.ends.len()
    }

    /// Whether the text contains `part`.
    pub(super) fn contains(&self, part: &str) -> bool {
        self.text.contains(part)
    }

    /// The words that begin a sentence.
    pub(super) fn sentences(&self) -> &[usize] {
        &self.sentences
    }

    /// `count` words from the word `first` on. The text begins again where it ends.
    pub(super) fn part(&self, first: usize, count: usize) -> String {
        let mut part = String::new();
        let (mut first, mut count) = (first % self.ends.len(), count);
        while count > 0 {
            let taken = count.min(self.ends.len() - first);
            if !part.is_empty() {
                part.push(' ');
            }
            part.push_str(&self.text[self.range(first, taken)]);
            (first, count) = (0, count - taken);
        }
        part
    }

    fn range(&self, first: usize, count: usize) -> Range<usize> {
        let start = match first {
            0 => 0,
            first => self.ends[first - 1] + 1,
        };
        start..self.ends[first + count - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_repeat_the_text() {
        let haystack = Haystack::new(" One two.\n\nThree  four. ").unwrap();
        assert_eq!(haystack.words(), 4);
        assert_eq!(haystack.sentences(), [0, 2]);
        assert_eq!(haystack.part(0, 0), "");
        assert_eq!(haystack.part(0, 3), "One two. Three");
        assert_eq!(haystack.part(2, 7), "Three four. One two. Three four. One");
        assert!(haystack.contains("two. Three"));
        assert!(matches!(Haystack::new(" \n"), Err(TaskError::EmptyText)));
    }
}
