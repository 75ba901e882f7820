//! Online softmax on a unit's scores.
//!
//! FlashAttention-2, arXiv 2307.08691, section 3.1: the running maximum rescales what was summed
//! before; the normalisation waits until the end. The units of a row exchange them in shared memory.

use cubecl::prelude::*;

use super::stage::Chunk;
use super::table::Tile;
use crate::kernels::cube::arguments::Arguments;
use crate::kernels::cube::{FLOOR, HIDDEN};

/// Weight of a hidden key in shared memory, which [`multiply_values`](super::stage::multiply_values)
/// tells from the 0 of a key that is seen.
const HIDDEN_WEIGHT: f32 = -1.0;

/// What is carried from tile to tile: entry `e` of chunk `h` is the unit's row `4 h + e`.
#[derive(CubeType)]
pub struct RowState {
    /// Largest score, before scaling.
    pub max: Array<Chunk<f32>>,
    /// Sum of the weights of this unit's keys alone.
    pub sum: Array<Chunk<f32>>,
}

#[cube]
impl RowState {
    /// Nothing seen yet.
    pub fn new(#[comptime] tile: Tile) -> RowState {
        let mut max = Array::<Chunk<f32>>::new(comptime!(tile.unit_rows / 4));
        let mut sum = Array::<Chunk<f32>>::new(comptime!(tile.unit_rows / 4));
        #[unroll]
        for h in 0..comptime!(tile.unit_rows / 4) {
            max[h] = Vector::new(FLOOR);
            sum[h] = Vector::new(0.0f32);
        }
        RowState { max, sum }
    }
}

/// Hides what the rows do not see, of the scores of the keys from `start`. `row` is the unit's first
/// packed row.
#[cube]
pub fn hide(
    scores: &mut Array<f32>,
    arguments: &Arguments,
    row: u32,
    column: u32,
    start: u32,
    #[comptime] tile: Tile,
) {
    let key = start + column * 4;
    #[unroll]
    for i in 0..comptime!(tile.unit_rows) {
        let query = (row + comptime!((i * tile.lines) as u32)) / arguments.group;
        let first = arguments.visible.first(query);
        // One comparison for both ends: keys before `first` wrap around to large numbers.
        let count = arguments.visible.end(query) - first;
        #[unroll]
        for j in 0..4usize {
            // A choice, not arithmetic: whatever the hidden score was does not matter, NaN included.
            let score = scores[comptime!(i * 4) + j];
            let seen = key + j as u32 - first < count;
            scores[comptime!(i * 4) + j] = select(seen, score, HIDDEN);
        }
    }
}

/// Units of a row. Not a constant of the compiler's: it would read the whole exchange of a row into
/// registers at once, and spill.
#[cube]
fn row_units(#[comptime] tile: Tile) -> u32 {
    CUBE_DIM_X / comptime!(tile.lines as u32)
}

/// Where a unit's part of chunk `h` of its rows lies in the exchange.
#[cube]
fn exchange_place(#[comptime] h: usize, line: u32, column: u32, #[comptime] tile: Tile) -> u32 {
    (comptime!((h * tile.lines) as u32) + line) * comptime!(tile.columns as u32) + column
}

/// Tells the other units of a row the largest of this unit's scores. A barrier has to follow.
#[cube]
pub fn share_max(
    scores: &Array<f32>,
    exchange: &mut Shared<[Chunk<f32>]>,
    line: u32,
    column: u32,
    #[comptime] tile: Tile,
) {
    #[unroll]
    for h in 0..comptime!(tile.unit_rows / 4) {
        let mut tops = Chunk::<f32>::new(0.0f32);
        #[unroll]
        for e in 0..4usize {
            let at = comptime!((h * 4) * 4) + comptime!(e * 4);
            let left = max(scores[at], scores[at + 1]);
            tops.insert(e, max(left, max(scores[at + 2], scores[at + 3])));
        }
        exchange[exchange_place(h, line, column, tile) as usize] = tops;
    }
}

/// Turns scores into weights, `exp((score - max) * scale)`, writes them where all units of a row find
/// them, and rescales what was summed before. A barrier has to follow.
#[cube]
pub fn weigh(
    scores: &Array<f32>,
    state: &mut RowState,
    mixed: &mut Array<Chunk<f32>>,
    exchange: &Shared<[Chunk<f32>]>,
    weights: &mut Shared<[Chunk<f32>]>,
    scale: f32,
    line: u32,
    column: u32,
    #[comptime] tile: Tile,
) {
    #[unroll]
    for h in 0..comptime!(tile.unit_rows / 4) {
        let old = state.max[h];
        let mut top = old;
        for other in 0..row_units(tile) {
            top = max(top, exchange[exchange_place(h, line, other, tile) as usize]);
        }
        let rescale = ((old - top) * Vector::new(scale)).exp();
        let mut sum = state.sum[h] * rescale;
        #[unroll]
        for e in 0..4usize {
            let i = comptime!(h * 4 + e);
            let mut quad = Chunk::<f32>::new(0.0f32);
            let mut total = 0.0f32.runtime();
            #[unroll]
            for j in 0..4usize {
                let score = scores[comptime!(i * 4) + j];
                let weight = ((score - top.extract(e)) * scale).exp();
                total += weight;
                quad.insert(j, select(score == HIDDEN, HIDDEN_WEIGHT, weight));
            }
            sum.insert(e, sum.extract(e) + total);
            let row = comptime!((i * tile.lines) as u32) + line;
            weights[(row * comptime!(tile.weight_pitch() as u32) + column) as usize] = quad;
            #[unroll]
            for n in 0..comptime!(tile.unit_chunks()) {
                mixed[comptime!(i * tile.unit_chunks()) + n] *= Vector::new(rescale.extract(e));
            }
        }
        state.max[h] = top;
        state.sum[h] = sum;
    }
}

/// Makes every unit's sums those of whole rows. The exchange must be free.
#[cube]
pub fn share_sums(
    state: &mut RowState,
    exchange: &mut Shared<[Chunk<f32>]>,
    line: u32,
    column: u32,
    #[comptime] tile: Tile,
) {
    #[unroll]
    for h in 0..comptime!(tile.unit_rows / 4) {
        exchange[exchange_place(h, line, column, tile) as usize] = state.sum[h];
    }
    sync_cube();
    #[unroll]
    for h in 0..comptime!(tile.unit_rows / 4) {
        let mut sum = Chunk::<f32>::new(0.0f32);
        for other in 0..row_units(tile) {
            sum += exchange[exchange_place(h, line, other, tile) as usize];
        }
        state.sum[h] = sum;
    }
}
