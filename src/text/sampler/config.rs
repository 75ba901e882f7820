//! How the next token is chosen, in numbers.

use super::error::in_range;
use super::{MinP, RepetitionPenalty, SamplerError, TopP};
use crate::text::generation_config::GenerationConfig;

/// Transformers' `top_k` where a model's files ask for sampling without one.
const DEFAULT_TOP_K: usize = 50;

/// How to choose the next token. The default is greedy.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerConfig {
    /// Divides the logits; 0 takes the likeliest token (greedy), whatever the fields below are.
    pub temperature: f32,
    /// How many of the likeliest tokens to draw from; 0 is all. Tokens as likely as the last of
    /// them stay too.
    pub top_k: usize,
    /// How much of the probability to draw from, likeliest first; in (0, 1].
    pub top_p: f32,
    /// The least probability to draw, as a share of the likeliest token's; in [0, 1].
    pub min_p: f32,
    /// Divides positive logits of tokens seen and multiplies negative ones; in [0.01, 100], and 1
    /// changes nothing. Greedy choice too.
    pub repetition_penalty: f32,
    /// Where the draws start: equal seeds draw equal tokens from equal logits.
    pub seed: u64,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl From<&GenerationConfig> for SamplerConfig {
    /// What transformers' `generate` does with the same file: greedy unless `do_sample` is true,
    /// and then a temperature of 1 and a top-k of 50 where it names none.
    fn from(config: &GenerationConfig) -> Self {
        let greedy = Self {
            repetition_penalty: config.repetition_penalty.unwrap_or(1.0),
            ..Self::default()
        };
        if config.do_sample != Some(true) {
            return greedy;
        }
        Self {
            temperature: config.temperature.unwrap_or(1.0),
            top_k: config.top_k.unwrap_or(DEFAULT_TOP_K),
            top_p: config.top_p.unwrap_or(1.0),
            min_p: config.min_p.unwrap_or(0.0),
            ..greedy
        }
    }
}

impl SamplerConfig {
    /// Whether every value is in its range.
    ///
    /// # Errors
    ///
    /// [`SamplerError::Config`] for the first that is not, NaN included.
    pub fn validate(&self) -> Result<(), SamplerError> {
        let t = self.temperature;
        in_range(t.is_finite() && t >= 0.0, "temperature", "0 or more", t)?;
        TopP::new(self.top_p)?;
        MinP::new(self.min_p)?;
        RepetitionPenalty::new(self.repetition_penalty)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_transformers() {
        let config = GenerationConfig {
            temperature: Some(0.6),
            repetition_penalty: Some(1.1),
            ..GenerationConfig::default()
        };
        let greedy = SamplerConfig::from(&config);
        assert_eq!((greedy.temperature, greedy.repetition_penalty), (0.0, 1.1));
        let sampled = SamplerConfig::from(&GenerationConfig {
            do_sample: Some(true),
            ..config
        });
        assert_eq!((sampled.temperature, sampled.top_k), (0.6, 50));
    }
}
