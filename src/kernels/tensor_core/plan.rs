//! From a problem to a launch: which kernel, how many blocks, which scalars.

use super::table::{Dtype, Kernel, Line, TABLE};
use crate::kernels::Regions;
use crate::kernels::cube::arguments::Arguments;
use crate::kernels::cube::lengths::{Lengths, Views};

/// Elements that a kernel reads and writes at once: 16 bytes.
pub const CHUNK: usize = 8;
/// Blocks along x, y and z that every CUDA device takes.
const GRID: (u32, u32, u32) = (i32::MAX as u32, 65_535, 65_535);

/// The device, and the tensors' lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Compute capability, times ten.
    pub architecture: u32,
    /// Shared memory that a block may have, in bytes.
    pub shared_bytes: usize,
    /// Multiprocessors of the device.
    pub multiprocessors: usize,
    /// Element type.
    pub dtype: Dtype,
    /// The tensors' lengths.
    pub lengths: Lengths,
}

/// How a problem is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The kernel.
    pub kernel: Kernel,
    /// Cubes along x (row blocks times splits), y (key/value heads) and z (batch).
    pub cubes: (u32, u32, u32),
    /// Parts that the keys are split into; 1 where the kernel writes the output itself.
    pub splits: usize,
}

impl Problem {
    /// Whether a line of the table is for this problem.
    pub fn fits(&self, line: &Line) -> bool {
        let (first, last) = line.architectures;
        (first..=last).contains(&self.architecture)
            && line.rows.fit(self.lengths.packed_rows())
            && line.kernel.head_dim() == self.lengths.head_dim
            && line.kernel.shared_bytes() <= self.shared_bytes
    }

    /// The first kernel of the table that fits.
    pub fn kernel(&self) -> Option<Kernel> {
        let line = TABLE.iter().find(|line| self.fits(line))?;
        Some(line.kernel(self.dtype))
    }

    /// The launch on a kernel, or `None` where positions outgrow 32 bits or the grid, or nothing is to
    /// be computed.
    pub fn plan(&self, kernel: Kernel) -> Option<Plan> {
        let lengths = self.lengths;
        let (rows, keys) = (kernel.rows(), kernel.keys());
        let splits = match kernel.parts() {
            true => lengths.splits(rows, keys, self.multiprocessors)?,
            false => 1,
        };
        Some(Plan {
            kernel,
            cubes: lengths.cubes(rows, splits, GRID)?,
            splits,
        })
    }

    /// The scalars of a launch, or `None` where a view cannot be read by 16-byte copies. `regions` have
    /// been validated.
    pub fn arguments(&self, plan: &Plan, regions: Regions, views: &Views) -> Option<Arguments> {
        let scale = core::f64::consts::LOG2_E / (self.lengths.head_dim as f64).sqrt();
        let splits = plan.splits;
        self.lengths
            .arguments(splits, regions, views, CHUNK, scale as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(architecture: u32, seq_q: usize, head_dim: usize) -> Problem {
        Problem {
            architecture,
            shared_bytes: if architecture == 90 { 232_448 } else { 101_376 },
            multiprocessors: 132,
            dtype: Dtype::Bf16,
            lengths: Lengths {
                batch: 1,
                heads: 32,
                kv_heads: 8,
                seq_q,
                seq_kv: 16_384,
                head_dim,
            },
        }
    }

    fn name(problem: Problem) -> String {
        problem.kernel().map_or("none".into(), |k| k.to_string())
    }

    #[test]
    fn the_table_chooses() {
        assert_eq!(name(problem(90, 4096, 128)), "wgmma_bf16_d128_r192_k80");
        assert_eq!(name(problem(80, 4096, 128)), "mma_bf16_d128_r128_k64");
        assert_eq!(name(problem(100, 4096, 64)), "mma_bf16_d64_r128_k64");
        assert_eq!(name(problem(90, 1, 128)), "mma_bf16_d128_r64_k64_parts");
        assert_eq!(name(problem(90, 4096, 80)), "mma_bf16_d80_r128_k64");
        // 128 KiB of tiles exceed what the smaller chips give a block.
        assert_eq!(name(problem(90, 4096, 256)), "mma_bf16_d256_r128_k32");
        assert_eq!(name(problem(89, 4096, 256)), "none");
        assert_eq!(name(problem(75, 4096, 128)), "none");
        assert_eq!(name(problem(90, 4096, 112)), "none");
    }

    #[test]
    fn decoding_splits_keys_until_the_device_is_full() {
        let problem = problem(90, 1, 128);
        let plan = problem.plan(problem.kernel().unwrap()).unwrap();
        assert_eq!(plan.splits, 33);
        assert_eq!(plan.cubes, (33, 8, 1));
        let short = Problem {
            lengths: Lengths {
                seq_kv: 300,
                ..problem.lengths
            },
            ..problem
        };
        assert_eq!(short.plan(short.kernel().unwrap()).unwrap().splits, 2);
    }

    #[test]
    fn long_problems_are_not_split() {
        let problem = problem(90, 16_384, 128);
        let plan = problem.plan(problem.kernel().unwrap()).unwrap();
        assert_eq!(plan.cubes, (342, 8, 1));
        assert_eq!(plan.splits, 1);
    }

    #[test]
    fn what_outgrows_positions_is_refused() {
        let long = problem(90, 1 << 28, 128);
        assert!(long.plan(long.kernel().unwrap()).is_none());
        let one = problem(90, 1, 128);
        let wide = Problem {
            lengths: Lengths {
                batch: 70_000,
                ..one.lengths
            },
            ..one
        };
        assert!(wide.plan(wide.kernel().unwrap()).is_none());
    }
}
