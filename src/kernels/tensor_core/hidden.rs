//! Values that some rows of a block see and others do not.
//!
//! The weight of a hidden key is 0, but a tensor core multiplies it all the same, and `0 * NaN` is
//! NaN. So tiles with hidden keys are searched for values that are not finite, once they are in shared
//! memory and before anyone multiplies them: these become zeros, and the smallest such key is noted.
//! At the end, rows that see it become NaN as a whole. Tiles that every row sees are not searched, and
//! spread NaN by themselves. Cost: one read of at most two or three tiles a block (the diagonal).

use cubecl::prelude::*;

use super::block::Block;
use super::opaque::opaque;
use super::tiles::{Chunk, TileShape, place, shared_address};
use crate::kernels::cube::visible::Visible;

/// The smallest keys found: among the passing keys, which anchor rows skip, and behind them.
pub const NOTES: usize = 2;

/// Notes that nothing was found. A barrier has to follow.
#[cube]
pub fn clear_notes(notes: &mut Shared<[u32]>, thread: u32) {
    if thread < NOTES as u32 {
        notes[thread as usize] = u32::MAX;
    }
}

/// Searches the chunks of the tile at `slot` that this thread itself copied, so that no barrier is
/// needed before, only the wait for its copies; a barrier has to follow.
#[cube]
#[allow(clippy::too_many_arguments)]
pub fn clean<E: Float>(
    tile: &mut Shared<[Chunk<E>]>,
    slot: u32,
    notes: &Shared<[u32]>,
    start: u32,
    passing: u32,
    thread: u32,
    #[comptime] exponent: u32,
    #[comptime] shape: TileShape,
) {
    let mut index = opaque(thread);
    while index < comptime!((shape.rows * shape.chunks) as u32) {
        let row = index / comptime!(shape.chunks as u32);
        let at = (slot
            + place(
                row,
                index % comptime!(shape.chunks as u32),
                shape.rows,
                shape.chunks,
            )) as usize;
        let words = Vector::<u32, Const<4>>::reinterpret(tile[at]);
        let mut found = false;
        #[unroll]
        for i in 0..4usize {
            let word = words.extract(i);
            // An exponent of ones, in either half of the word: infinite or not a number.
            found = found
                || word & exponent == exponent
                || word & comptime!(exponent << 16) == comptime!(exponent << 16);
        }
        if found {
            tile[at] = Vector::new(E::new(0.0));
            let key = start + row;
            let note = shared_address(notes) + select(key < passing, 0u32, 4u32);
            gpu_asm!(
                "red.shared.min.u32 [{note}], {key};",
                note = in(_) note * 1u32,
                key = in(_) key * 1u32,
            );
        }
        index += comptime!(shape.threads as u32);
    }
}

/// Whether a query row sees a key that was noted.
#[cube]
pub fn sees_noted(notes: &Shared<[u32]>, visible: &Visible, block: &Block, row: u32) -> bool {
    let early = notes[0] != u32::MAX && visible.first(row) <= notes[0];
    early || notes[1] < min(visible.end(row), block.end)
}
