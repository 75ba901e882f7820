//! Attention on warpgroup products, for compute capability 9.0.
//!
//! FlashAttention-3, arXiv 2407.08608, section 3.2: the scores of the next tile are computed while the
//! weights of this one meet their values, so that the exponentials of one tile hide behind the tensor
//! work of another.

use cubecl::prelude::*;

use super::block::block_at;
use super::hidden::{NOTES, clean, clear_notes};
use super::output::write_rows;
use super::softmax::{Fragments, RowState, hide, weigh, zeros};
use super::table::WgmmaTile;
use super::tiles::{
    Chunk, TileShape, commit_copies, copy_keys, copy_queries, key_rows, shared_address,
    tile_chunks, wait_copies,
};
use super::wgmma_code::{accumulate, descriptor, finish, issue, pair, scores};
use crate::kernels::cube::arguments::Arguments;

/// The first registers of a vector as fragments of one row tile.
#[cube]
fn fragments<S: Size>(values: Vector<f32, S>, #[comptime] count: usize) -> Fragments {
    let mut fragments = zeros(count);
    #[unroll]
    for n in 0..count {
        let fragment = fragments.index_mut(n);
        #[unroll]
        for half in 0..2usize {
            let mut two = Vector::<f32, Const<2>>::new(values.extract(n * 4 + half * 2));
            two.insert(1usize, values.extract(n * 4 + half * 2 + 1));
            fragment[half] = two;
        }
    }
    fragments
}

/// Weights as the A operands of the next product.
#[cube]
fn operands<P: Size>(
    weights: &Fragments,
    operands: &mut Vector<u32, P>,
    #[comptime] tile: WgmmaTile,
) {
    #[unroll]
    for n in 0..comptime!(tile.keys / 8) {
        let fragment = weights.index(n);
        #[unroll]
        for half in 0..2usize {
            let two = fragment[half];
            let word = pair(two.extract(0usize), two.extract(1usize), tile);
            operands.insert(n * 2 + half, word);
        }
    }
}

/// Makes ordinary and `cp.async` writes to shared memory visible to the warpgroup products. A barrier
/// has to follow.
#[cube]
fn fence_products() {
    gpu_asm!("fence.proxy.async.shared::cta;");
}

/// Attention of one block of packed rows over its keys: 64 rows a warpgroup, tiles shared by all.
///
/// Shapes and cubes are those of `attention_mma`. `S`, `M`, `P` and `B`
/// are the registers a unit for scores, output, weights, and scores and output together.
#[cube(launch_unchecked)]
#[allow(clippy::too_many_arguments)]
pub fn attention_wgmma<E: Float, S: Size, M: Size, P: Size, B: Size>(
    q: &[Chunk<E>],
    k: &[Chunk<E>],
    v: &[Chunk<E>],
    out: &mut [Chunk<E>],
    lse: &mut [f32],
    arguments: Arguments,
    #[comptime] tile: WgmmaTile,
) {
    let head_dim = comptime!(tile.head_dim);
    let keys = comptime!(tile.keys);
    let block_rows = comptime!(tile.rows());
    let chunks = comptime!(head_dim / 8);
    let shape = comptime!(tile.key_shape());
    let q_shape = comptime!(TileShape {
        rows: block_rows,
        ..shape
    });
    let slot = comptime!(tile_chunks(keys, head_dim));

    let lane = UNIT_POS_X;
    let thread = UNIT_POS_Y * 32 + lane;
    let block = block_at(&arguments, CUBE_POS_X, block_rows, keys);
    let visible = &arguments.visible;
    let plane_row = UNIT_POS_Y * 16;
    let row = block.row + plane_row;
    let group_row = (UNIT_POS_Y / 4) * 64;
    // A warpgroup issues its products together, so that its rows end together.
    let group_end = block.rows_end(&arguments, group_row, 64usize);
    let group_tiles = (max(group_end, block.first) - block.first).div_ceil(keys as u32);

    let mut q_tile = Shared::<[Chunk<E>]>::new_aligned_slice(
        comptime!(tile_chunks(block_rows, head_dim)),
        1024usize,
    );
    let mut k_tiles = Shared::<[Chunk<E>]>::new_aligned_slice(comptime!(2 * slot), 1024usize);
    let mut v_tiles = Shared::<[Chunk<E>]>::new_aligned_slice(comptime!(2 * slot), 1024usize);
    let mut notes = Shared::<[u32]>::new_slice(NOTES);
    let q_address = shared_address(&q_tile);
    let k_address = shared_address(&k_tiles);
    let v_address = shared_address(&v_tiles);
    let k_rows = key_rows(&arguments.k, &block);
    let v_rows = key_rows(&arguments.v, &block);

    clear_notes(&mut notes, thread);
    copy_queries::<E>(q, &mut q_tile, &arguments, &block, thread, q_shape);
    if block.tiles > 0 {
        copy_keys::<E>(k, &mut k_tiles, 0u32, &k_rows, block.first, thread, shape);
    }
    commit_copies();
    if block.tiles > 0 {
        copy_keys::<E>(v, &mut v_tiles, 0u32, &v_rows, block.first, thread, shape);
    }
    if block.tiles > 1 {
        copy_keys::<E>(
            k,
            &mut k_tiles,
            slot as u32,
            &k_rows,
            block.first + keys as u32,
            thread,
            shape,
        );
    }
    commit_copies();

    let q_descriptor = descriptor(q_address + group_row * 128, 16usize);
    let k_descriptor = descriptor(k_address, 16usize);
    let v_descriptor = descriptor(v_address, comptime!(keys * 128));

    let mut mixed = Vector::<f32, M>::new(0.0f32);
    let mut weights = Vector::<u32, P>::new(0u32);
    let mut state = RowState::new(1usize);

    wait_copies(1usize);
    fence_products();
    sync_cube();
    if group_tiles > 0 {
        let registers = scores::<S>(q_descriptor, k_descriptor, tile);
        let mut first = fragments::<S>(registers, comptime!(keys / 8));
        if block.hides(block.first, keys) {
            hide(&mut first, &arguments, row, lane, block.first, 1usize, keys);
        }
        weigh(&mut first, &mut state, arguments.scale, 1usize, keys);
        operands::<P>(&first, &mut weights, tile);
    }
    for index in 0..block.tiles {
        let start = block.first + index * keys as u32;
        let next_start = start + keys as u32;
        let current = index % 2;
        let next = 1 - current;
        // The next tile's keys and this tile's values are here; the other slots are free behind the
        // barrier.
        wait_copies(0usize);
        if block.hides(start, keys) {
            clean::<E>(
                &mut v_tiles,
                current * slot as u32,
                &notes,
                start,
                visible.passing,
                thread,
                comptime!(tile.dtype.exponent()),
                shape,
            );
        }
        fence_products();
        sync_cube();
        if index + 1 < block.tiles {
            copy_keys::<E>(
                v,
                &mut v_tiles,
                next * slot as u32,
                &v_rows,
                next_start,
                thread,
                shape,
            );
        }
        if index + 2 < block.tiles {
            copy_keys::<E>(
                k,
                &mut k_tiles,
                current * slot as u32,
                &k_rows,
                next_start + keys as u32,
                thread,
                shape,
            );
        }
        commit_copies();

        let values = v_descriptor + u64::cast_from(current * slot as u32);
        if index + 1 < group_tiles {
            let next_keys = k_descriptor + u64::cast_from(next * slot as u32);
            let operand = weights * Vector::new(1u32);
            let both = issue::<B, M, P>(q_descriptor, next_keys, mixed, operand, values, tile);
            let mut following = fragments::<B>(both, comptime!(keys / 8));
            // Always true: as a block of its own the softmax stays in front of the wait for the output,
            // which ptxas would move above it otherwise.
            if next_start < visible.seq_kv {
                if block.hides(next_start, keys) {
                    hide(
                        &mut following,
                        &arguments,
                        row,
                        lane,
                        next_start,
                        1usize,
                        keys,
                    );
                }
                weigh(&mut following, &mut state, arguments.scale, 1usize, keys);
            }
            let done = finish::<B, M, P>(both, operand, tile);
            #[unroll]
            for i in 0..comptime!(head_dim / 2) {
                mixed.insert(i, done.extract(i) * state.rescale[comptime!(i / 2 % 2)]);
            }
            operands::<P>(&following, &mut weights, tile);
        } else if index + 1 == group_tiles {
            mixed = accumulate::<M, P>(mixed, weights, values, tile);
        }
    }

    wait_copies(0usize);
    sync_cube();
    let mixed = fragments::<M>(mixed, chunks);
    write_rows::<E, E, Const<8>>(
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
        1usize,
        block_rows,
        head_dim,
        false,
    );
}
