//! One output out of the parts that split keys give.

use cubecl::prelude::*;

use super::arguments::Strides;

/// Units a cube.
pub const UNITS: u32 = 128;

/// Weighs every part with the exponential of its normaliser: the rows of a softmax over all keys.
/// A unit computes eight columns of a row.
///
/// FlashAttention-2, arXiv 2307.08691, section 3.1; parts without keys have a normaliser of -inf, and
/// a weight of 0.
///
/// # Shapes
///
/// - `parts`: `[splits, batch, heads, seq_q, head_dim]` and `part_lse`:
///   `[splits, batch, heads, seq_q]`, f32, contiguous
/// - `out`: `[batch, heads, seq_q, head_dim]` in chunks, at the strides of `view`
/// - `lse`: `[batch, heads, seq_q]`
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn merge_parts<E: Float>(
    parts: &[Vector<f32, Const<4>>],
    part_lse: &[f32],
    out: &mut [Vector<E, Const<8>>],
    lse: &mut [f32],
    view: Strides,
    splits: u32,
    heads: u32,
    seq_q: u32,
    rows: u32,
    #[comptime] head_dim: usize,
) {
    let chunks = comptime!(head_dim as u32 / 8);
    let index = CUBE_POS_X * UNITS + UNIT_POS_X;
    let (row, chunk) = (index / chunks, index % chunks);
    if row < rows {
        let mut top = f32::NEG_INFINITY.runtime();
        for split in 0..splits {
            top = max(top, part_lse[(split * rows + row) as usize]);
        }
        // Differences of infinities would not be numbers.
        let shift = select(top == f32::NEG_INFINITY, 0.0f32, top);
        let mut total = 0.0f32.runtime();
        let mut left = Vector::<f32, Const<4>>::new(0.0f32);
        let mut right = Vector::<f32, Const<4>>::new(0.0f32);
        for split in 0..splits {
            let part = split * rows + row;
            let weight = (part_lse[part as usize] - shift).exp();
            let at = ((part * chunks + chunk) * 2) as usize;
            total += weight;
            left += parts[at] * Vector::new(weight);
            right += parts[at + 1] * Vector::new(weight);
        }
        // Without any key the total is 0, and so is the output; NaN stays NaN.
        let factor = select(total == 0.0f32, 0.0f32, 1.0f32 / total);
        let mut chunk_out = Vector::<E, Const<8>>::new(E::new(0.0));
        #[unroll]
        for i in 0..4usize {
            chunk_out.insert(i, E::cast_from(left.extract(i) * factor));
            chunk_out.insert(i + 4, E::cast_from(right.extract(i) * factor));
        }
        let query = row % seq_q;
        let head = row / seq_q % heads;
        let batch = row / seq_q / heads;
        out[(view.chunk(batch, head, query) + chunk) as usize] = chunk_out;
        if chunk == 0 {
            lse[row as usize] = top + total.ln();
        }
    }
}
