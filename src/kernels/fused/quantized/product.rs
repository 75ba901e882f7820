//! `x weight + bias` for few rows of `x`.

use cubecl::prelude::*;

use super::codes::{Four, codes, elements, first_element};
use super::layout::{Layout, PIECE, WORDS};
use super::scales::scales;
use crate::kernels::fused::add_shares::{COLUMNS, GROUPS, LANES, add_shares};

/// Rows of `x` that a launch multiplies at most: a unit holds `COLUMNS` sums of four for each in registers.
pub const MAX_ROWS: usize = 8;

/// `x weight + bias` in f32, rounded once: each unit dequantises every 32nd piece of its rows of the weight in
/// registers and multiplies it with all rows of `x`; the shares of an output are added in shared memory in pairs.
///
/// # Shapes
///
/// - `x`: `[rows, pieces * 32]`, contiguous
/// - `blocks`: rows of bytes, `stride` bytes from one to the next, in words
/// - `bias`: `[outputs]`, read where `biased`
/// - `out`: `[rows, outputs]`, contiguous
///
/// Cubes: `outputs / (GROUPS * COLUMNS)` of `(LANES, GROUPS)` units.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub fn product<E: Float, B: Float>(
    x: &[Vector<E, Const<4>>],
    blocks: &[u32],
    bias: &[B],
    out: &mut [E],
    pieces: usize,
    outputs: usize,
    stride: usize,
    #[comptime] rows: usize,
    #[comptime] biased: bool,
    #[comptime] layout: Layout,
    #[define(E, B)] _dtypes: [ElemType; 2],
) {
    let lanes = comptime!(LANES as usize);
    let lane = UNIT_POS_X as usize;
    let group = UNIT_POS_Y as usize;
    let first = (CUBE_POS * comptime!(GROUPS as usize) + group) * comptime!(COLUMNS);

    let mut sums = Array::<Four>::new(comptime!(rows * COLUMNS));
    #[unroll]
    for i in 0..comptime!(rows * COLUMNS) {
        sums[i] = Four::new(0.0f32);
    }
    let mut piece = lane;
    while piece < pieces {
        let block = piece / comptime!(layout.pieces());
        let in_block = (piece % comptime!(layout.pieces())) as u32;
        let element = first_element(in_block, layout) / 4u32;
        let from = block * comptime!(layout.pieces() * PIECE / 4) + element as usize;

        // Behind the last row of the weight that one is repeated, and never written.
        let mut places = Array::<usize>::new(COLUMNS);
        let mut scaling = Array::<f32>::new(comptime!(4 * COLUMNS));
        #[unroll]
        for column in 0..COLUMNS {
            let row = min(first + column, outputs - 1);
            let place = row * stride + block * comptime!(layout.bytes());
            let scales = scales(blocks, place, in_block, layout);
            places[column] = place;
            scaling[4 * column] = scales.first;
            scaling[4 * column + 1] = scales.second;
            scaling[4 * column + 2] = scales.first_minimum;
            scaling[4 * column + 3] = scales.second_minimum;
        }
        #[unroll]
        for word in 0..WORDS {
            let mut read = Array::<Four>::new(comptime!(2 * rows));
            #[unroll]
            for row in 0..rows {
                let at = row * pieces * comptime!(PIECE / 4) + from + word;
                read[2 * row] = Four::cast_from(x[at]);
                read[2 * row + 1] = Four::cast_from(x[at + comptime!(layout.gap() / 4)]);
            }
            #[unroll]
            for column in 0..COLUMNS {
                let at = comptime!(word as u32).runtime();
                let codes = codes(blocks, places[column], in_block, at, layout);
                let (scale, minimum) = (scaling[4 * column], scaling[4 * column + 2]);
                let one = elements(codes.first, scale, minimum, layout);
                let (scale, minimum) = (scaling[4 * column + 1], scaling[4 * column + 3]);
                let other = elements(codes.second, scale, minimum, layout);
                #[unroll]
                for row in 0..rows {
                    sums[column * rows + row] += one * read[2 * row];
                    sums[column * rows + row] += other * read[2 * row + 1];
                }
            }
        }
        piece += lanes;
    }

    let mut shares = Array::<f32>::new(comptime!(rows * COLUMNS));
    #[unroll]
    for i in 0..comptime!(rows * COLUMNS) {
        shares[i] = sums[i].vector_sum();
    }
    add_shares::<E, B>(&shares, bias, out, first, outputs, rows, biased);
}
