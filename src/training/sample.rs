//! Training samples in tokens.

use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::text::prompt::{PromptError, PromptOptions};
use crate::{ModelError, ModelText};

use crate::tasks::TextSample;

/// The names in errors of the samples to learn from and of those held out.
pub(super) const SAMPLE: &str = "sample";
pub(super) const HELD_OUT: &str = "held-out sample";

/// A document, a question and its answer as one sequence of tokens, with the ranges of its parts.
///
/// ```text
/// [prefix | question | document | question | template's tail | answer]
///           `query`    `scored`                                `answer`
/// ```
///
/// The first question is where APB's anchor has it: a rank's rows are computed with the question
/// visible, and so are the features and labels that heads learn from (the query-aware variant of
/// Locret, <https://arxiv.org/abs/2410.01805>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// All tokens.
    pub ids: Vec<u32>,
    /// Rows of the question in front; empty in the variant without one.
    pub query: Range<usize>,
    /// Rows whose scores are learned.
    pub scored: Range<usize>,
    /// Rows whose attention gives the labels.
    pub answer: Range<usize>,
}

/// Why a text cannot become a sample.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// The prompt cannot be built.
    #[error(transparent)]
    Prompt(#[from] Box<ModelError>),
    /// The sample is longer than the model's or the run's limit.
    #[error("{tokens} tokens with an answer of {answer}, expected at most {limit}")]
    TooLong {
        /// Tokens of the sample.
        tokens: usize,
        /// Tokens of its answer.
        answer: usize,
        /// The most there may be.
        limit: usize,
    },
    /// The answer alone is too long.
    #[error("an answer of {answer} tokens, expected fewer than the {limit} there is room for")]
    LongAnswer {
        /// Tokens of the answer.
        answer: usize,
        /// The most there may be in all.
        limit: usize,
    },
    /// An answer without tokens, which gives no labels.
    #[error("the answer has no tokens")]
    NoAnswer,
    /// A document without tokens.
    #[error("the document has no tokens to score")]
    NoDocument,
    /// Ranges that overlap, are out of order or leave tokens behind the answer.
    #[error(
        "expected the ranges of question, document and answer in order, the answer's to the end of \
         the {tokens} tokens, found {query:?}, {scored:?} and {answer:?}"
    )]
    Ranges {
        /// Tokens of the sample.
        tokens: usize,
        /// [`Sample::query`].
        query: Range<usize>,
        /// [`Sample::scored`].
        scored: Range<usize>,
        /// [`Sample::answer`].
        answer: Range<usize>,
    },
}

impl Sample {
    /// Builds the model's prompt of a text sample and encodes it. `question_first`: the variant with
    /// the question in front, which APB needs.
    ///
    /// # Errors
    ///
    /// [`SampleError`]: the prompt cannot be built, or has more than `limit` tokens with the answer.
    pub fn new(
        model: &ModelText,
        text: &TextSample,
        question_first: bool,
        limit: usize,
    ) -> Result<Self, SampleError> {
        let prompt = |error: ModelError| SampleError::Prompt(Box::new(error));
        let split = model
            .split(&text.document, &text.question, &PromptOptions::default())
            .map_err(prompt)?;
        let answer = model
            .tokenizer
            .encode(text.answer.trim(), false)
            .map_err(|error| prompt(error.into()))?;
        check_vocabulary(&answer, model.config.vocab_size)?;
        if answer.is_empty() {
            return Err(SampleError::NoAnswer);
        }
        if answer.len() >= limit {
            return Err(SampleError::LongAnswer {
                answer: answer.len(),
                limit,
            });
        }
        let question: &[u32] = if question_first { &split.query } else { &[] };
        let start = split.prefix.len();
        let query = start..start + question.len();
        let scored = query.end..query.end + split.document.len();
        let ids = [
            split.prefix.as_slice(),
            question,
            &split.document,
            &split.query,
            &split.tail,
            &answer,
        ]
        .concat();
        if ids.len() > limit {
            return Err(SampleError::TooLong {
                tokens: ids.len(),
                answer: answer.len(),
                limit,
            });
        }
        Ok(Self {
            answer: ids.len() - answer.len()..ids.len(),
            ids,
            query,
            scored,
        })
    }

    /// Refuses a sample that a model of this context and vocabulary cannot run, or that has nothing to
    /// learn from.
    pub(super) fn check(&self, context: usize, vocab_size: usize) -> Result<(), SampleError> {
        let (query, scored, answer) = (&self.query, &self.scored, &self.answer);
        let tokens = self.ids.len();
        if answer.is_empty() {
            return Err(SampleError::NoAnswer);
        }
        if scored.is_empty() {
            return Err(SampleError::NoDocument);
        }
        let bounds = [query, scored, answer].map(|range| [range.start, range.end]);
        if !bounds.as_flattened().is_sorted() || answer.end != tokens {
            return Err(SampleError::Ranges {
                tokens,
                query: query.clone(),
                scored: scored.clone(),
                answer: answer.clone(),
            });
        }
        if tokens > context {
            return Err(SampleError::TooLong {
                tokens,
                answer: answer.len(),
                limit: context,
            });
        }
        check_vocabulary(&self.ids, vocab_size)
    }

    /// Adds some of its ranges and all tokens to a hash.
    pub(super) fn hash(&self, ranges: &[&Range<usize>], hash: &mut Sha256) {
        for range in ranges {
            hash.update((range.start as u64).to_le_bytes());
            hash.update((range.end as u64).to_le_bytes());
        }
        for id in &self.ids {
            hash.update(id.to_le_bytes());
        }
    }
}

/// Refuses tokens beyond the model's vocabulary.
fn check_vocabulary(ids: &[u32], vocab_size: usize) -> Result<(), SampleError> {
    let Some(index) = ids.iter().position(|id| *id as usize >= vocab_size) else {
        return Ok(());
    };
    let beyond = PromptError::BeyondVocabulary {
        id: ids[index],
        index,
        vocab_size,
    };
    Err(SampleError::Prompt(Box::new(beyond.into())))
}

/// Samples to learn from and to validate on.
#[derive(Debug, Clone, Default)]
pub struct TrainingData {
    /// To learn from.
    pub train: Vec<Arc<Sample>>,
    /// Held out.
    pub held_out: Vec<Arc<Sample>>,
}

impl TrainingData {
    /// A hash of all tokens, in order.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for samples in [&self.train, &self.held_out] {
            hash.update((samples.len() as u64).to_le_bytes());
            for sample in samples {
                sample.hash(&[&sample.query, &sample.scored, &sample.answer], &mut hash);
            }
        }
        crate::hex::encode(&hash.finalize())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::checkpoint::ModelSource;

    fn model() -> ModelText {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama-gqa");
        ModelText::load(&ModelSource::open(path).expect("a model")).expect("its text")
    }

    fn text(answer: &str) -> TextSample {
        TextSample {
            document: "It was a bright cold day in April.".into(),
            question: "What month was it?".into(),
            answer: answer.into(),
        }
    }

    #[test]
    fn ranges_cover_their_parts() {
        let model = model();
        let sample = Sample::new(&model, &text("April."), true, 1000).expect("a sample");
        let split = model
            .split(
                "It was a bright cold day in April.",
                "What month was it?",
                &PromptOptions::default(),
            )
            .expect("a prompt");
        let rows = |range: &Range<usize>| sample.ids[range.clone()].to_vec();
        assert_eq!(rows(&(0..sample.query.start)), split.prefix);
        assert_eq!(rows(&sample.query), split.query);
        assert_eq!(rows(&sample.scored), split.document);
        let behind = sample.scored.end..sample.answer.start;
        assert_eq!(rows(&behind), [split.query.clone(), split.tail].concat());
        let answer = model.tokenizer.encode("April.", false).expect("tokens");
        assert_eq!(rows(&sample.answer), answer);
        assert_eq!(sample.answer.end, sample.ids.len());

        let plain = Sample::new(&model, &text("April."), false, 1000).expect("a sample");
        assert!(plain.query.is_empty());
        assert_eq!(plain.ids.len() + split.query.len(), sample.ids.len());
        assert_eq!(plain.ids[plain.scored.clone()], rows(&sample.scored));
    }

    #[test]
    fn unusable_texts_are_refused() {
        let model = model();
        let whole = Sample::new(&model, &text("April."), true, 1000).expect("a sample");
        let length = whole.ids.len();
        assert!(Sample::new(&model, &text("April."), true, length).is_ok());
        let made = |answer, limit| Sample::new(&model, &text(answer), true, limit).map(|_| ());
        assert!(matches!(
            made("April.", length - 1),
            Err(SampleError::TooLong { tokens, .. }) if tokens == length
        ));
        let long = "April. ".repeat(50);
        assert!(matches!(
            made(&long, 20),
            Err(SampleError::LongAnswer { .. })
        ));
        assert!(matches!(made(" \n", 1000), Err(SampleError::NoAnswer)));
        let mut blank = text("April.");
        blank.question = " ".into();
        assert!(matches!(
            Sample::new(&model, &blank, true, 1000),
            Err(SampleError::Prompt(_))
        ));
    }
}
