//! The part of the problem that one block of threads computes.

use cubecl::prelude::*;

use super::arguments::Arguments;
use super::visible::Visible;

/// Rows and keys of a block. Rows are packed: `query row * group + query head of the group`.
#[derive(CubeType, Clone, Copy)]
pub struct Block {
    /// Batch entry.
    pub batch: u32,
    /// Key/value head.
    pub kv_head: u32,
    /// First packed row.
    pub row: u32,
    /// Packed rows of the whole problem.
    pub rows: u32,
    /// Part of the keys.
    pub split: u32,
    /// First key that is loaded.
    pub first: u32,
    /// End of the keys that any row of the block sees; nothing behind it is loaded.
    pub end: u32,
    /// Tiles of keys, from `first`.
    pub tiles: u32,
    /// First and end of the keys that every row of the block sees.
    pub shared_first: u32,
    /// See `shared_first`.
    pub shared_end: u32,
}

/// The part of cube `index` along x, for blocks of `block_rows` packed rows and tiles of `keys` keys.
///
/// Blocks run longest first, so that the last ones to start are short: with causal masks the work
/// grows with the row, and the hardware starts blocks in the order of their index.
#[cube]
pub fn block_at(
    arguments: &Arguments,
    index: u32,
    #[comptime] block_rows: usize,
    #[comptime] keys: usize,
) -> Block {
    let visible = &arguments.visible;
    let group = arguments.group;
    let blocks = CUBE_COUNT_X / arguments.splits;
    let split = index / blocks;
    let position = blocks - 1u32 - index % blocks;
    let rows = visible.seq_q * group;
    let row = position * block_rows as u32;
    let last = (min(row + block_rows as u32, rows) - 1u32) / group;
    let from = visible.first(last);
    let end = visible.end(last);
    let tiles = (end - from).div_ceil(keys as u32);
    let share = tiles.div_ceil(arguments.splits);
    let begin = min(split * share, tiles);
    Block {
        batch: CUBE_POS_Z,
        kv_head: CUBE_POS_Y,
        row,
        rows,
        split,
        first: from + begin * keys as u32,
        end: min(end, from + (begin + share) * keys as u32),
        tiles: min(share, tiles - begin),
        shared_first: visible.first(row / group),
        shared_end: visible.end(row / group),
    }
}

#[cube]
impl Block {
    /// Whether some row of the block does not see some key of the tile at `start`: at the diagonal, at
    /// the ragged end, and among the passing keys where anchor and local rows share a block.
    pub fn hides(&self, start: u32, #[comptime] keys: usize) -> bool {
        start < self.shared_first || start + keys as u32 > self.shared_end
    }

    /// Whether a query row sees no key of this block's part. Not decided by the sum of its weights: NaN
    /// has to survive.
    pub fn blind(&self, visible: &Visible, query: u32) -> bool {
        min(visible.end(query), self.end) <= max(visible.first(query), self.first)
    }
}
