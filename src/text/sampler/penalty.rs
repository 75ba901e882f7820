//! The penalty on tokens that were there before.

use std::collections::HashSet;

use super::error::in_range;
use super::{LogitsProcessor, SamplerError};

/// Divides positive logits of tokens seen, in prompt or answer, and multiplies negative ones
/// (CTRL, arXiv 1909.05858).
#[derive(Debug, Clone)]
pub struct RepetitionPenalty {
    penalty: f32,
    seen: HashSet<u32>,
    /// Tokens of the answer that are among those seen.
    counted: usize,
}

impl RepetitionPenalty {
    /// A penalty in [0.01, 100]; 1 changes nothing.
    ///
    /// # Errors
    ///
    /// [`SamplerError::Config`] beyond that.
    pub fn new(penalty: f32) -> Result<Self, SamplerError> {
        let ok = (0.01..=100.0).contains(&penalty);
        Ok(Self {
            penalty: in_range(ok, "repetition_penalty", "from 0.01 to 100", penalty)?,
            seen: HashSet::new(),
            counted: 0,
        })
    }

    /// As [`process`](LogitsProcessor::process), which skips tokens that have no logit.
    pub(super) fn penalise(
        &mut self,
        so_far: &[u32],
        logits: &mut [f32],
    ) -> Result<(), SamplerError> {
        self.seen
            .extend(so_far.get(self.counted..).unwrap_or(so_far));
        self.counted = so_far.len();
        let vocab_size = logits.len();
        let mut unknown = Ok(());
        for &id in &self.seen {
            match logits.get_mut(id as usize) {
                Some(logit) if *logit < 0.0 => *logit *= self.penalty,
                Some(logit) => *logit /= self.penalty,
                None => unknown = Err(SamplerError::UnknownId { id, vocab_size }),
            }
        }
        unknown
    }
}

impl LogitsProcessor for RepetitionPenalty {
    fn observe(&mut self, prompt: &[u32]) {
        self.seen.extend(prompt);
        self.counted = 0;
    }

    fn process(&mut self, so_far: &[u32], logits: &mut [f32]) {
        // A token without a logit has nothing to be penalised.
        let _ = self.penalise(so_far, logits);
    }
}
