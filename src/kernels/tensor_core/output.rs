//! From accumulators to the output and its normaliser.

use cubecl::prelude::*;

use super::block::Block;
use super::hidden::sees_noted;
use super::softmax::{Fragments, RowState, row_sum};
use super::tiles::{Chunk, place, shared_address};
use crate::kernels::cube::arguments::Arguments;

/// Normalises the rows of a plane and writes them. `row` is the plane's first row in the block, whose
/// queries have been read: their place in `tile` is reused, so that global memory sees whole chunks.
///
/// `O` is either `E`, or f32 for parts that are merged later; a part's rows are written from the
/// registers, 32 bytes for every four lanes.
#[cube]
#[allow(clippy::too_many_arguments)]
pub fn write_rows<E: Float, O: Float, W: Size>(
    out: &mut [Vector<O, W>],
    lse: &mut [f32],
    tile: &mut Shared<[Chunk<E>]>,
    notes: &Shared<[u32]>,
    mixed: &Fragments,
    state: &RowState,
    arguments: &Arguments,
    block: &Block,
    row: u32,
    lane: u32,
    #[comptime] row_tiles: usize,
    #[comptime] block_rows: usize,
    #[comptime] head_dim: usize,
    #[comptime] parts: bool,
) {
    let visible = &arguments.visible;
    let chunks = comptime!(head_dim / 8);
    let heads = CUBE_COUNT_Y * arguments.group;
    let split_rows = CUBE_COUNT_Z * heads * visible.seq_q;
    let tile_address = shared_address(&*tile);
    #[unroll]
    for i in 0..comptime!(2 * row_tiles) {
        let sum = row_sum(state, i);
        let local = row + comptime!(i as u32 * 8) + lane / 4;
        let packed_row = block.row + local;
        let query = packed_row / arguments.group;
        let head = block.kv_head * arguments.group + packed_row % arguments.group;
        let seeing = !block.blind(visible, query);
        let mut factor = select(seeing, 1.0f32 / sum, 0.0f32);
        if sees_noted(notes, visible, block, query) {
            factor = f32::NAN.runtime();
        }
        let column = lane % 4;
        if packed_row < block.rows && column == 0 {
            // From the very product that the weights were shifted by.
            let natural = (state.max[i] * arguments.scale) * std::f32::consts::LN_2 + sum.ln();
            let at =
                block.split * split_rows + (block.batch * heads + head) * visible.seq_q + query;
            lse[at as usize] = select(seeing, natural, f32::NEG_INFINITY.runtime());
        }
        let place_out =
            block.split * arguments.split_stride + arguments.out.chunk(block.batch, head, query);
        #[unroll]
        for n in 0..chunks {
            let fragment = mixed.index(comptime!(i / 2 * chunks) + n);
            let pair = select(
                seeing,
                fragment[comptime!(i % 2)] * Vector::new(factor),
                Vector::new(0.0f32),
            );
            if comptime!(parts) {
                if packed_row < block.rows {
                    out[((place_out + n as u32) * 4 + column) as usize] = Vector::cast_from(pair);
                }
            } else {
                let to =
                    tile_address + 16 * place(local, n as u32, block_rows, chunks) + column * 4;
                let word = u32::reinterpret(Vector::<E, Const<2>>::cast_from(pair));
                gpu_asm!(
                    "st.shared.b32 [{to}], {word};",
                    to = in(_) to * 1u32,
                    word = in(_) word * 1u32,
                );
            }
        }
    }
    if comptime!(!parts) {
        sync_plane();
        #[unroll]
        for i in 0..comptime!(row_tiles * chunks / 2) {
            let index = comptime!(i as u32 * 32) + lane;
            let local = row + index / chunks as u32;
            let chunk = index % chunks as u32;
            let packed_row = block.row + local;
            if packed_row < block.rows {
                let at = arguments.out.chunk(
                    block.batch,
                    block.kv_head * arguments.group + packed_row % arguments.group,
                    packed_row / arguments.group,
                );
                let from = place(local, chunk, block_rows, chunks) as usize;
                out[(at + chunk) as usize] = Vector::reinterpret(tile[from]);
            }
        }
    }
}
