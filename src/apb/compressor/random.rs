//! Random scores: what a compressor has to beat.

use burn::tensor::{Tensor, TensorData};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::{Compressor, ScoreInput};
use crate::kernels::KernelError;

/// Uniform scores, the same for the same seed, layer and rank.
#[derive(Debug, Clone, Copy, Default)]
pub struct Random {
    seed: u64,
}

impl Random {
    /// Scores from a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }
}

impl Compressor for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn score(&self, input: ScoreInput<'_>) -> Result<Tensor<3>, KernelError> {
        let [batch, kv_heads, rows, _] = input.projections.key.dims();
        // Seeds that differ in a few bits would begin with much the same numbers: each is mixed.
        let stream = ((input.layer as u64) << 32) | input.rank as u64;
        let mixed = Xoshiro256PlusPlus::seed_from_u64(self.seed).random::<u64>() ^ stream;
        let mut random = Xoshiro256PlusPlus::seed_from_u64(mixed);
        let scores: Vec<f32> = (0..batch * kv_heads * rows)
            .map(|_| random.random())
            .collect();
        let device = input.projections.key.device();
        Ok(Tensor::from_data(
            TensorData::new(scores, [batch, kv_heads, rows]),
            &device,
        ))
    }
}
