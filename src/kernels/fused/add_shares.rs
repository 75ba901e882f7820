//! The end of a product with few rows: the shares of an output that units have summed are added and written.

use cubecl::prelude::*;

/// Units that share a row of the weight, a power of two.
pub const LANES: u32 = 32;
/// Units of a cube in the other direction.
pub const GROUPS: u32 = 4;
/// Rows of the weight, which are columns of the output, that a unit multiplies at a time: they share what is read of
/// `x`.
pub const COLUMNS: usize = 2;

/// Adds the shares of an output in shared memory in pairs, then the bias, and writes the sum, rounded once.
///
/// # Shapes
///
/// - `sums`: `[COLUMNS, rows]`, this unit's shares of the outputs from `first`; at most `LANES` of them
/// - `bias`: `[outputs]`, read where `biased`
/// - `out`: `[rows, outputs]`, contiguous
///
/// Called by all units of a cube of `(LANES, GROUPS)`.
#[cube]
pub fn add_shares<E: Float, B: Float>(
    sums: &Array<f32>,
    bias: &[B],
    out: &mut [E],
    first: usize,
    outputs: usize,
    #[comptime] rows: usize,
    #[comptime] biased: bool,
) {
    let lanes = comptime!(LANES as usize);
    let lane = UNIT_POS_X as usize;
    let group = UNIT_POS_Y as usize;
    let values = comptime!(rows * COLUMNS);
    let mut shares =
        Shared::<[f32]>::new_slice(comptime!((GROUPS * LANES) as usize * rows * COLUMNS));
    let start = group * comptime!(rows * COLUMNS * LANES as usize);
    #[unroll]
    for i in 0..values {
        shares[start + i * lanes + lane] = sums[i];
    }
    sync_cube();
    #[unroll]
    for step in 1..comptime!(LANES.trailing_zeros() as usize + 1) {
        let half = comptime!(LANES as usize >> step);
        if lane < half {
            #[unroll]
            for i in 0..values {
                let other = shares[start + i * lanes + lane + half];
                shares[start + i * lanes + lane] += other;
            }
        }
        sync_cube();
    }
    if lane < values {
        let column = first + lane / rows;
        if column < outputs {
            let mut sum = shares[start + lane * lanes];
            if comptime!(biased) {
                sum += f32::cast_from(bias[column]);
            }
            out[lane % rows * outputs + column] = E::cast_from(sum);
        }
    }
}
