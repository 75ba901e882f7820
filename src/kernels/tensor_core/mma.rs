//! Attention on `mma.sync` m16n8k16, for compute capability 8.0 and later.
//!
//! FlashAttention-2, arXiv 2307.08691: every plane owns rows and walks over the keys alone with them;
//! weights stay in registers between the two products. Keys and values come through two rings of
//! shared-memory tiles that `cp.async` fills ahead of use.

use cubecl::cmma::MmaDefinition;
use cubecl::prelude::*;

use super::block::block_at;
use super::hidden::{NOTES, clean, clear_notes};
use super::opaque::opaque;
use super::output::write_rows;
use super::products::{Operand, hold_queries, multiply_keys, multiply_values};
use super::softmax::{RowState, hide, weigh, zeros};
use super::table::MmaTile;
use super::tiles::{
    Chunk, TileShape, commit_copies, copy_keys, copy_queries, key_rows, tile_chunks, wait_copies,
};
use crate::kernels::cube::arguments::Arguments;

/// Attention of one block of packed rows over its keys.
///
/// # Shapes
///
/// - `q`, `out`: `[batch, heads, seq_q, head_dim]`, `k`, `v`: `[batch, kv_heads, seq_kv, head_dim]`,
///   in chunks, at the strides of `arguments`
/// - `lse`: `[splits, batch, heads, seq_q]`, contiguous
///
/// Cubes: `(row blocks * splits, kv_heads, batch)` of `(32, planes)` units.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn attention_mma<E: Float, O: Float, W: Size>(
    q: &[Chunk<E>],
    k: &[Chunk<E>],
    v: &[Chunk<E>],
    out: &mut [Vector<O, W>],
    lse: &mut [f32],
    arguments: Arguments,
    #[comptime] tile: MmaTile,
) {
    let head_dim = comptime!(tile.head_dim);
    let keys = comptime!(tile.keys);
    let row_tiles = comptime!(tile.row_tiles);
    let stages = comptime!(tile.stages);
    let block_rows = comptime!(tile.rows());
    let chunks = comptime!(head_dim / 8);
    let shape = comptime!(tile.key_shape());
    let q_shape = comptime!(TileShape {
        rows: block_rows,
        ..shape
    });
    let slot = comptime!(tile_chunks(keys, head_dim));
    let ring = comptime!((stages * slot) as u32);
    let definition = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);

    let lane = UNIT_POS_X;
    let thread = UNIT_POS_Y * 32 + lane;
    let block = block_at(&arguments, CUBE_POS_X, block_rows, keys);
    let visible = &arguments.visible;
    let plane_row = UNIT_POS_Y * comptime!((row_tiles * 16) as u32);
    let mut q_tile = Shared::<[Chunk<E>]>::new_aligned_slice(
        comptime!(tile_chunks(block_rows, head_dim)),
        128usize,
    );
    let mut k_tiles = Shared::<[Chunk<E>]>::new_aligned_slice(comptime!(stages * slot), 128usize);
    let mut v_tiles = Shared::<[Chunk<E>]>::new_aligned_slice(comptime!(stages * slot), 128usize);
    let mut notes = Shared::<[u32]>::new_slice(NOTES);
    let k_rows = key_rows(&arguments.k, &block);
    let v_rows = key_rows(&arguments.v, &block);

    clear_notes(&mut notes, thread);
    copy_queries::<E>(q, &mut q_tile, &arguments, &block, thread, q_shape);
    commit_copies();
    #[unroll]
    for i in 0..comptime!(stages - 1) {
        let start = block.first + comptime!((i * keys) as u32);
        let to = comptime!((i * slot) as u32);
        if (i as u32) < block.tiles {
            copy_keys::<E>(k, &mut k_tiles, to, &k_rows, start, thread, shape);
        }
        commit_copies();
        if (i as u32) < block.tiles {
            copy_keys::<E>(v, &mut v_tiles, to, &v_rows, start, thread, shape);
        }
        commit_copies();
    }

    // Queries either stay in registers, where those suffice, or are read again for every tile.
    let mut held = Sequence::<Operand<E>>::new();
    if comptime!(tile.hold_queries) {
        wait_copies(comptime!(2 * (stages - 1)));
        sync_cube();
        hold_queries::<E>(&definition, &mut held, &q_tile, plane_row, lane, tile);
    }

    let mut mixed = zeros(comptime!(row_tiles * chunks));
    let mut state = RowState::new(row_tiles);
    let mut current = 0u32;
    let mut start = block.first;
    while start < block.end {
        let ahead = start + comptime!(((stages - 1) * keys) as u32);
        // The slot before this one, which the last tile used.
        let filling = select(current == 0u32, ring, current) - slot as u32;
        // Rows differ in what they see in some tiles alone; elsewhere no limit occupies a register.
        let edge = block.hides(start, keys);
        let mut active = true.runtime();
        if edge {
            active = start
                < block.rows_end(
                    &arguments,
                    thread / 32 * comptime!((row_tiles * 16) as u32),
                    comptime!(row_tiles * 16),
                );
        }
        let mut scores = zeros(comptime!(row_tiles * keys / 8));

        // This tile's keys are here; after the barrier all planes are done with the slot to fill.
        wait_copies(comptime!(2 * stages - 3));
        sync_cube();
        if ahead < block.end {
            copy_keys::<E>(k, &mut k_tiles, filling, &k_rows, ahead, thread, shape);
        }
        commit_copies();

        if active {
            let unit = opaque(thread);
            let (lane, plane_row) = (unit % 32, unit / 32 * comptime!((row_tiles * 16) as u32));
            multiply_keys::<E>(
                &definition,
                &held,
                &q_tile,
                plane_row,
                &k_tiles,
                current,
                &mut scores,
                lane,
                tile,
            );
            if edge {
                hide(
                    &mut scores,
                    &arguments,
                    block.row + plane_row,
                    lane,
                    start,
                    row_tiles,
                    keys,
                );
            }
            weigh(
                &mut scores,
                &mut state,
                arguments.scale,
                row_tiles,
                keys,
                1usize,
            );
            #[unroll]
            for i in 0..comptime!(2 * row_tiles) {
                #[unroll]
                for n in 0..chunks {
                    let fragment = mixed.index_mut(comptime!(i / 2 * chunks) + n);
                    fragment[comptime!(i % 2)] *= Vector::new(state.rescale[i]);
                }
            }
        }

        wait_copies(comptime!(2 * stages - 3));
        if edge {
            clean::<E>(
                &mut v_tiles,
                current,
                &notes,
                start,
                visible.passing,
                thread,
                comptime!(tile.dtype.exponent()),
                shape,
            );
        }
        sync_cube();
        if ahead < block.end {
            copy_keys::<E>(v, &mut v_tiles, filling, &v_rows, ahead, thread, shape);
        }
        commit_copies();

        if active {
            let unit = opaque(thread);
            multiply_values::<E>(
                &definition,
                &scores,
                &v_tiles,
                current,
                &mut mixed,
                unit % 32,
                tile,
            );
        }
        current += slot as u32;
        if current == ring {
            current = 0u32;
        }
        start += keys as u32;
    }

    // A block without tiles has not waited for its queries, whose place the output takes.
    wait_copies(0usize);
    sync_cube();
    // Computed anew, so that none of it was held through the loop.
    let block = block_at(&arguments, opaque(CUBE_POS_X), block_rows, keys);
    let unit = opaque(thread);
    let (lane, plane_row) = (unit % 32, unit / 32 * comptime!((row_tiles * 16) as u32));
    write_rows::<E, O, W>(
        out,
        lse,
        &mut q_tile,
        &notes,
        &mixed,
        &state,
        &arguments,
        &block,
        plane_row,
        lane,
        row_tiles,
        block_rows,
        head_dim,
        comptime!(tile.parts),
    );
}
