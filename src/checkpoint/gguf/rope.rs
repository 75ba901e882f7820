//! Llama 3's frequency scaling from the factors that llama.cpp stores in its place.

use std::f64::consts::TAU;

use super::error::GgufError;

/// The parameters of Llama 3.1's rotary scaling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Llama3 {
    pub(super) factor: f64,
    pub(super) low_freq_factor: f64,
    pub(super) high_freq_factor: f64,
    pub(super) original_max_position_embeddings: usize,
}

/// Factors further than this from the recomputed ones are of another scaling. llama.cpp computes
/// them in f32.
const TOLERANCE: f64 = 1e-4;

/// Original positions of all published Llama 3 models. Where they cannot be told apart from others
/// together with the two frequency factors, they are taken for these.
const ORIGINAL: usize = 8192;

impl Llama3 {
    /// Parameters that give `factors`, one for each rotated pair.
    ///
    /// All published Llama 3 models use a low factor of 1, a high factor of 4 and 8192 original
    /// positions; only the factor itself differs (8 for Llama 3.1, 32 for the small 3.2). It is
    /// read off the slowest pair. Other parameters are recovered from the pairs between the two
    /// limits. Whatever is found, every factor is then checked.
    pub(super) fn recover(factors: &[f32], rope_theta: f64) -> Result<Self, GgufError> {
        let published = Self {
            factor: factors.iter().copied().fold(1.0, f32::max).into(),
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: ORIGINAL,
        };
        let mut candidates = vec![published];
        candidates.extend(published.of_other_context(factors, rope_theta));
        candidates.extend(published.of_other_limits(factors, rope_theta));
        for candidate in candidates {
            if candidate.differs(factors, rope_theta).is_none() {
                return Ok(candidate);
            }
        }
        let pair = published.differs(factors, rope_theta).unwrap_or(0);
        Err(GgufError::Unsupported {
            what: "rotary frequency factors other than Llama 3's (use the model's Hugging Face folder)",
            found: format!(
                "rope_freqs.weight[{pair}] is {:?}, Llama 3's would be {}",
                factors.get(pair),
                published.of_pair(pair, factors.len(), rope_theta)
            ),
        })
    }

    /// The factors of heads with so many pairs, as llama.cpp's converter writes them.
    pub(super) fn factors(&self, pairs: usize, rope_theta: f64) -> Vec<f32> {
        let pairs_of = 0..pairs;
        pairs_of
            .map(|i| self.of_pair(i, pairs, rope_theta) as f32)
            .collect()
    }

    /// The first pair whose factor is not the one these parameters give.
    fn differs(&self, factors: &[f32], rope_theta: f64) -> Option<usize> {
        factors.iter().enumerate().position(|(i, &found)| {
            let expected = self.of_pair(i, factors.len(), rope_theta);
            // A factor that is not a number is close to none.
            let close = (f64::from(found) - expected).abs() <= TOLERANCE * expected;
            !close
        })
    }

    /// The pairs between the limits: the inverse of the wavelength, and how far the pair is from the
    /// slow limit (0) to the fast one (1).
    fn between(&self, factors: &[f32], rope_theta: f64) -> Vec<(f64, f64)> {
        let slow = 1.0 / self.factor;
        factors
            .iter()
            .enumerate()
            .map(|(i, &factor)| {
                let smooth = (1.0 / f64::from(factor) - slow) / (1.0 - slow);
                (1.0 / wavelength(i, factors.len(), rope_theta), smooth)
            })
            .filter(|(_, smooth)| (TOLERANCE..1.0 - TOLERANCE).contains(smooth))
            .collect()
    }

    /// The same limits relative to another number of original positions.
    fn of_other_context(&self, factors: &[f32], rope_theta: f64) -> Option<Self> {
        let (low, high) = (self.low_freq_factor, self.high_freq_factor);
        let context = match self.between(factors, rope_theta).first() {
            // smooth = (original / wavelength - low) / (high - low)
            Some((inverse, smooth)) => (smooth * (high - low) + low) / inverse,
            None => {
                let (fast, slow) = self.limits(factors, rope_theta)?;
                (fast * high * slow * low).sqrt()
            }
        };
        let original = context.round();
        (1.0..1e9).contains(&original).then_some(Self {
            original_max_position_embeddings: original as usize,
            ..*self
        })
    }

    /// Other limits relative to the same number of original positions.
    fn of_other_limits(&self, factors: &[f32], rope_theta: f64) -> Option<Self> {
        let original = self.original_max_position_embeddings as f64;
        let between = self.between(factors, rope_theta);
        let (low, high) = match (between.first(), between.last()) {
            (Some(first), Some(last)) if first.0 != last.0 => {
                // A straight line through the two that are furthest apart.
                let slope = (first.1 - last.1) / (first.0 - last.0);
                let range = original / slope;
                let low = (slope * first.0 - first.1) * range;
                (low, low + range)
            }
            (None, _) => {
                let (fast, slow) = self.limits(factors, rope_theta)?;
                let third = (slow / fast).cbrt();
                (original / (slow / third), original / (fast * third))
            }
            _ => return None,
        };
        (low.is_normal() && low > 0.0 && high > low && high.is_finite()).then_some(Self {
            low_freq_factor: low,
            high_freq_factor: high,
            ..*self
        })
    }

    /// The longest wavelength that is left as it is and the shortest that is divided by the whole
    /// factor, where no pair is between.
    fn limits(&self, factors: &[f32], rope_theta: f64) -> Option<(f64, f64)> {
        let pairs = factors.len();
        let slow = factors.iter().position(|&factor| factor > 1.0)?;
        let fast = slow.checked_sub(1)?;
        let of = |pair| wavelength(pair, pairs, rope_theta);
        (of(fast) < of(slow)).then(|| (of(fast), of(slow)))
    }

    /// By how much the frequency of pair `i` of `pairs` is divided.
    fn of_pair(&self, i: usize, pairs: usize, rope_theta: f64) -> f64 {
        let wavelength = wavelength(i, pairs, rope_theta);
        let original = self.original_max_position_embeddings as f64;
        if wavelength < original / self.high_freq_factor {
            1.0
        } else if wavelength > original / self.low_freq_factor {
            self.factor
        } else {
            let smooth = (original / wavelength - self.low_freq_factor)
                / (self.high_freq_factor - self.low_freq_factor);
            1.0 / ((1.0 - smooth) / self.factor + smooth)
        }
    }
}

/// Positions in which pair `i` of `pairs` turns once.
fn wavelength(i: usize, pairs: usize, rope_theta: f64) -> f64 {
    TAU * rope_theta.powf(i as f64 / pairs as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The factors as llama.cpp's converter writes them (convert_hf_to_gguf.py, `generate_extra_tensors`).
    fn factors(factor: f64, low: f64, high: f64, original: f64) -> Vec<f32> {
        (0..32)
            .map(|i| {
                let wavelength = TAU * 500_000f64.powf(f64::from(2 * i) / 64.0);
                if wavelength < original / high {
                    1.0
                } else if wavelength > original / low {
                    factor as f32
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
                }
            })
            .collect()
    }

    #[test]
    fn recovers_published_scalings() {
        for factor in [8.0, 32.0] {
            let found = Llama3::recover(&factors(factor, 1.0, 4.0, 8192.0), 5e5).unwrap();
            assert_eq!(found.factor, factor);
            assert_eq!(found.original_max_position_embeddings, 8192);
        }
    }

    #[test]
    fn recovers_other_parameters_and_refuses_what_no_parameters_give() {
        for context in [4096.0, 64.0, 1000.0] {
            let found = Llama3::recover(&factors(4.0, 1.0, 4.0, context), 5e5).unwrap();
            assert_eq!(found.original_max_position_embeddings as f64, context);
        }
        // Relative to 8192 positions: the limits count, not the numbers they are written with.
        let found = Llama3::recover(&factors(8.0, 2.0, 16.0, 8192.0), 5e5).unwrap();
        assert!((found.low_freq_factor - 2.0).abs() < 1e-3, "{found:?}");
        assert!((found.high_freq_factor - 16.0).abs() < 1e-2, "{found:?}");
        // Limits so close that no pair is between them.
        let close = factors(8.0, 1.0, 1.001, 8192.0);
        assert_eq!(close.iter().filter(|&&f| f > 1.0 && f < 8.0).count(), 0);
        assert!(Llama3::recover(&close, 5e5).is_ok());
        let mut other = factors(8.0, 1.0, 4.0, 8192.0);
        other[20] *= 1.1;
        for other in [
            other,
            vec![f32::NAN; 32],
            vec![f32::INFINITY; 32],
            vec![0.5; 32],
            vec![7.0, 1.0],
        ] {
            assert!(
                matches!(
                    Llama3::recover(&other, 5e5),
                    Err(GgufError::Unsupported { .. })
                ),
                "{other:?}"
            );
        }
    }
}
