//! Online softmax in base 2 on accumulator fragments.
//!
//! FlashAttention-2, arXiv 2307.08691, section 3.1: the running maximum rescales what was summed
//! before; the normalisation waits until the end.

use cubecl::prelude::*;

use super::opaque::opaque;
use crate::kernels::cube::arguments::Arguments;
use crate::kernels::cube::{FLOOR, HIDDEN};

/// Accumulators of 16 x 8 tiles, `[row tile * columns / 8 + column tile]`, as the tensor cores lay
/// them out: lane `l` holds columns `2 (l % 4)` and the next, of row `l / 4` (entry 0) and of row
/// `l / 4 + 8` (entry 1).
pub type Fragments = Sequence<Array<Vector<f32, Const<2>>>>;

/// `count` fragments of zeros.
#[cube]
pub fn zeros(#[comptime] count: usize) -> Fragments {
    let mut fragments = Fragments::new();
    #[unroll]
    for _ in 0..count {
        let mut fragment = Array::<Vector<f32, Const<2>>>::new(2usize);
        fragment[0] = Vector::new(0.0f32);
        fragment[1] = Vector::new(0.0f32);
        fragments.push(fragment);
    }
    fragments
}

/// `2^x` in one instruction; exact at 0, relative error below 2^-22.
#[cube]
fn exp2(x: f32) -> f32 {
    let y: f32;
    gpu_asm!("ex2.approx.ftz.f32 {y}, {x};", y = out(_) y, x = in(_) x, options(pure, nomem));
    y
}

/// What is carried from tile to tile for the rows of a lane: entry `2 t + h` is row
/// `16 t + 8 h + lane / 4` of the plane.
#[derive(CubeType)]
pub struct RowState {
    /// Largest score, before scaling.
    pub max: Array<f32>,
    /// Sum of the weights of this lane's columns alone; `normaliser` adds those of a row.
    pub sum: Array<f32>,
    /// Factor from the last maximum to this one.
    pub rescale: Array<f32>,
}

#[cube]
impl RowState {
    /// Nothing seen yet.
    pub fn new(#[comptime] row_tiles: usize) -> RowState {
        let mut max = Array::<f32>::new(comptime!(2 * row_tiles));
        let mut sum = Array::<f32>::new(comptime!(2 * row_tiles));
        let mut rescale = Array::<f32>::new(comptime!(2 * row_tiles));
        #[unroll]
        for i in 0..comptime!(2 * row_tiles) {
            max[i] = FLOOR;
            sum[i] = 0.0f32;
            rescale[i] = 1.0f32;
        }
        RowState { max, sum, rescale }
    }
}

/// Hides what the rows do not see, of the scores of the keys from `start`. `row` is the plane's first
/// packed row.
#[cube]
pub fn hide(
    scores: &mut Fragments,
    arguments: &Arguments,
    row: u32,
    lane: u32,
    start: u32,
    #[comptime] row_tiles: usize,
    #[comptime] keys: usize,
) {
    let row = opaque(row) + lane / 4;
    let column = (lane % 4) * 2 + start;
    #[unroll]
    for i in 0..comptime!(2 * row_tiles) {
        let query = (row + comptime!(i as u32 * 8)) / arguments.group;
        let first = arguments.visible.first(query);
        // One comparison for both ends: keys before `first` wrap around to large numbers.
        let count = arguments.visible.end(query) - first;
        #[unroll]
        for n in 0..comptime!(keys / 8) {
            let fragment = scores.index_mut(comptime!(i / 2 * (keys / 8)) + n);
            let mut pair = fragment[comptime!(i % 2)];
            #[unroll]
            for e in 0..2usize {
                if column + comptime!((n * 8 + e) as u32) - first >= count {
                    pair.insert(e, HIDDEN);
                }
            }
            fragment[comptime!(i % 2)] = pair;
        }
    }
}

/// Turns scores into weights, `2^((score - max) * scale)`, and brings `state` up to date. `at_once` of a lane's rows are
/// computed side by side, so that one waits while another computes; that takes registers.
#[cube]
pub fn weigh(
    scores: &mut Fragments,
    state: &mut RowState,
    scale: f32,
    #[comptime] row_tiles: usize,
    #[comptime] keys: usize,
    #[comptime] at_once: usize,
) {
    #[unroll]
    for turn in 0..comptime!(2 * row_tiles / at_once) {
        let first = comptime!(turn * at_once);
        let mut tops = Array::<f32>::new(at_once);
        #[unroll]
        for i in 0..at_once {
            tops[i] = state.max[comptime!(first + i)];
        }
        #[unroll]
        for n in 0..comptime!(keys / 8) {
            #[unroll]
            for i in 0..at_once {
                let row = comptime!(first + i);
                let fragment = scores.index(comptime!(row / 2 * (keys / 8)) + n);
                let pair = fragment[comptime!(row % 2)];
                tops[i] = max(tops[i], max(pair.extract(0usize), pair.extract(1usize)));
            }
        }
        #[unroll]
        for step in 0..2u32 {
            #[unroll]
            for i in 0..at_once {
                tops[i] = max(tops[i], plane_shuffle_xor(tops[i], comptime!(1u32 << step)));
            }
        }
        #[unroll]
        for i in 0..at_once {
            let row = comptime!(first + i);
            let rescale = exp2((state.max[row] - tops[i]) * scale);
            state.rescale[row] = rescale;
            state.max[row] = tops[i];
            state.sum[row] *= rescale;
        }
        #[unroll]
        for n in 0..comptime!(keys / 8) {
            #[unroll]
            for i in 0..at_once {
                let row = comptime!(first + i);
                let shift = state.max[row] * scale;
                let fragment = scores.index_mut(comptime!(row / 2 * (keys / 8)) + n);
                let mut pair = fragment[comptime!(row % 2)];
                let left = exp2(fma(pair.extract(0usize), scale, -shift));
                let right = exp2(fma(pair.extract(1usize), scale, -shift));
                state.sum[row] += left + right;
                pair.insert(0usize, left);
                pair.insert(1usize, right);
                fragment[comptime!(row % 2)] = pair;
            }
        }
    }
}

/// Whether sums of any row of the plane have to be rescaled.
#[cube]
pub fn is_rescaled(state: &RowState, #[comptime] row_tiles: usize) -> bool {
    let mut rescaled = false;
    #[unroll]
    for i in 0..comptime!(2 * row_tiles) {
        rescaled = rescaled || state.rescale[i] != 1.0f32;
    }
    plane_any(rescaled)
}

/// The row's sum over its four lanes.
#[cube]
pub fn row_sum(state: &RowState, #[comptime] i: usize) -> f32 {
    let mut sum = state.sum[i];
    sum += plane_shuffle_xor(sum, 1u32);
    sum += plane_shuffle_xor(sum, 2u32);
    sum
}
