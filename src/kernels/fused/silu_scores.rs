//! The second half of a retaining head: `silu`, and a product with few outputs.

use cubecl::prelude::*;

/// Units that share a row.
pub const LANES: u32 = 32;
/// Rows of a cube.
pub const ROWS: u32 = 8;
/// Outputs that a launch computes: a unit holds one sum for each in registers.
pub const MAX_OUTPUTS: usize = 32;

/// `silu(hidden) weight`: each unit sums a share of a row for every output, and the shares of a row
/// are added in shared memory.
///
/// # Shapes
///
/// - `hidden`: `[batch * rows, width]`, contiguous
/// - `weight`: `[outputs, width]`, contiguous
/// - `out`: `[batch, outputs, rows]`, contiguous
///
/// Cubes: `batch * rows / ROWS` of `(LANES, ROWS)` units.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub fn silu_scores<E: Float, W: Float>(
    hidden: &[E],
    weight: &[W],
    out: &mut [f32],
    all_rows: usize,
    rows: usize,
    width: usize,
    #[comptime] outputs: usize,
    #[define(E, W)] _dtypes: [ElemType; 2],
) {
    let lanes = comptime!(LANES as usize);
    let lane = UNIT_POS_X as usize;
    let local = UNIT_POS_Y as usize;
    let row = CUBE_POS * comptime!(ROWS as usize) + local;
    let live = row < all_rows;

    let mut sums = Array::<f32>::new(outputs);
    #[unroll]
    for output in 0..outputs {
        sums[output] = 0.0f32;
    }
    if live {
        let mut column = lane;
        while column < width {
            let x = f32::cast_from(hidden[row * width + column]);
            let gated = x / (1.0f32 + (-x).exp());
            #[unroll]
            for output in 0..outputs {
                sums[output] += gated * f32::cast_from(weight[output * width + column]);
            }
            column += lanes;
        }
    }
    let mut shares = Shared::<[f32]>::new_slice(comptime!((ROWS * LANES) as usize * outputs));
    #[unroll]
    for output in 0..outputs {
        shares[(local * outputs + output) * lanes + lane] = sums[output];
    }
    sync_cube();
    if live {
        let mut output = lane;
        while output < outputs {
            let mut sum = f32::new(0.0);
            for share in 0..lanes {
                // Each unit starts elsewhere, so that they do not wait for one bank.
                let turn = (share + lane) % lanes;
                sum += shares[(local * outputs + output) * lanes + turn];
            }
            out[(row / rows * outputs + output) * rows + row % rows] = sum;
            output += lanes;
        }
    }
}
