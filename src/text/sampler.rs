//! The next token from a row of logits.
//!
//! The steps and their order are those of Hugging Face transformers: repetition penalty, processors of
//! one's own, temperature, top-k, top-p, min-p, then one draw.
//!
//! | file | what it holds |
//! |---|---|
//! | `config` | [`SamplerConfig`]: how to choose, in numbers |
//! | `processor` | [`LogitsProcessor`]: the interface of the steps |
//! | `penalty` | [`RepetitionPenalty`] |
//! | `constraint` | [`BanTokens`], [`AllowTokens`] |
//! | `warpers` | [`Temperature`], [`TopK`], [`TopP`], [`MinP`] |

mod config;
mod constraint;
mod error;
mod penalty;
mod processor;
mod warpers;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};

pub use config::SamplerConfig;
pub use constraint::{AllowTokens, BanTokens};
pub use error::SamplerError;
pub use penalty::RepetitionPenalty;
pub use processor::LogitsProcessor;
pub use warpers::{MinP, Temperature, TopK, TopP};

use warpers::{Candidate, candidates};

/// Chooses token after token.
///
/// ```
/// use burn_apb::text::sampler::{Sampler, SamplerConfig};
///
/// let mut sampler = Sampler::new(SamplerConfig::default())?;
/// assert_eq!(sampler.sample(&mut [0.1, 2.5, -1.0])?, 1);
/// # Ok::<(), burn_apb::text::sampler::SamplerError>(())
/// ```
pub struct Sampler {
    penalty: Option<RepetitionPenalty>,
    processors: Vec<Box<dyn LogitsProcessor>>,
    /// 0 is greedy.
    temperature: f32,
    top_k: TopK,
    top_p: TopP,
    min_p: MinP,
    rng: Box<dyn Rng + Send>,
    /// The answer so far, for the processors; empty where there are none.
    answer: Vec<u32>,
}

impl Sampler {
    /// A sampler that has seen no tokens and draws by the configuration's seed.
    ///
    /// # Errors
    ///
    /// As [`SamplerConfig::validate`].
    pub fn new(config: SamplerConfig) -> Result<Self, SamplerError> {
        // A named algorithm, so that a seed means the same tokens on every machine and in every
        // version.
        let rng = Xoshiro256PlusPlus::seed_from_u64(config.seed);
        Self::from_rng(config, rng)
    }

    /// The same with draws by a generator in place of the seed.
    ///
    /// # Errors
    ///
    /// As [`SamplerConfig::validate`].
    pub fn from_rng(
        config: SamplerConfig,
        rng: impl Rng + Send + 'static,
    ) -> Result<Self, SamplerError> {
        config.validate()?;
        let penalty = RepetitionPenalty::new(config.repetition_penalty)?;
        Ok(Self {
            penalty: (config.repetition_penalty != 1.0).then_some(penalty),
            processors: Vec::new(),
            temperature: config.temperature,
            top_k: TopK::new(config.top_k),
            top_p: TopP::new(config.top_p)?,
            min_p: MinP::new(config.min_p)?,
            rng: Box::new(rng),
            answer: Vec::new(),
        })
    }

    /// The same with a processor of one's own behind those it has. It runs after the repetition penalty
    /// and before the temperature, and is given before the first token is seen.
    pub fn with_processor(self, processor: impl LogitsProcessor + 'static) -> Self {
        self.with_processors([Box::new(processor) as Box<dyn LogitsProcessor>])
    }

    /// [`with_processor`](Self::with_processor) for several, in their order.
    pub fn with_processors(
        mut self,
        processors: impl IntoIterator<Item = Box<dyn LogitsProcessor>>,
    ) -> Self {
        self.processors.extend(processors);
        self
    }

    /// Counts `ids` as seen before the answer: those of the prompt, in transformers. What
    /// [`sample`](Self::sample) chooses is counted by itself; ids that follow begin another answer.
    pub fn observe(&mut self, ids: &[u32]) {
        let own = self
            .penalty
            .iter_mut()
            .map(|penalty| penalty as &mut dyn LogitsProcessor);
        let given = self
            .processors
            .iter_mut()
            .map(|processor| &mut **processor as _);
        for processor in own.chain(given) {
            if !self.answer.is_empty() {
                processor.observe(&self.answer);
            }
            processor.observe(ids);
        }
        self.answer.clear();
    }

    /// Chooses the next token from `logits`, one for each of the vocabulary, which it may change.
    /// Of equal logits, greedy choice takes the lower id. Negative infinity rules a token out.
    ///
    /// # Errors
    ///
    /// [`SamplerError::NotFinite`] for NaN and positive infinity, of the model or of a processor,
    /// [`SamplerError::NoTokens`] where nothing can be chosen, [`SamplerError::UnknownId`] where the
    /// repetition penalty has seen a token that has no logit.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<u32, SamplerError> {
        let mut best = argmax(logits)?;
        if let Some(penalty) = &mut self.penalty {
            penalty.penalise(&self.answer, logits)?;
            best = argmax(logits)?;
        }
        // Each is checked: the next might hide what it has broken.
        for processor in &mut self.processors {
            processor.process(&self.answer, logits);
            best = argmax(logits)?;
        }
        let id = if self.temperature == 0.0 {
            best
        } else {
            let candidates = self.candidates(logits, logits[best as usize]);
            self.draw(&candidates).unwrap_or(best)
        };
        if self.penalty.is_some() || !self.processors.is_empty() {
            self.answer.push(id);
        }
        Ok(id)
    }

    /// The tokens that may be drawn, each with a share of the probability.
    fn candidates(&self, logits: &[f32], largest: f32) -> Vec<Candidate> {
        let mut candidates = candidates(logits, self.temperature, largest);
        self.top_k.keep(&mut candidates);
        self.top_p.keep(&mut candidates);
        self.min_p.keep(&mut candidates);
        candidates
    }

    fn draw(&mut self, candidates: &[Candidate]) -> Option<u32> {
        let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
        // 53 bits, as many as an f64 holds: a uniform number in [0, 1).
        let uniform = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut left = uniform * total;
        let possible = candidates.iter().filter(|candidate| candidate.weight > 0.0);
        let mut last = None;
        for candidate in possible {
            last = Some(candidate.id);
            if left < candidate.weight {
                break;
            }
            left -= candidate.weight;
        }
        last
    }
}

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler")
            .field("penalty", &self.penalty)
            .field("processors", &self.processors.len())
            .field("temperature", &self.temperature)
            .field("top_k", &self.top_k)
            .field("top_p", &self.top_p)
            .field("min_p", &self.min_p)
            .finish_non_exhaustive()
    }
}

/// The lowest id of the largest logit, in the one pass that also finds what is no number.
fn argmax(logits: &[f32]) -> Result<u32, SamplerError> {
    let mut best = None;
    let mut largest = f32::NEG_INFINITY;
    for (id, &logit) in (0..).zip(logits) {
        if logit.is_nan() || logit == f32::INFINITY {
            let id = id as usize;
            return Err(SamplerError::NotFinite { id, logit });
        }
        if logit > largest {
            (best, largest) = (Some(id), logit);
        }
    }
    best.ok_or(SamplerError::NoTokens)
}

#[cfg(test)]
mod tests;
