//! Samples made from any text: a document is a part of the text in which a sentence is inserted and
//! asked for, a list of keys and values, or the text alone with a quote asked for.

use std::ops::RangeInclusive;

use burn::config::Config;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};

use super::error::TaskError;
use super::sample::TextSample;

mod document;
mod facts;
mod key_value;
mod needles;
mod quote;
mod words;

use super::CountTokens;
use document::{Source, Target};

/// The fewest tokens of a document: a shorter one has no room for the inserted sentences.
pub(crate) const FEWEST_TOKENS: usize = 256;

/// Attempts at a sample whose answer occurs in the text already.
const ATTEMPTS: usize = 16;

/// Configuration of a [`Synthesizer`].
#[derive(Config, Debug, PartialEq, Eq)]
pub struct SynthesisConfig {
    /// Number of samples.
    pub samples: usize,
    /// The length of a document in tokens, drawn uniformly. A document is never longer than the end
    /// of the range, and may differ from the length drawn by a twentieth.
    pub tokens: RangeInclusive<usize>,
    /// Seed of the samples.
    #[config(default = 0)]
    pub seed: u64,
}

/// The kind of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TaskKind {
    /// One sentence with a value that does not belong to the text, as in
    /// [RULER](https://arxiv.org/abs/2404.06654) and in other words.
    SingleNeedle,
    /// Several such sentences with keys of their own, of which one is asked for.
    MultiKey,
    /// Several values of one key in different places; all are asked for.
    MultiValue,
    /// A document of nothing but keys and values.
    KeyValue,
    /// An invented fact in plain prose, asked for in other words.
    Fact,
    /// A sentence of the text itself, asked for by its first words.
    Quote,
}

impl TaskKind {
    /// The order in which kinds follow each other; some are more frequent.
    const ROTATION: [Self; 12] = [
        Self::SingleNeedle,
        Self::MultiKey,
        Self::Fact,
        Self::Quote,
        Self::MultiValue,
        Self::KeyValue,
        Self::SingleNeedle,
        Self::Quote,
        Self::MultiKey,
        Self::Fact,
        Self::MultiValue,
        Self::SingleNeedle,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::SingleNeedle => "single-needle",
            Self::MultiKey => "multi-key",
            Self::MultiValue => "multi-value",
            Self::KeyValue => "key-value",
            Self::Fact => "fact",
            Self::Quote => "quote",
        }
    }
}

/// Makes samples from a text: the same for the same text, configuration and index, whichever were
/// made before.
///
/// A document begins at the start of a sentence, with the inserted sentences between others at any
/// depth. The document contains the answer exactly once.
pub struct Synthesizer<'a> {
    source: Source<'a>,
    config: SynthesisConfig,
}

impl<'a> Synthesizer<'a> {
    /// Finds the sentences of `text` and estimates its tokens. `count` is called with a part of the
    /// text here, and with a few documents for each sample.
    ///
    /// # Errors
    ///
    /// [`TaskError::Lengths`], [`TaskError::TextTooShort`] for a text that is shorter than the
    /// longest document, and those of `count`.
    pub fn new(
        text: &'a str,
        config: SynthesisConfig,
        count: &'a CountTokens<'a>,
    ) -> Result<Self, TaskError> {
        let (start, end) = (*config.tokens.start(), *config.tokens.end());
        if start < FEWEST_TOKENS || start > end {
            return Err(TaskError::Lengths {
                fewest: FEWEST_TOKENS,
                start,
                end,
            });
        }
        let source = Source::new(text, count, end)?;
        Ok(Self { source, config })
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.config.samples
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.config.samples == 0
    }

    /// Makes a sample, `index` from zero. Where a kind does not fit the text, such as a quote of a text
    /// without sentences, the sample is a needle.
    ///
    /// # Errors
    ///
    /// [`TaskError::NoSuchSample`], [`TaskError::NotMade`], and those of counting.
    pub fn sample(&self, index: usize) -> Result<(TextSample, TaskKind), TaskError> {
        if index >= self.config.samples {
            return Err(TaskError::NoSuchSample {
                task: "synthesis",
                index,
                samples: self.config.samples,
            });
        }
        // Mixed first: the sums of small seeds and indices coincide.
        let base = Xoshiro256PlusPlus::seed_from_u64(self.config.seed).next_u64();
        let mut random = Xoshiro256PlusPlus::seed_from_u64(base.wrapping_add(index as u64));
        let target = Target::draw(&self.config.tokens, &mut random);
        for kind in [
            TaskKind::ROTATION[index % TaskKind::ROTATION.len()],
            TaskKind::SingleNeedle,
        ] {
            for _ in 0..ATTEMPTS {
                if let Some(sample) = self.attempt(kind, &target, &mut random)? {
                    return Ok((sample, kind));
                }
            }
        }
        Err(TaskError::NotMade {
            index,
            tokens: target.tokens,
        })
    }

    /// A sample of one kind, or none where its answer is not unique or no document fits.
    fn attempt(
        &self,
        kind: TaskKind,
        target: &Target,
        random: &mut Xoshiro256PlusPlus,
    ) -> Result<Option<TextSample>, TaskError> {
        let needle = match kind {
            TaskKind::KeyValue => return key_value::sample(&self.source, target, random),
            TaskKind::Quote => return quote::sample(&self.source, target, random),
            TaskKind::SingleNeedle => needles::single(random),
            TaskKind::MultiKey => needles::multi_key(target.tokens, random),
            TaskKind::MultiValue => needles::multi_value(random),
            TaskKind::Fact => facts::fact(random),
        };
        let first = self.source.start(target, random);
        // Before the tokens of the document are counted, which takes longer.
        let around = self.source.around(first, target);
        if needle.unique.iter().any(|text| around.contains(text)) {
            return Ok(None);
        }
        let depths: Vec<f64> = needle.sentences.iter().map(|_| random.random()).collect();
        let document = self
            .source
            .insert(first, target, &needle.sentences, &depths)?;
        let Some(document) = document else {
            return Ok(None);
        };
        let once = |text: &String| document.text.matches(text.as_str()).count() == 1;
        Ok(needle.unique.iter().all(once).then(|| TextSample {
            document: document.text.clone(),
            question: needle.question,
            answer: needle.answer,
        }))
    }
}

#[cfg(test)]
mod tests;
