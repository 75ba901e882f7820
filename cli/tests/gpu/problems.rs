//! Attention problems of every kind that the kernels tell apart.

use burn::tensor::{DType, Device, Tensor};
use burn_apb::kernels::Regions;

use super::setup::{noise, to};

/// How a `[batch, heads, seq, head_dim]` tensor lies in memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Memory {
    /// In the order of its dimensions.
    Plain,
    /// As a projection leaves it: `[batch, seq, heads, head_dim]`.
    SeqFirst,
    /// A slice of a larger cache whose other rows hold NaN.
    Cache,
    /// `head_dim` is not the fastest dimension.
    Transposed,
}

impl Memory {
    /// A tensor on a device, lying so.
    pub fn lay(self, tensor: &Tensor<4>, device: &Device) -> Tensor<4> {
        let [batch, heads, seq, head_dim] = tensor.dims();
        let dtype = tensor.dtype();
        let swapped = |a, b| to(&tensor.clone().swap_dims(a, b), device).swap_dims(a, b);
        match self {
            Self::Plain => to(tensor, device),
            Self::SeqFirst => swapped(1, 2),
            Self::Transposed => swapped(2, 3),
            Self::Cache => {
                let nan = |rows| {
                    let shape = [batch, heads, rows, head_dim];
                    Tensor::full(shape, f32::NAN, (device, dtype))
                };
                // Multiples of four rows: with 128 columns of two bytes the view stays a view.
                let whole = vec![nan(4), to(tensor, device), nan(8)];
                Tensor::cat(whole, 2).narrow(2, 4, seq)
            }
        }
    }
}

/// Lengths, heads, regions and layout.
#[derive(Debug, Clone, Copy)]
pub struct Problem {
    pub batch: usize,
    pub kv_heads: usize,
    pub group: usize,
    pub rows: usize,
    pub keys: usize,
    pub regions: Regions,
    pub memory: Memory,
    /// The queries' largest size; large ones make scores that need the running maximum.
    pub scale: f32,
}

/// `q`, `k` and `v` on the CPU, rounded to a dtype.
pub type Tensors = [Tensor<4>; 3];

impl Problem {
    const fn new(group: usize, rows: usize, keys: usize, regions: Regions) -> Self {
        Self {
            batch: 1,
            kv_heads: 2,
            group,
            rows,
            keys,
            regions,
            memory: Memory::SeqFirst,
            scale: 3.0,
        }
    }

    /// Random tensors of the problem.
    pub fn tensors(&self, head_dim: usize, dtype: DType, seed: u64) -> Tensors {
        let heads = self.kv_heads * self.group;
        let q = noise([self.batch, heads, self.rows, head_dim], seed);
        let keys = |seed| noise([self.batch, self.kv_heads, self.keys, head_dim], seed).cast(dtype);
        let q = q.mul_scalar(self.scale).cast(dtype);
        [q, keys(seed + 1), keys(seed + 2)]
    }
}

const fn regions(passing: usize, anchor: usize, causal: bool) -> Regions {
    Regions {
        passing,
        anchor,
        causal,
    }
}

/// Ragged lengths of every kind of regions, in several layouts.
pub fn problems() -> Vec<Problem> {
    let causal = Regions::causal();
    let mut all = vec![
        Problem::new(4, 300, 300, causal),
        Problem::new(4, 129, 517, causal),
        Problem::new(1, 257, 257, causal),
        Problem::new(2, 200, 333, Regions::full()),
        // Anchor and local rows over passing keys, whole and as a later chunk.
        Problem::new(4, 33 + 170, 301 + 33 + 170, regions(301, 33, true)),
        Problem::new(4, 100, 301 + 33 + 170, regions(301, 33, true)),
        Problem::new(2, 40 + 260, 128 + 40 + 260, regions(128, 40, true)),
        Problem::new(3, 190, 64 + 190, regions(64, 0, true)),
        Problem::new(3, 33 + 157, 33 + 157, regions(0, 33, true)),
        Problem::new(2, 33 + 120, 77 + 33 + 120, regions(77, 33, false)),
        // Rows before the first key.
        Problem::new(4, 290, 130, causal),
        // Many tiles of keys.
        Problem::new(8, 70, 4100, causal),
        // Few rows: keys are split over blocks.
        Problem::new(4, 1, 1000, causal),
        Problem::new(8, 1, 4097, causal),
        Problem::new(4, 5, 700, causal),
        Problem::new(2, 9, 300 + 20 + 40, regions(300, 20, true)),
        Problem::new(1, 1, 63, causal),
        Problem::new(4, 7, 3, causal),
    ];
    for group in 1..=16 {
        all.push(Problem::new(group, 151, 171, causal));
        all.push(Problem::new(group, 1, 333, causal));
    }
    let with = |problem: Problem, memory| Problem { memory, ..problem };
    for memory in [Memory::Plain, Memory::Cache, Memory::Transposed] {
        for which in [0, 1, 4, 13] {
            all.push(with(all[which], memory));
        }
    }
    for which in [0, 4, 13] {
        let hot = Problem {
            scale: 40.0,
            ..all[which]
        };
        let two = Problem {
            batch: 2,
            kv_heads: 3,
            ..all[which]
        };
        all.extend([hot, two]);
    }
    all
}
