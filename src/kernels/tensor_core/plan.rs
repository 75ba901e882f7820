//! From a problem to a launch: which kernel, how many blocks, which scalars.

use super::super::Regions;
use super::arguments::{Arguments, Strides};
use super::table::{Dtype, Kernel, Line, Rows, TABLE};
use super::visible::Visible;

/// Blocks a multiprocessor that split keys aim for: with two, one computes while the other waits.
const BLOCKS_PER_MULTIPROCESSOR: usize = 2;
/// Tiles that a part has at least: fewer would cost more in partial outputs than they save.
const MIN_TILES: usize = 4;

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
    /// Columns of queries, keys and values.
    pub head_dim: usize,
    /// Batch entries.
    pub batch: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Query rows.
    pub seq_q: usize,
    /// Keys.
    pub seq_kv: usize,
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

/// The views of a launch, in elements.
#[derive(Clone, Copy, Debug)]
pub struct Views {
    /// Strides of the queries.
    pub q: [usize; 4],
    /// Strides of the keys.
    pub k: [usize; 4],
    /// Strides of the values.
    pub v: [usize; 4],
    /// Strides of the output, or of one part.
    pub out: [usize; 4],
}

impl Problem {
    fn packed_rows(&self) -> usize {
        self.seq_q * (self.heads / self.kv_heads)
    }

    /// Whether a line of the table is for this problem.
    pub fn fits(&self, line: &Line) -> bool {
        let (first, last) = line.architectures;
        let rows = match line.rows {
            Rows::UpTo(most) => self.packed_rows() <= most,
            Rows::Any => true,
        };
        (first..=last).contains(&self.architecture)
            && rows
            && line.kernel.head_dim() == self.head_dim
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
        let counts = [self.batch, self.kv_heads, self.seq_q, self.seq_kv];
        if counts.contains(&0) || self.batch > 65_535 || self.kv_heads > 65_535 {
            return None;
        }
        let rows = self.seq_q.checked_mul(self.heads / self.kv_heads)?;
        let blocks = rows.div_ceil(kernel.rows());
        let splits = if kernel.parts() {
            let wanted = self.multiprocessors * BLOCKS_PER_MULTIPROCESSOR;
            let others = blocks * self.kv_heads * self.batch;
            let most = self.seq_kv.div_ceil(kernel.keys() * MIN_TILES);
            wanted.div_ceil(others).clamp(1, most)
        } else {
            1
        };
        // The finest position that a kernel computes: pairs of one part's output.
        let pairs = [
            splits,
            self.batch,
            self.heads,
            self.seq_q,
            self.head_dim / 2,
        ]
        .into_iter()
        .try_fold(1usize, usize::checked_mul)?;
        u32::try_from(pairs.max(rows.checked_next_multiple_of(kernel.rows())?)).ok()?;
        Some(Plan {
            kernel,
            cubes: (
                i32::try_from(blocks * splits).ok()? as u32,
                self.kv_heads as u32,
                self.batch as u32,
            ),
            splits,
        })
    }

    /// The scalars of a launch, or `None` where a view cannot be read by 16-byte copies. `regions` have
    /// been validated.
    pub fn arguments(&self, plan: &Plan, regions: Regions, views: &Views) -> Option<Arguments> {
        let queries = [self.batch, self.heads, self.seq_q, self.head_dim];
        let keys = [self.batch, self.kv_heads, self.seq_kv, self.head_dim];
        let part = self.batch * self.heads * self.seq_q * self.head_dim;
        Some(Arguments {
            q: Strides::new(queries, views.q)?,
            k: Strides::new(keys, views.k)?,
            v: Strides::new(keys, views.v)?,
            out: Strides::new(queries, views.out)?,
            visible: Visible::new(regions, self.seq_q, self.seq_kv)?,
            group: (self.heads / self.kv_heads) as u32,
            splits: plan.splits as u32,
            split_stride: u32::try_from(part / 8).ok()?,
            scale_log2: (core::f64::consts::LOG2_E / (self.head_dim as f64).sqrt()) as f32,
        })
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
            head_dim,
            batch: 1,
            heads: 32,
            kv_heads: 8,
            seq_q,
            seq_kv: 16_384,
        }
    }

    fn name(problem: Problem) -> String {
        problem.kernel().map_or("none".into(), |k| k.to_string())
    }

    #[test]
    fn the_table_chooses() {
        assert_eq!(name(problem(90, 4096, 128)), "wgmma_bf16_d128_r128_k128");
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
            seq_kv: 300,
            ..problem
        };
        assert_eq!(short.plan(short.kernel().unwrap()).unwrap().splits, 2);
    }

    #[test]
    fn long_problems_are_not_split() {
        let problem = problem(90, 16_384, 128);
        let plan = problem.plan(problem.kernel().unwrap()).unwrap();
        assert_eq!(plan.cubes, (512, 8, 1));
        assert_eq!(plan.splits, 1);
    }

    #[test]
    fn what_outgrows_positions_is_refused() {
        let long = problem(90, 1 << 28, 128);
        assert!(long.plan(long.kernel().unwrap()).is_none());
        let wide = Problem {
            batch: 70_000,
            ..problem(90, 1, 128)
        };
        assert!(wide.plan(wide.kernel().unwrap()).is_none());
    }
}
