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

impl Llama3 {
    /// The parameters that give `factors`, one for each rotated pair.
    ///
    /// All published Llama 3 models use a low factor of 1, a high factor of 4 and 8192 original
    /// positions; only the factor itself differs (8 for Llama 3.1, 32 for the small 3.2). It is
    /// read off the slowest pair, and every factor is then checked.
    pub(super) fn recover(factors: &[f32], rope_theta: f64) -> Result<Self, GgufError> {
        let scaling = Self {
            factor: factors.iter().copied().fold(1.0, f32::max).into(),
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let pairs = factors.len();
        let differs = |(i, &found): (usize, &f32)| {
            let expected = scaling.of_pair(i, pairs, rope_theta);
            // A factor that is not a number is close to none.
            let close = (f64::from(found) - expected).abs() <= TOLERANCE * expected;
            !close
        };
        match factors.iter().enumerate().find(|pair| differs(*pair)) {
            None => Ok(scaling),
            Some((i, found)) => Err(GgufError::Unsupported {
                what: "rotary frequency factors other than Llama 3's (use the model's Hugging Face folder)",
                found: format!(
                    "rope_freqs.weight[{i}] is {found}, Llama 3's would be {}",
                    scaling.of_pair(i, pairs, rope_theta)
                ),
            }),
        }
    }

    /// By how much the frequency of pair `i` of `pairs` is divided.
    fn of_pair(&self, i: usize, pairs: usize, rope_theta: f64) -> f64 {
        let wavelength = TAU * rope_theta.powf(i as f64 / pairs as f64);
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
    fn recovers_published_scalings_and_refuses_others() {
        for factor in [8.0, 32.0] {
            let found = Llama3::recover(&factors(factor, 1.0, 4.0, 8192.0), 5e5).unwrap();
            assert_eq!(found.factor, factor);
        }
        for other in [
            factors(8.0, 1.0, 8.0, 8192.0),
            factors(8.0, 1.0, 4.0, 4096.0),
            vec![f32::NAN; 32],
        ] {
            assert!(matches!(
                Llama3::recover(&other, 5e5),
                Err(GgufError::Unsupported { .. })
            ));
        }
    }
}
