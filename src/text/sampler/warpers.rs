//! Temperature, top-k, top-p and min-p.
//!
//! As processors they change logits; a [`Sampler`](super::Sampler) applies its own to one list of
//! candidates, in f64.

use super::constraint::keep_only;
use super::error::in_range;
use super::{LogitsProcessor, SamplerError};

/// A token that may be drawn. `score` is its logit over the temperature, less the largest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub id: u32,
    pub score: f64,
    pub weight: f64,
}

/// All tokens, by id.
pub(super) fn candidates(logits: &[f32], temperature: f32, largest: f32) -> Vec<Candidate> {
    let temperature = f64::from(temperature);
    (0..)
        .zip(logits)
        .map(|(id, &logit)| {
            let score = (f64::from(logit) - f64::from(largest)) / temperature;
            Candidate {
                id,
                score,
                weight: score.exp(),
            }
        })
        .collect()
}

/// Rules out the tokens that `keep` takes from the list of all.
fn keep_candidates(logits: &mut [f32], keep: impl FnOnce(&mut Vec<Candidate>)) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !largest.is_finite() {
        return;
    }
    let mut kept = candidates(logits, 1.0, largest);
    keep(&mut kept);
    keep_only(logits, kept.iter().map(|candidate| candidate.id).collect());
}

/// Divides the logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Temperature(f32);

impl Temperature {
    /// A temperature above 0. Below 1 likely tokens become likelier, above 1 the others.
    ///
    /// # Errors
    ///
    /// [`SamplerError::Config`] where it is 0 or less, or not finite.
    pub fn new(temperature: f32) -> Result<Self, SamplerError> {
        let ok = temperature.is_finite() && temperature > 0.0;
        in_range(ok, "temperature", "above 0", temperature).map(Self)
    }
}

impl LogitsProcessor for Temperature {
    fn process(&mut self, _so_far: &[u32], logits: &mut [f32]) {
        for logit in logits {
            *logit /= self.0;
        }
    }
}

/// Keeps the likeliest tokens, and those as likely as the last of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopK(usize);

impl TopK {
    /// Keeps `k` tokens; 0 keeps all.
    pub fn new(k: usize) -> Self {
        Self(k)
    }

    pub(super) fn keep(self, candidates: &mut Vec<Candidate>) {
        let k = self.0;
        if k == 0 || k >= candidates.len() {
            return;
        }
        let by_score = |a: &Candidate, b: &Candidate| b.score.total_cmp(&a.score);
        let (_, kth, _) = candidates.select_nth_unstable_by(k - 1, by_score);
        let least = kth.score;
        candidates.retain(|candidate| candidate.score >= least);
        // Selecting shuffles; the draw goes by order.
        candidates.sort_unstable_by_key(|candidate| candidate.id);
    }
}

impl LogitsProcessor for TopK {
    fn process(&mut self, _so_far: &[u32], logits: &mut [f32]) {
        keep_candidates(logits, |candidates| self.keep(candidates));
    }
}

/// Keeps the likeliest tokens that together have some of the probability (nucleus sampling,
/// arXiv 1904.09751).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TopP(f32);

impl TopP {
    /// Keeps tokens of the probability `p`, in (0, 1], likeliest first.
    ///
    /// # Errors
    ///
    /// [`SamplerError::Config`] beyond that.
    pub fn new(p: f32) -> Result<Self, SamplerError> {
        let ok = p > 0.0 && p <= 1.0;
        in_range(ok, "top_p", "above 0 and at most 1", p).map(Self)
    }

    pub(super) fn keep(self, candidates: &mut Vec<Candidate>) {
        let p = f64::from(self.0);
        if p >= 1.0 {
            return;
        }
        let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
        // All tokens of less than this weight together have less than 1 - p, so none of them is taken,
        // and few are left to sort. The likeliest, of weight 1, always stays.
        let least = (total * (1.0 - p) / candidates.len() as f64).min(1.0);
        candidates.retain(|candidate| candidate.weight >= least);
        candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
        let mut before = 0.0;
        candidates.retain(|candidate| {
            let keep = before < p * total;
            before += candidate.weight;
            keep
        });
    }
}

impl LogitsProcessor for TopP {
    fn process(&mut self, _so_far: &[u32], logits: &mut [f32]) {
        keep_candidates(logits, |candidates| self.keep(candidates));
    }
}

/// Keeps tokens of at least some share of the likeliest token's probability (arXiv 2407.01082).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MinP(f32);

impl MinP {
    /// Keeps tokens of the share `p` or more, in [0, 1].
    ///
    /// # Errors
    ///
    /// [`SamplerError::Config`] beyond that.
    pub fn new(p: f32) -> Result<Self, SamplerError> {
        in_range((0.0..=1.0).contains(&p), "min_p", "from 0 to 1", p).map(Self)
    }

    pub(super) fn keep(self, candidates: &mut Vec<Candidate>) {
        // The likeliest token's weight is 1, so the weights are shares of its probability.
        let least = f64::from(self.0);
        candidates.retain(|candidate| candidate.weight >= least);
    }
}

impl LogitsProcessor for MinP {
    fn process(&mut self, _so_far: &[u32], logits: &mut [f32]) {
        keep_candidates(logits, |candidates| self.keep(candidates));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: f32 = f32::NEG_INFINITY;

    fn processed<const N: usize>(
        mut processor: impl LogitsProcessor,
        mut logits: [f32; N],
    ) -> [f32; N] {
        processor.process(&[], &mut logits);
        logits
    }

    #[test]
    fn processors_change_logits() {
        // Of the probabilities 0.2, 0.4, 0.1 and 0.3.
        let logits = [0.2f32, 0.4, 0.1, 0.3].map(f32::ln);
        let [_, second, _, fourth] = logits;
        let two = [OUT, second, OUT, fourth];
        assert_eq!(processed(TopK::new(2), logits), two);
        assert_eq!(processed(TopP::new(0.5).unwrap(), logits), two);
        assert_eq!(processed(MinP::new(0.6).unwrap(), logits), two);
        for unchanged in [
            processed(TopK::new(0), logits),
            processed(TopP::new(1.0).unwrap(), logits),
            processed(MinP::new(0.0).unwrap(), logits),
        ] {
            assert_eq!(unchanged, logits);
        }
        assert_eq!(processed(TopK::new(1), [1.0, 2.0, 2.0]), [OUT, 2.0, 2.0]);
        let halved = processed(Temperature::new(2.0).unwrap(), [3.0, -1.0, OUT]);
        assert_eq!(halved, [1.5, -0.5, OUT]);
    }

    #[test]
    fn rows_without_a_token_are_left() {
        for processor in [
            &mut TopK::new(1) as &mut dyn LogitsProcessor,
            &mut TopP::new(0.5).unwrap(),
            &mut MinP::new(0.5).unwrap(),
        ] {
            processor.process(&[], &mut []);
            let mut none = [OUT; 3];
            processor.process(&[], &mut none);
            assert_eq!(none, [OUT; 3]);
        }
    }

    #[test]
    fn ranges_are_checked() {
        for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(Temperature::new(bad).is_err(), "{bad}");
            assert!(TopP::new(bad).is_err(), "{bad}");
        }
        for bad in [-0.1, 1.1, f32::NAN] {
            assert!(MinP::new(bad).is_err(), "{bad}");
        }
    }
}
