//! Documents of a given length.
//!
//! A document is made of units: words of a text, lines, paragraphs. A draft makes the document of any
//! number of units, and the largest number that fits is searched for.

use std::ops::{Range, RangeInclusive};

use super::error::TaskError;
use super::sample::TaskSample;
use super::search::Search;
use super::{CountError, CountTokens};

/// Documents counted in a search at most.
const ROUNDS: usize = 32;

/// The longest prompt in tokens. Longer ones would not fit into memory.
pub(super) const LONGEST: usize = 1 << 30;

/// A document is counted with at least this text after it, which some systems put before a question.
const SEPARATOR: &str = "\n\n";

/// A document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Composed {
    /// Instruction and text.
    pub(super) document: String,
    /// Where the text begins.
    pub(super) text: usize,
    /// The place of the single needle.
    pub(super) needle: Option<Range<usize>>,
    /// The references, where they follow from the document.
    pub(super) references: Option<Vec<String>>,
}

impl Composed {
    /// An instruction and a text without a single needle.
    pub(super) fn new(instruction: &str, text: &str) -> Self {
        Self {
            document: format!("{instruction}{text}"),
            text: instruction.len(),
            needle: None,
            references: None,
        }
    }

    /// The text before the needle and the text after it.
    pub(super) fn around(&self) -> Option<(&str, &str)> {
        let needle = self.needle.as_ref()?;
        let before = self.document.get(self.text..needle.start)?;
        Some((before, self.document.get(needle.end..)?))
    }

    /// How much of the text lies before the needle, from 0 to 1, in bytes.
    pub(super) fn depth(&self) -> Option<f64> {
        let (before, after) = self.around()?;
        Some(part(before.trim_end().len(), after.trim_start().len()))
    }
}

/// `before` as a part of the whole.
pub(super) fn part(before: usize, after: usize) -> f64 {
    match before + after {
        0 => 0.0,
        whole => before as f64 / whole as f64,
    }
}

/// A sample whose document has any number of units.
pub(super) struct Draft<'a> {
    pub(super) separator: &'static str,
    pub(super) question: String,
    pub(super) answer_prefix: String,
    pub(super) references: Vec<String>,
    /// The least and the most units.
    pub(super) units: RangeInclusive<usize>,
    /// The document of a number of units.
    pub(super) compose: Box<dyn Fn(usize) -> Composed + 'a>,
}

/// The length of a prompt.
pub(super) struct Length<'a> {
    /// The task, for errors.
    pub(super) task: &'static str,
    /// Tokens of prompt and answer.
    pub(super) tokens: usize,
    /// Tokens of the answer.
    pub(super) tokens_to_generate: usize,
    pub(super) count: &'a CountTokens<'a>,
}

/// A document that fits.
#[derive(Debug)]
pub(super) struct Fitted {
    /// Its units.
    pub(super) units: usize,
    pub(super) composed: Composed,
    /// Tokens of prompt and answer.
    pub(super) tokens: usize,
}

impl Length<'_> {
    /// The tokens of a text.
    pub(super) fn count(&self, text: &str) -> Result<usize, TaskError> {
        (self.count)(text).map_err(|error: CountError| TaskError::Count(error))
    }
}

impl Draft<'_> {
    /// The document with the most units that fits, or nearly so. The first number tried is `start`.
    ///
    /// # Errors
    ///
    /// [`TaskError::TooShort`], [`TaskError::TooLong`] and [`TaskError::Count`].
    pub(super) fn fit(
        &self,
        length: &Length<'_>,
        start: Option<usize>,
    ) -> Result<Fitted, TaskError> {
        if length.tokens > LONGEST {
            return Err(TaskError::TooLong {
                task: length.task,
                tokens: length.tokens,
                most: LONGEST,
            });
        }
        let other = self.tokens_of_others(length)?;
        let room = length.tokens.saturating_sub(other);
        let mut search = Search::new(self.units.clone(), room);
        let mut best = None;
        for round in 0..ROUNDS {
            let Some(units) = search.next(round, start) else {
                break;
            };
            let (composed, tokens) = self.counted(units, length)?;
            if search.add(units, tokens) {
                let tokens = other.saturating_add(tokens);
                best = Some(Fitted {
                    units,
                    composed,
                    tokens,
                });
            }
            if search.is_close() {
                break;
            }
        }
        match best {
            Some(best) if search.ends_early() => Err(TaskError::TooLong {
                task: length.task,
                tokens: length.tokens,
                most: best.tokens,
            }),
            Some(best) => Ok(best),
            None => Err(TaskError::TooShort {
                task: length.task,
                tokens: length.tokens,
                needed: other.saturating_add(self.counted(*self.units.start(), length)?.1),
            }),
        }
    }

    /// The document of exactly so many units; `length.tokens` is not looked at.
    pub(super) fn exactly(&self, units: usize, length: &Length<'_>) -> Result<Fitted, TaskError> {
        let (composed, tokens) = self.counted(units, length)?;
        let tokens = tokens.saturating_add(self.tokens_of_others(length)?);
        Ok(Fitted {
            units,
            composed,
            tokens,
        })
    }

    /// The sample with a document.
    pub(super) fn sample(self, index: usize, length: &Length<'_>, fitted: Fitted) -> TaskSample {
        TaskSample {
            task: length.task.into(),
            index,
            depth: fitted.composed.depth(),
            document: fitted.composed.document,
            separator: self.separator.into(),
            question: self.question,
            answer_prefix: self.answer_prefix,
            references: fitted.composed.references.unwrap_or(self.references),
            tokens: fitted.tokens,
            tokens_to_generate: length.tokens_to_generate,
        }
    }

    fn counted(&self, units: usize, length: &Length<'_>) -> Result<(Composed, usize), TaskError> {
        let mut composed = (self.compose)(units);
        let end = composed.document.len();
        let longer = self.separator.len() > SEPARATOR.len();
        let separator = if longer { self.separator } else { SEPARATOR };
        composed.document.push_str(separator);
        let tokens = length.count(&composed.document)?;
        composed.document.truncate(end);
        Ok((composed, tokens))
    }

    /// The tokens of all but the document.
    fn tokens_of_others(&self, length: &Length<'_>) -> Result<usize, TaskError> {
        let asked = length.count(&format!("{}{}", self.question, self.answer_prefix))?;
        Ok(asked.saturating_add(length.tokens_to_generate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn count(text: &str) -> Result<usize, CountError> {
        Ok(text.split_whitespace().count())
    }

    /// A document of `per_unit` words a unit, after `before` words.
    fn draft(before: usize, per_unit: usize, units: RangeInclusive<usize>) -> Draft<'static> {
        Draft {
            separator: "\n",
            question: "What?".into(),
            answer_prefix: " It is".into(),
            references: Vec::new(),
            units,
            compose: Box::new(move |units| {
                Composed::new(&"in ".repeat(before), &"a ".repeat(units * per_unit))
            }),
        }
    }

    fn length<'a>(tokens: usize, count: &'a CountTokens<'a>) -> Length<'a> {
        Length {
            task: "test",
            tokens,
            tokens_to_generate: 7,
            count,
        }
    }

    #[test]
    fn few_documents_are_counted() {
        for (before, per_unit) in [(0, 1), (100, 1), (300, 7), (50, 100), (0, 800)] {
            let draft = draft(before, per_unit, 1..=usize::MAX);
            for tokens in [1000, 5000, 100_000] {
                let calls = Cell::new(0);
                let counted = |text: &str| {
                    calls.set(calls.get() + 1);
                    count(text)
                };
                let length = length(tokens, &counted);
                let fitted = draft.fit(&length, None).unwrap();
                let unused = tokens - fitted.tokens;
                assert!(
                    unused <= per_unit.max(tokens / 100),
                    "{before} {per_unit} {tokens} {unused}"
                );
                assert!(
                    calls.get() <= 8,
                    "{before} {per_unit} {tokens}: {}",
                    calls.get()
                );
                calls.set(0);
                draft.fit(&length, Some(fitted.units)).unwrap();
                assert!(calls.get() <= 3 || per_unit > 50);
            }
        }
    }

    #[test]
    fn lengths_without_a_document_are_refused() {
        let draft = draft(20, 10, 3..=100);
        for tokens in [0, 9, 30, 59] {
            let error = draft.fit(&length(tokens, &count), None).unwrap_err();
            assert!(
                matches!(error, TaskError::TooShort { needed: 60, .. }),
                "{tokens}: {error}"
            );
        }
        assert_eq!(draft.fit(&length(60, &count), None).unwrap().units, 3);
        assert_eq!(draft.fit(&length(60, &count), Some(90)).unwrap().units, 3);
        assert_eq!(draft.fit(&length(1035, &count), None).unwrap().units, 100);
        let error = draft.fit(&length(5000, &count), None).unwrap_err();
        assert!(
            matches!(error, TaskError::TooLong { most: 1030, .. }),
            "{error}"
        );
    }

    #[test]
    fn searches_end_for_any_counter() {
        let draft = draft(3, 1, 1..=usize::MAX);
        for counter in [
            |_: &str| Ok(0),
            |_: &str| Ok(usize::MAX / 4),
            |text: &str| Ok(text.len() * 7919 % 101),
        ] as [fn(&str) -> Result<usize, CountError>; 3]
        {
            for tokens in [0, 10, 1000] {
                let _ = draft.fit(&length(tokens, &counter), None);
            }
        }
        let failing = |_: &str| Err::<usize, CountError>("no tokenizer".into());
        let error = draft.fit(&length(100, &failing), None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot count the tokens of a text: no tokenizer"
        );
    }

    #[test]
    fn depths_are_parts_of_the_text_alone() {
        let composed = Composed {
            document: "Read. abcd NEEDLE efghijklmnop".into(),
            text: 6,
            needle: Some(11..17),
            references: None,
        };
        assert_eq!(composed.depth(), Some(0.25));
        assert_eq!(Composed::new("a", "b").depth(), None);
    }
}
