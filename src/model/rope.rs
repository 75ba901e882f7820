//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864), half-split as Hugging Face stores
//! it, with the context extensions of published Llama and Qwen models.
//!
//! Angles are computed in f64 and only the sines and cosines are rounded: at 128K tokens an f32
//! angle is off by more than the model's own rounding.

use std::f64::consts::PI;

use burn::config::Config;
use burn::tensor::{Device, Tensor, TensorData};

/// How the base frequencies are stretched for longer contexts.
#[derive(Config, Debug, PartialEq)]
pub enum RopeScaling {
    /// No change.
    Default,
    /// Every frequency divided by `factor` (position interpolation, arXiv 2306.15595).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// The base grows with the sequence once it is longer than `original_context` (dynamic NTK).
    Dynamic {
        /// Growth per original context.
        factor: f64,
        /// Context of the original training, in tokens.
        original_context: usize,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Fewer rotations than this within the original context: divided.
        low_freq_factor: f64,
        /// More rotations than this within the original context: kept.
        high_freq_factor: f64,
        /// Context of the original training, in tokens.
        original_context: usize,
    },
    /// YaRN (arXiv 2309.00071).
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// Context of the original training, in tokens.
        original_context: usize,
        /// Rotations above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is divided.
        beta_slow: f64,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
        /// Factor on sines and cosines.
        attention_factor: f64,
    },
}

impl RopeScaling {
    /// YaRN's factor on sines and cosines where the configuration does not state it;
    /// `mscale` is the pair (`mscale`, `mscale_all_dim`) if both are given.
    pub fn yarn_attention_factor(factor: f64, mscale: Option<(f64, f64)>) -> f64 {
        let scale = |m: f64| {
            if factor <= 1.0 {
                1.0
            } else {
                0.1 * m * factor.ln() + 1.0
            }
        };
        match mscale {
            Some((m, all_dim)) => scale(m) / scale(all_dim),
            None => scale(1.0),
        }
    }
}

/// Configuration of the rotary position embedding.
#[derive(Config, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric progression of wavelengths.
    #[config(default = 10_000.0)]
    pub theta: f64,
    /// Context extension.
    #[config(default = "RopeScaling::Default")]
    pub scaling: RopeScaling,
}

impl RopeConfig {
    /// The frequencies for heads of `head_dim` in a session of up to `context` tokens.
    ///
    /// Only [`RopeScaling::Dynamic`] looks at `context`. It is fixed for a whole session, so that
    /// every key in the cache was rotated by the same frequencies.
    pub fn init(&self, head_dim: usize, context: usize) -> Rope {
        let half = head_dim / 2;
        let power = |base: f64, i: usize| base.powf(-2.0 * i as f64 / head_dim as f64);
        let base: Vec<f64> = (0..half).map(|i| power(self.theta, i)).collect();
        let mut attention_factor = 1.0;
        let inverse_frequencies = match &self.scaling {
            RopeScaling::Default => base,
            RopeScaling::Linear { factor } => base.iter().map(|f| f / factor).collect(),
            RopeScaling::Dynamic {
                factor,
                original_context,
            } => {
                let original = *original_context as f64;
                let length = (context as f64).max(original);
                let growth = factor * length / original - (factor - 1.0);
                let exponent = head_dim as f64 / (head_dim as f64 - 2.0);
                let theta = if half > 1 {
                    self.theta * growth.powf(exponent)
                } else {
                    self.theta
                };
                (0..half).map(|i| power(theta, i)).collect()
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => base
                .iter()
                .map(|f| {
                    let rotations = *original_context as f64 * f / (2.0 * PI);
                    let keep = (rotations - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    let keep = keep.clamp(0.0, 1.0);
                    f * (keep + (1.0 - keep) / factor)
                })
                .collect(),
            RopeScaling::Yarn {
                factor,
                original_context,
                beta_fast,
                beta_slow,
                truncate,
                attention_factor: on_tables,
            } => {
                attention_factor = *on_tables;
                let dimension = |rotations: f64| {
                    head_dim as f64 * (*original_context as f64 / (rotations * 2.0 * PI)).ln()
                        / (2.0 * self.theta.ln())
                };
                let (mut first, mut last) = (dimension(*beta_fast), dimension(*beta_slow));
                if *truncate {
                    (first, last) = (first.floor(), last.ceil());
                }
                first = first.max(0.0);
                last = last.min(head_dim as f64 - 1.0);
                if first == last {
                    last += 0.001;
                }
                base.iter()
                    .enumerate()
                    .map(|(i, f)| {
                        let stretch = ((i as f64 - first) / (last - first)).clamp(0.0, 1.0);
                        f * (1.0 - stretch) + f / factor * stretch
                    })
                    .collect()
            }
        };
        Rope {
            inverse_frequencies,
            attention_factor,
        }
    }
}

/// Frequencies of one session.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Radians per position, one for each pair of dimensions: `[head_dim / 2]`.
    pub inverse_frequencies: Vec<f64>,
    /// Factor on every sine and cosine.
    pub attention_factor: f64,
}

impl Rope {
    /// Sines and cosines of `positions`, f32 on `device`.
    pub fn tables(
        &self,
        positions: impl IntoIterator<Item = usize>,
        device: &Device,
    ) -> RopeTables {
        let positions = positions.into_iter();
        let half = self.inverse_frequencies.len();
        let mut rows = 0;
        let mut cos = Vec::with_capacity(positions.size_hint().0 * half);
        let mut sin = Vec::with_capacity(positions.size_hint().0 * half);
        for position in positions {
            rows += 1;
            for frequency in &self.inverse_frequencies {
                let (s, c) = (position as f64 * frequency).sin_cos();
                cos.push((c * self.attention_factor) as f32);
                sin.push((s * self.attention_factor) as f32);
            }
        }
        let table = |values| Tensor::from_data(TensorData::new(values, [rows, half]), device);
        RopeTables {
            cos: table(cos),
            sin: table(sin),
        }
    }
}

/// Sines and cosines of some positions, shared by all layers of a pass.
#[derive(Debug, Clone)]
pub struct RopeTables {
    /// `[seq, head_dim / 2]`, f32.
    pub cos: Tensor<2>,
    /// `[seq, head_dim / 2]`, f32.
    pub sin: Tensor<2>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_rounded_from_f64_angles() {
        let rope = RopeConfig::new().init(4, 0);
        let position = 131_071;
        let tables = rope.tables(position..position + 1, &Device::flex());
        let cos = tables.cos.into_data().try_to_vec::<f32>().unwrap();
        let exact = (position as f64 * 0.01).cos();
        assert_eq!(cos, [(position as f64).cos() as f32, exact as f32]);
    }
}
