//! One output out of the parts that split keys give.

use cubecl::prelude::*;

use super::arguments::Strides;
use super::{FLOOR, NEGATIVE_INFINITY};

/// Units a cube.
pub const UNITS: u32 = 128;

/// Columns of a row that a unit computes.
pub const COLUMNS: usize = 4;

/// Weighs every part with the exponential of its normaliser: the rows of a softmax over all keys.
/// A unit computes [`COLUMNS`] columns of a row.
///
/// FlashAttention-2, arXiv 2307.08691, section 3.1; parts without keys have a normaliser far below
/// [`FLOOR`] or -inf, and a weight of 0.
///
/// # Shapes
///
/// - `parts`: `[splits, batch, heads, seq_q, head_dim]` and `part_lse`:
///   `[splits, batch, heads, seq_q]`, f32, contiguous
/// - `out`: `[batch, heads, seq_q, head_dim]` in chunks of [`COLUMNS`], at the strides of `view`
/// - `lse`: `[batch, heads, seq_q]`, the bits of f32
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn merge_parts<E: Float>(
    parts: &[Vector<f32, Const<4>>],
    part_lse: &[f32],
    out: &mut [Vector<E, Const<4>>],
    lse: &mut [u32],
    view: Strides,
    splits: u32,
    heads: u32,
    seq_q: u32,
    rows: u32,
    #[comptime] head_dim: usize,
) {
    let chunks = comptime!((head_dim / COLUMNS) as u32);
    let index = CUBE_POS_X * UNITS + UNIT_POS_X;
    let (row, chunk) = (index / chunks, index % chunks);
    if row < rows {
        let mut top = FLOOR.runtime();
        for split in 0..splits {
            top = max(top, part_lse[(split * rows + row) as usize]);
        }
        let mut total = 0.0f32.runtime();
        let mut mixed = Vector::<f32, Const<4>>::new(0.0f32);
        for split in 0..splits {
            let part = split * rows + row;
            let weight = (part_lse[part as usize] - top).exp();
            total += weight;
            mixed += parts[(part * chunks + chunk) as usize] * Vector::new(weight);
        }
        // Without any key the total is 0, and so is the output; NaN stays NaN.
        let blind = total == 0.0f32;
        let factor = select(blind, 0.0f32, 1.0f32 / total);
        let query = row % seq_q;
        let head = row / seq_q % heads;
        let batch = row / seq_q / heads;
        out[(view.chunk(batch, head, query) + chunk) as usize] =
            Vector::cast_from(mixed * Vector::new(factor));
        if chunk == 0 {
            lse[row as usize] =
                select(blind, NEGATIVE_INFINITY, u32::reinterpret(top + total.ln()));
        }
    }
}
