//! From a problem to a launch: which tile, how many blocks, which scalars.

use super::table::{CHUNK, TABLE, Tile};
use crate::kernels::Regions;
use crate::kernels::cube::arguments::Arguments;
use crate::kernels::cube::lengths::{Lengths, Views};

/// Multiprocessors assumed of a device that does not report them: WebGPU has no such property. A small
/// graphics card; on a larger one a decoding step uses fewer units than it could, on a smaller one the
/// parts are shorter than they need be.
const UNKNOWN_MULTIPROCESSORS: usize = 32;

/// The device, and the tensors' lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Shared memory that a block may have, in bytes.
    pub shared_bytes: usize,
    /// Units that a block may have.
    pub units: usize,
    /// Blocks along x, y and z.
    pub grid: (u32, u32, u32),
    /// Multiprocessors of the device, where it reports them.
    pub multiprocessors: Option<usize>,
    /// The tensors' lengths.
    pub lengths: Lengths,
}

/// How a problem is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The tile.
    pub tile: Tile,
    /// Cubes along x (row blocks times splits), y (key/value heads) and z (batch).
    pub cubes: (u32, u32, u32),
    /// Parts that the keys are split into; 1 where the kernel writes the output itself.
    pub splits: usize,
}

impl Problem {
    /// The first tile of the table that fits. Keys that are too few to be split are not.
    pub fn tile(&self) -> Option<Tile> {
        let (head_dim, rows) = (self.lengths.head_dim, self.lengths.packed_rows());
        let tile = TABLE
            .iter()
            .filter_map(|line| line.tile(head_dim, rows))
            .find(|tile| tile.shared_bytes() <= self.shared_bytes && tile.units() <= self.units)?;
        Some(Tile {
            parts: tile.parts && self.splits(tile)? > 1,
            ..tile
        })
    }

    fn splits(&self, tile: Tile) -> Option<usize> {
        let multiprocessors = self.multiprocessors.unwrap_or(UNKNOWN_MULTIPROCESSORS);
        self.lengths
            .splits(tile.rows(), tile.keys(), multiprocessors)
    }

    /// The launch with a tile, or `None` where positions outgrow 32 bits or the grid, or nothing is to be
    /// computed.
    pub fn plan(&self, tile: Tile) -> Option<Plan> {
        let splits = match tile.parts {
            true => self.splits(tile)?,
            false => 1,
        };
        Some(Plan {
            tile,
            cubes: self.lengths.cubes(tile.rows(), splits, self.grid)?,
            splits,
        })
    }

    /// The scalars of a launch, or `None` where a view cannot be read in chunks. `regions` have been
    /// validated.
    pub fn arguments(&self, plan: &Plan, regions: Regions, views: &Views) -> Option<Arguments> {
        let scale = 1.0 / (self.lengths.head_dim as f64).sqrt();
        self.lengths
            .arguments(plan.splits, regions, views, CHUNK, scale as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(seq_q: usize, head_dim: usize) -> Problem {
        Problem {
            shared_bytes: 32 << 10,
            units: 256,
            grid: (65_535, 65_535, 65_535),
            multiprocessors: None,
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
        problem
            .tile()
            .map_or("none".into(), |tile| tile.to_string())
    }

    #[test]
    fn the_table_chooses() {
        assert_eq!(name(problem(1, 64)), "portable_d64_r8_k64_parts");
        assert_eq!(name(problem(1, 128)), "portable_d128_r8_k128_parts");
        assert_eq!(name(problem(3, 128)), "portable_d128_r64_k64_parts");
        assert_eq!(name(problem(4096, 128)), "portable_d128_r64_k64");
        assert_eq!(name(problem(4096, 80)), "portable_d80_r96_k40");
        assert_eq!(name(problem(4096, 112)), "portable_d112_r64_k64");
        assert_eq!(name(problem(4096, 256)), "portable_d256_r32_k64");
        assert_eq!(name(problem(4096, 264)), "none");
        assert_eq!(name(problem(4096, 100)), "none");
        let small = Problem {
            shared_bytes: 16 << 10,
            ..problem(4096, 128)
        };
        assert_eq!(name(small), "none");
    }

    #[test]
    fn few_rows_split_their_keys() {
        let planned = |problem: Problem| problem.plan(problem.tile().unwrap()).unwrap();
        let plan = planned(problem(1, 128));
        assert_eq!((plan.splits, plan.cubes), (8, (8, 8, 1)));
        let mut short = problem(1, 128);
        short.lengths.seq_kv = 200;
        let plan = planned(short);
        assert_eq!((plan.splits, plan.tile.parts), (1, false));
    }

    #[test]
    fn what_outgrows_positions_or_the_grid_is_refused() {
        let planned = |problem: Problem| problem.plan(problem.tile()?);
        assert!(planned(problem(1 << 28, 128)).is_none());
        assert!(planned(problem(1 << 21, 128)).is_none());
        let mut wide = problem(1, 128);
        wide.lengths.batch = 70_000;
        assert!(planned(wide).is_none());
        let mut empty = problem(1, 128);
        empty.lengths.seq_kv = 0;
        assert!(planned(empty).is_none());
    }
}
