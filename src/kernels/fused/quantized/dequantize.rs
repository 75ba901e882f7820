//! Blocks, or named rows of them, to floats.

use cubecl::prelude::*;

use super::codes::{codes, elements, first_element};
use super::layout::{Layout, PIECE, WORDS};
use super::scales::scales;

/// What blocks stand for. A unit writes a word's four elements of both runs.
///
/// # Shapes
///
/// - `blocks`: rows of bytes, `stride` bytes from one to the next, in words
/// - `out`: `[rows, width]`, contiguous
///
/// `words` counts those of all rows, `pieces` those of a row.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub fn dequantize<E: Float>(
    blocks: &[u32],
    out: &mut [Vector<E, Const<4>>],
    words: usize,
    pieces: usize,
    stride: usize,
    #[comptime] layout: Layout,
    #[define(E)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < words {
        let row = at / comptime!(WORDS) / pieces;
        write_word(blocks, out, row * stride, at, pieces, layout);
    }
}

/// The rows that `ids` names, one behind the other; ids of none are the last row's.
///
/// # Shapes
///
/// - `blocks`: as [`dequantize`]'s, of `rows` rows
/// - `ids`: `[count]`
/// - `out`: `[count, width]`, contiguous
///
/// `words` counts those of all `count` rows, `pieces` those of a row.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
pub fn look_up<E: Float>(
    blocks: &[u32],
    ids: &[i32],
    out: &mut [Vector<E, Const<4>>],
    words: usize,
    pieces: usize,
    stride: usize,
    rows: usize,
    #[comptime] layout: Layout,
    #[define(E)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < words {
        let id = ids[at / comptime!(WORDS) / pieces];
        let mut row = rows - 1;
        if id >= 0i32 {
            row = min(id as usize, rows - 1);
        }
        write_word(blocks, out, row * stride, at, pieces, layout);
    }
}

/// Writes word `at` of all rows, whose row begins at byte `row` of the blocks.
#[cube]
fn write_word<E: Float>(
    blocks: &[u32],
    out: &mut [Vector<E, Const<4>>],
    row: usize,
    at: usize,
    pieces: usize,
    #[comptime] layout: Layout,
) {
    let word = (at % comptime!(WORDS)) as u32;
    let piece = at / comptime!(WORDS);
    // The block among those of all rows, and in its row.
    let block = piece / comptime!(layout.pieces());
    let in_row = piece % pieces / comptime!(layout.pieces());
    let place = row + in_row * comptime!(layout.bytes());
    let piece = (piece % comptime!(layout.pieces())) as u32;
    let scales = scales(blocks, place, piece, layout);
    let codes = codes(blocks, place, piece, word, layout);
    let first = first_element(piece, layout) / 4u32 + word;
    let to = block * comptime!(layout.pieces() * PIECE / 4) + first as usize;
    let run = elements(codes.first, scales.first, scales.first_minimum, layout);
    out[to] = Vector::cast_from(run);
    let run = elements(codes.second, scales.second, scales.second_minimum, layout);
    out[to + comptime!(layout.gap() / 4)] = Vector::cast_from(run);
}
