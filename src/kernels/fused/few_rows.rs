//! `x weight + bias` for few rows of `x`: decoding reads each weight once.

use cubecl::prelude::*;

use super::add_shares::{COLUMNS, GROUPS, LANES, add_shares};

/// Vectors of each of a unit's rows of the weight that are asked for before the first is used.
const AHEAD: usize = 4;
/// Rows of `x` that a launch multiplies at most: a unit holds a sum for each row and column.
pub const MAX_ROWS: usize = 8;

/// `x weight + bias` in f32, rounded once: each unit multiplies every 32nd vector of its rows of the weight with all rows
/// of `x`; the shares of an output are added in shared memory in pairs.
///
/// # Shapes
///
/// - `x`: `[rows, vectors]`, contiguous
/// - `weight`: `[outputs, vectors]`, `pitch` vectors from one row to the next
/// - `bias`: `[outputs]`, read where `biased`
/// - `out`: `[rows, outputs]`, contiguous
///
/// Cubes: `outputs / (GROUPS * COLUMNS)` of `(LANES, GROUPS)` units.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub fn few_rows<E: Float, W: Float, B: Float, N: Size>(
    x: &[Vector<E, N>],
    weight: &[Vector<W, N>],
    bias: &[B],
    out: &mut [E],
    vectors: usize,
    outputs: usize,
    pitch: usize,
    #[comptime] rows: usize,
    #[comptime] biased: bool,
    #[define(E, W, B)] _dtypes: [ElemType; 3],
) {
    let lanes = comptime!(LANES as usize);
    let lane = UNIT_POS_X as usize;
    let group = UNIT_POS_Y as usize;
    let first = (CUBE_POS * comptime!(GROUPS as usize) + group) * comptime!(COLUMNS);

    let mut sums = Array::<f32>::new(comptime!(rows * COLUMNS));
    #[unroll]
    for i in 0..comptime!(rows * COLUMNS) {
        sums[i] = 0.0f32;
    }
    // Behind the last row of the weight that one is repeated, and never written.
    let mut starts = Array::<usize>::new(COLUMNS);
    #[unroll]
    for column in 0..COLUMNS {
        starts[column] = min(first + column, outputs - 1) * pitch;
    }
    let mut at = lane;
    while at + comptime!((AHEAD - 1) * LANES as usize) < vectors {
        let mut read = Array::<Vector<W, N>>::new(comptime!(AHEAD * COLUMNS));
        #[unroll]
        for step in 0..AHEAD {
            #[unroll]
            for column in 0..COLUMNS {
                read[step * COLUMNS + column] =
                    weight[starts[column] + at + comptime!(step * LANES as usize)];
            }
        }
        #[unroll]
        for step in 0..AHEAD {
            #[unroll]
            for row in 0..rows {
                let values = Vector::<f32, N>::cast_from(
                    x[row * vectors + at + comptime!(step * LANES as usize)],
                );
                #[unroll]
                for column in 0..COLUMNS {
                    let weights = Vector::<f32, N>::cast_from(read[step * COLUMNS + column]);
                    sums[column * rows + row] += (weights * values).vector_sum();
                }
            }
        }
        at += comptime!(AHEAD * LANES as usize);
    }
    while at < vectors {
        #[unroll]
        for row in 0..rows {
            let values = Vector::<f32, N>::cast_from(x[row * vectors + at]);
            #[unroll]
            for column in 0..COLUMNS {
                let weights = Vector::<f32, N>::cast_from(weight[starts[column] + at]);
                sums[column * rows + row] += (weights * values).vector_sum();
            }
        }
        at += lanes;
    }

    add_shares::<E, B>(&sums, bias, out, first, outputs, rows, biased);
}
