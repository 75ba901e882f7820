//! The kernel.

use cubecl::prelude::*;

use super::softmax::{RowState, hide, share_max, share_sums, weigh};
use super::stage::{
    Chunk, key_rows, multiply_keys, multiply_values, query_rows, stage_keys, stage_queries,
    stage_values,
};
use super::table::Tile;
use crate::kernels::cube::arguments::Arguments;
use crate::kernels::cube::block::{Block, block_at};
use crate::kernels::cube::{HIDDEN, NEGATIVE_INFINITY};

/// Attention of one block of packed rows over its keys.
///
/// Scores of a tile of keys come out of stages of a few columns of queries and keys, as in a blocked
/// matrix product; the weights go through shared memory to the units that need them; the output is
/// summed in registers over stages of values.
///
/// # Shapes
///
/// - `q`, `out`: `[batch, heads, seq_q, head_dim]`, `k`, `v`: `[batch, kv_heads, seq_kv, head_dim]`,
///   in chunks, at the strides of `arguments`
/// - `lse`: `[splits, batch, heads, seq_q]`, contiguous, the bits of f32
///
/// Cubes: `(row blocks * splits, kv_heads, batch)` of `units` units.
#[cube(launch_unchecked)]
pub fn attention_portable<E: Float, O: Float>(
    q: &[Chunk<E>],
    k: &[Chunk<E>],
    v: &[Chunk<E>],
    out: &mut [Chunk<O>],
    lse: &mut [u32],
    arguments: Arguments,
    #[comptime] tile: Tile,
) {
    let keys = comptime!(tile.keys());
    let unit = UNIT_POS_X;
    let line = unit / comptime!(tile.columns as u32);
    let column = unit % comptime!(tile.columns as u32);
    let block = block_at(&arguments, CUBE_POS_X, comptime!(tile.rows()), keys);
    let mut stage = Shared::<[Chunk<f32>]>::new_slice(comptime!(tile.stage_chunks()));
    let mut weights =
        Shared::<[Chunk<f32>]>::new_slice(comptime!(tile.rows() * tile.weight_pitch()));
    let mut exchange = Shared::<[Chunk<f32>]>::new_slice(comptime!(tile.exchange_chunks()));
    let q_rows = query_rows(&arguments, &block, unit, tile);
    let k_rows = key_rows(&arguments.k, &block);
    let v_rows = key_rows(&arguments.v, &block);

    let mut state = RowState::new(tile);
    let outputs = comptime!(tile.unit_rows * tile.unit_chunks());
    let mut mixed = Array::<Chunk<f32>>::new(outputs);
    #[unroll]
    for i in 0..outputs {
        mixed[i] = Vector::new(0.0f32);
    }

    let mut start = block.first;
    for _ in 0..block.tiles {
        // Rows differ in what they see in some tiles alone.
        let edge = block.hides(start, keys);
        let mut scores = Array::<f32>::new(comptime!(tile.unit_rows * 4));
        #[unroll]
        for i in 0..comptime!(tile.unit_rows * 4) {
            scores[i] = 0.0f32;
        }
        for step in 0..comptime!((tile.chunks() / tile.depth()) as u32) {
            let from = step * comptime!(tile.depth() as u32);
            sync_cube();
            stage_keys::<E>(k, &mut stage, &k_rows, start, from, unit, tile);
            stage_queries::<E>(q, &mut stage, &q_rows, from, unit, tile);
            sync_cube();
            multiply_keys(&stage, &mut scores, line, column, tile);
        }
        if edge {
            hide(
                &mut scores,
                &arguments,
                block.row + line,
                column,
                start,
                tile,
            );
        }
        share_max(&scores, &mut exchange, line, column, tile);
        sync_cube();
        weigh(
            &scores,
            &mut state,
            &mut mixed,
            &exchange,
            &mut weights,
            arguments.scale,
            line,
            column,
            tile,
        );
        // The stage is free: the barrier above followed its last use.
        for piece in 0..comptime!((keys / tile.value_keys) as u32) {
            let from = start + piece * comptime!(tile.value_keys as u32);
            stage_values::<E>(v, &mut stage, &v_rows, from, unit, tile);
            sync_cube();
            if edge {
                multiply_values(
                    &stage, &weights, &mut mixed, piece, line, column, true, tile,
                );
            } else {
                multiply_values(
                    &stage, &weights, &mut mixed, piece, line, column, false, tile,
                );
            }
            sync_cube();
        }
        start += keys as u32;
    }

    share_sums(&mut state, &mut exchange, line, column, tile);
    write_rows::<O>(
        out, lse, &mixed, &state, &arguments, &block, line, column, tile,
    );
}

/// Normalises a unit's rows and writes them. `O` is either the element type, or f32 for parts that are
/// merged later.
#[cube]
fn write_rows<O: Float>(
    out: &mut [Chunk<O>],
    lse: &mut [u32],
    mixed: &Array<Chunk<f32>>,
    state: &RowState,
    arguments: &Arguments,
    block: &Block,
    line: u32,
    column: u32,
    #[comptime] tile: Tile,
) {
    let visible = &arguments.visible;
    let heads = CUBE_COUNT_Y * arguments.group;
    let split_rows = CUBE_COUNT_Z * heads * visible.seq_q;
    // The merge compares normalisers, so that those of parts stay finite.
    let no_keys = comptime!(if tile.parts {
        HIDDEN.to_bits()
    } else {
        NEGATIVE_INFINITY
    });
    #[unroll]
    for i in 0..comptime!(tile.unit_rows) {
        let packed_row = block.row + comptime!((i * tile.lines) as u32) + line;
        if packed_row < block.rows {
            let query = packed_row / arguments.group;
            let head = block.kv_head * arguments.group + packed_row % arguments.group;
            let seeing = !block.blind(visible, query);
            let sum = state.sum[comptime!(i / 4)].extract(comptime!(i % 4));
            let factor = 1.0f32 / sum;
            if column == 0 {
                let top = state.max[comptime!(i / 4)].extract(comptime!(i % 4));
                let bits = u32::reinterpret(top * arguments.scale + sum.ln());
                let at =
                    block.split * split_rows + (block.batch * heads + head) * visible.seq_q + query;
                lse[at as usize] = select(seeing, bits, no_keys);
            }
            let place = block.split * arguments.split_stride
                + arguments.out.chunk(block.batch, head, query);
            #[unroll]
            for n in 0..comptime!(tile.unit_chunks()) {
                let chunk = comptime!((n * tile.columns) as u32) + column;
                let whole = comptime!((n + 1) * tile.columns <= tile.chunks());
                if whole || chunk < comptime!(tile.chunks() as u32) {
                    let values = mixed[comptime!(i * tile.unit_chunks()) + n];
                    let values = select(
                        seeing,
                        values * Vector::new(factor),
                        Chunk::<f32>::new(0.0f32),
                    );
                    out[(place + chunk) as usize] = Vector::cast_from(values);
                }
            }
        }
    }
}
