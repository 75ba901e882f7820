//! Samples made from any text: documents of it in which something is hidden and asked for.
//!
//! | to see | read |
//! |---|---|
//! | where a text may be cut | `sentences` |
//! | how a document gets its length, and the hidden sentences their places | `document` |
//! | what is hidden and asked | `needles`, `facts`, `key_value`, `quote`; words in `words` |

use std::ops::RangeInclusive;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};

use super::error::DataError;
use super::sample::TextSample;
use crate::text::tokenizer::TokenizerError;

mod document;
mod facts;
mod key_value;
mod needles;
mod quote;
mod sentences;
mod words;

use document::{Source, Target};

/// Counts the tokens of a text, as the model's tokenizer does.
pub type CountTokens<'a> = dyn Fn(&str) -> Result<usize, TokenizerError> + 'a;

/// The fewest tokens that a document may be asked to have: less has no room for what is hidden.
pub const FEWEST_TOKENS: usize = 256;

/// How often a sample is begun anew where its answer stands in the text already.
const ATTEMPTS: usize = 16;

/// What samples to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynthesisConfig {
    /// How many.
    pub samples: usize,
    /// The length of a document in tokens, drawn uniformly. A document is never longer than the end
    /// of the range, and may miss the length drawn by a twentieth.
    pub tokens: RangeInclusive<usize>,
    /// Where chance begins.
    pub seed: u64,
}

impl SynthesisConfig {
    /// So many samples with documents of so many tokens, from seed 0.
    pub fn new(samples: usize, tokens: RangeInclusive<usize>) -> Self {
        Self {
            samples,
            tokens,
            seed: 0,
        }
    }

    /// Other samples for another seed.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Another number of samples.
    pub fn with_samples(mut self, samples: usize) -> Self {
        self.samples = samples;
        self
    }

    /// Other lengths.
    pub fn with_tokens(mut self, tokens: RangeInclusive<usize>) -> Self {
        self.tokens = tokens;
        self
    }
}

/// What a sample asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
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

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::SingleNeedle,
        Self::MultiKey,
        Self::MultiValue,
        Self::KeyValue,
        Self::Fact,
        Self::Quote,
    ];

    /// The kinds in turn, the more common ones more often.
    const TURN: [Self; 12] = [
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

/// What is hidden in a text, and asked for.
struct Hidden {
    sentences: Vec<String>,
    question: String,
    answer: String,
    /// What must stand in the document once only, or the question has two answers.
    unique: Vec<String>,
}

/// Makes samples from a text: the same for the same text, configuration and index, whichever were
/// made before.
///
/// A document is a stretch of the text from the start of a sentence on, with what is hidden between
/// sentences at any depth. What the answer says stands in the document exactly once, beside what the
/// question asks for.
pub struct Synthesizer<'a> {
    source: Source<'a>,
    config: SynthesisConfig,
}

impl<'a> Synthesizer<'a> {
    /// Finds the sentences of `text` and how many tokens they have. `count` is asked about a part of
    /// the text here, and about a few documents for each sample.
    ///
    /// # Errors
    ///
    /// [`DataError::Lengths`], [`DataError::TextTooShort`] for a text that is shorter than the
    /// longest document, and what `count` fails with.
    pub fn new(
        text: &'a str,
        config: SynthesisConfig,
        count: &'a CountTokens<'a>,
    ) -> Result<Self, DataError> {
        let (start, end) = (*config.tokens.start(), *config.tokens.end());
        if start < FEWEST_TOKENS || start > end {
            return Err(DataError::Lengths {
                fewest: FEWEST_TOKENS,
                start,
                end,
            });
        }
        let source = Source::new(text, count, end)?;
        Ok(Self { source, config })
    }

    /// How many samples there are.
    pub fn len(&self) -> usize {
        self.config.samples
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.config.samples == 0
    }

    /// Makes a sample, `index` from zero. The kinds take turns. Where a kind does not fit the text,
    /// such as a quote a text without sentences, the sample is a needle.
    ///
    /// # Errors
    ///
    /// [`DataError::NoSuchSample`], [`DataError::NotMade`], and what counting fails with.
    pub fn sample(&self, index: usize) -> Result<(TextSample, Kind), DataError> {
        if index >= self.config.samples {
            return Err(DataError::NoSuchSample {
                index,
                samples: self.config.samples,
            });
        }
        // Through a generator first: seeds and indices are small numbers, and must not add up to the
        // same.
        let base = Xoshiro256PlusPlus::seed_from_u64(self.config.seed).next_u64();
        let mut random = Xoshiro256PlusPlus::seed_from_u64(base.wrapping_add(index as u64));
        let target = Target::draw(&self.config.tokens, &mut random);
        for kind in [Kind::TURN[index % Kind::TURN.len()], Kind::SingleNeedle] {
            for _ in 0..ATTEMPTS {
                if let Some(sample) = self.attempt(kind, &target, &mut random)? {
                    return Ok((sample, kind));
                }
            }
        }
        Err(DataError::NotMade {
            index,
            tokens: target.tokens,
        })
    }

    /// A sample of one kind, or none where chance was not kind.
    fn attempt(
        &self,
        kind: Kind,
        target: &Target,
        random: &mut Xoshiro256PlusPlus,
    ) -> Result<Option<TextSample>, DataError> {
        let hidden = match kind {
            Kind::KeyValue => return key_value::sample(&self.source, target, random),
            Kind::Quote => return quote::sample(&self.source, target, random),
            Kind::SingleNeedle => needles::single(random),
            Kind::MultiKey => needles::multi_key(target.tokens, random),
            Kind::MultiValue => needles::multi_value(random),
            Kind::Fact => facts::fact(random),
        };
        let first = self.source.start(target, random);
        // Cheaper than counting the tokens of a document that is of no use.
        let around = self.source.around(first, target);
        if hidden.unique.iter().any(|text| around.contains(text)) {
            return Ok(None);
        }
        let depths: Vec<f64> = hidden.sentences.iter().map(|_| random.random()).collect();
        let hiding = self
            .source
            .hide(first, target, &hidden.sentences, &depths)?;
        let Some(document) = hiding else {
            return Ok(None);
        };
        let once = |text: &String| document.text.matches(text.as_str()).count() == 1;
        Ok(hidden.unique.iter().all(once).then(|| TextSample {
            document: document.text.clone(),
            question: hidden.question,
            answer: hidden.answer,
        }))
    }
}

#[cfg(test)]
mod tests;
