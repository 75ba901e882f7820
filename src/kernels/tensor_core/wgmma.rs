//! Attention on warpgroup products, for compute capability 9.0.
//!
//! FlashAttention-3, arXiv 2407.08608. Section 3.1: one warpgroup copies keys and values, the others compute, each at its
//! own pace, so that some multiply while another computes exponentials. Section 3.2: the scores of the next tile are
//! computed while the weights of this one meet their values.
//!
//! Barriers in shared memory say which slots of the rings of keys and values are filled, and which have been read.

use cubecl::prelude::*;

use super::barriers::{
    BARRIER_BYTES, arrive_barrier, init_barrier, set_registers, wait_barrier, wait_named,
};
use super::block::{Block, block_at};
use super::hidden::{NOTES, clean, clear_notes};
use super::output::write_rows;
use super::softmax::{Fragments, RowState, hide, is_rescaled, weigh, zeros};
use super::table::WgmmaTile;
use super::tiles::{
    Chunk, KeyRows, TileShape, commit_copies, copy_keys, copy_queries, copy_whole_tile, key_rows,
    shared_address, tile_chunks, wait_copies,
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

/// Waits for this unit's copies, and makes them visible to the warpgroup products. A barrier has to follow.
#[cube]
fn finish_copies() {
    commit_copies();
    wait_copies(0usize);
    fence_products();
}

/// Hides what the rows do not see, of a tile's scores of the keys from `start`, and turns them into weights. `row` is the
/// plane's first packed row.
#[cube]
#[allow(clippy::too_many_arguments)]
fn hide_and_weigh(
    scores: &mut Fragments,
    state: &mut RowState,
    arguments: &Arguments,
    block: &Block,
    row: u32,
    lane: u32,
    start: u32,
    #[comptime] keys: usize,
) {
    if block.hides(start, keys) {
        hide(scores, arguments, row, lane, start, 1usize, keys);
    }
    weigh(scores, state, arguments.scale, 1usize, keys, 2usize);
}

/// Units that copy keys, and as many that copy values: halves of a warpgroup.
const COPYING: u32 = 64;
/// The named barrier of all planes that compute.
const COMPUTING: u32 = 1;
/// The first of the named barriers of each warpgroup's planes.
const GROUPS: u32 = COMPUTING + 1;

/// Where the barriers of the rings lie in shared memory: a slot of keys is full, is empty; the same of values.
#[derive(CubeType, Clone, Copy)]
struct Rings {
    address: u32,
    #[cube(comptime)]
    stages: usize,
}

#[cube]
impl Rings {
    fn full_keys(&self, slot: u32) -> u32 {
        self.address + slot * BARRIER_BYTES
    }

    fn empty_keys(&self, slot: u32) -> u32 {
        self.address + (slot + comptime!(self.stages as u32)) * BARRIER_BYTES
    }

    fn full_values(&self, slot: u32) -> u32 {
        self.address + (slot + comptime!(2 * self.stages as u32)) * BARRIER_BYTES
    }

    fn empty_values(&self, slot: u32) -> u32 {
        self.address + (slot + comptime!(3 * self.stages as u32)) * BARRIER_BYTES
    }
}

/// The slot behind `slot`.
#[cube]
fn behind(slot: u32, #[comptime] stages: usize) -> u32 {
    select(slot + 1 == comptime!(stages as u32), 0u32, slot + 1)
}

/// Copies all tiles of keys, or of values, by [`COPYING`] units: each into the next slot of the ring once it is empty.
#[cube]
#[allow(clippy::too_many_arguments)]
fn fill<E: Float>(
    source: &[Chunk<E>],
    tiles: &mut Shared<[Chunk<E>]>,
    rows: &KeyRows,
    full: u32,
    empty: u32,
    block: &Block,
    thread: u32,
    #[comptime] tile: WgmmaTile,
) {
    let slot_chunks = comptime!(tile_chunks(tile.keys, tile.head_dim) as u32);
    let shape = comptime!(TileShape {
        threads: COPYING as usize,
        ..tile.key_shape()
    });
    let mut slot = 0u32;
    // Nothing has been read from a slot before its first tile.
    let mut parity = 1u32;
    for index in 0..block.tiles {
        let start = block.first + index * comptime!(tile.keys as u32);
        wait_barrier(empty + slot * BARRIER_BYTES, parity);
        let at = slot * slot_chunks;
        if start + comptime!(tile.keys as u32) <= rows.end {
            copy_whole_tile::<E>(source, tiles, at, rows, start, thread, shape);
        } else {
            copy_keys::<E>(source, tiles, at, rows, start, thread, shape);
        }
        finish_copies();
        arrive_barrier(full + slot * BARRIER_BYTES);
        slot = behind(slot, comptime!(tile.stages));
        parity = select(slot == 0, 1 - parity, parity);
    }
}

/// Attention of one block of packed rows over its keys: 64 rows a warpgroup, tiles shared by all, and one more
/// warpgroup, which copies them.
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
    let stages = comptime!(tile.stages);
    let block_rows = comptime!(tile.rows());
    let chunks = comptime!(head_dim / 8);
    let shape = comptime!(tile.key_shape());
    let q_shape = comptime!(TileShape {
        rows: block_rows,
        ..shape
    });
    let slot_chunks = comptime!(tile_chunks(keys, head_dim));
    let planes = comptime!(tile.groups as u32 * 4);

    let lane = UNIT_POS_X;
    // From one lane, so that the compiler knows that all of a plane have it.
    let plane = plane_broadcast(UNIT_POS_Y, 0u32);
    let thread = plane * 32 + lane;
    let block = block_at(&arguments, CUBE_POS_X, block_rows, keys);
    let visible = &arguments.visible;
    let plane_row = plane * 16;
    let row = block.row + plane_row;
    let group = plane / 4;
    let group_row = group * 64;

    let mut q_tile = Shared::<[Chunk<E>]>::new_aligned_slice(
        comptime!(tile_chunks(block_rows, head_dim)),
        1024usize,
    );
    let mut k_tiles =
        Shared::<[Chunk<E>]>::new_aligned_slice(comptime!(stages * slot_chunks), 1024usize);
    let mut v_tiles =
        Shared::<[Chunk<E>]>::new_aligned_slice(comptime!(stages * slot_chunks), 1024usize);
    let mut notes = Shared::<[u32]>::new_slice(NOTES);
    let barriers = Shared::<[u64]>::new_slice(comptime!(4 * stages));
    let rings = Rings {
        address: shared_address(&barriers),
        stages,
    };

    clear_notes(&mut notes, thread);
    if thread == 0 {
        #[unroll]
        for slot in 0..stages {
            let slot = comptime!(slot as u32).runtime();
            // Every unit that copies; one unit of each plane that computes.
            init_barrier(rings.full_keys(slot), COPYING.runtime());
            init_barrier(rings.full_values(slot), COPYING.runtime());
            init_barrier(rings.empty_keys(slot), planes);
            init_barrier(rings.empty_values(slot), planes);
        }
    }
    sync_cube();

    if plane >= planes {
        set_registers(comptime!(tile.copying_registers()), false);
        let copying = thread - planes * 32;
        let part = copying % COPYING;
        if copying < COPYING {
            let rows = key_rows(&arguments.k, &block);
            let (full, empty) = (rings.full_keys(0u32), rings.empty_keys(0u32));
            fill::<E>(k, &mut k_tiles, &rows, full, empty, &block, part, tile);
        } else {
            let rows = key_rows(&arguments.v, &block);
            let (full, empty) = (rings.full_values(0u32), rings.empty_values(0u32));
            fill::<E>(v, &mut v_tiles, &rows, full, empty, &block, part, tile);
        }
    } else {
        set_registers(comptime!(tile.computing_registers()), true);
        // A warpgroup issues its products together, so that its rows end together.
        let group_end = block.rows_end(&arguments, group_row, 64usize);
        let group_tiles = (max(group_end, block.first) - block.first).div_ceil(keys as u32);
        let q_descriptor = descriptor(shared_address(&q_tile) + group_row * 128, 16usize);
        let k_descriptor = descriptor(shared_address(&k_tiles), 16usize);
        let v_descriptor = descriptor(shared_address(&v_tiles), comptime!(keys * 128));

        copy_queries::<E>(q, &mut q_tile, &arguments, &block, thread, q_shape);
        finish_copies();
        wait_named(COMPUTING.runtime(), comptime!(tile.groups * 128));

        let mut mixed = Vector::<f32, M>::new(0.0f32);
        let mut weights = Vector::<u32, P>::new(0u32);
        let mut state = RowState::new(1usize);
        if block.tiles > 0 {
            wait_barrier(rings.full_keys(0u32), 0u32);
            if group_tiles > 0 {
                let registers = scores::<S>(q_descriptor, k_descriptor, tile);
                let mut first = fragments::<S>(registers, comptime!(keys / 8));
                hide_and_weigh(
                    &mut first,
                    &mut state,
                    &arguments,
                    &block,
                    row,
                    lane,
                    block.first,
                    keys,
                );
                operands::<P>(&first, &mut weights, tile);
            }
            if lane == 0 {
                arrive_barrier(rings.empty_keys(0u32));
            }
        }
        let mut slot = 0u32;
        let mut parity = 0u32;
        for index in 0..block.tiles {
            let start = block.first + index * keys as u32;
            let next_start = start + keys as u32;
            let next = behind(slot, stages);
            let next_parity = select(next == 0, 1 - parity, parity);
            let last = index + 1 == block.tiles;
            if !last {
                wait_barrier(rings.full_keys(next), next_parity);
            }
            wait_barrier(rings.full_values(slot), parity);
            if block.hides(start, keys) {
                clean::<E>(
                    &mut v_tiles,
                    slot * slot_chunks as u32,
                    &notes,
                    start,
                    visible.passing,
                    thread,
                    comptime!(tile.dtype.exponent()),
                    shape,
                );
                fence_products();
                wait_named(COMPUTING.runtime(), comptime!(tile.groups * 128));
            }

            let values = v_descriptor + u64::cast_from(slot * slot_chunks as u32);
            if index + 1 < group_tiles {
                let next_keys = k_descriptor + u64::cast_from(next * slot_chunks as u32);
                let operand = weights * Vector::new(1u32);
                let both = issue::<B, M, P>(q_descriptor, next_keys, mixed, operand, values, tile);
                if lane == 0 {
                    arrive_barrier(rings.empty_keys(next));
                }
                let mut following = fragments::<B>(both, comptime!(keys / 8));
                // Always true: as a block of its own the softmax stays in front of the wait for the output,
                // which ptxas would move above it otherwise.
                if next_start < visible.seq_kv {
                    hide_and_weigh(
                        &mut following,
                        &mut state,
                        &arguments,
                        &block,
                        row,
                        lane,
                        next_start,
                        keys,
                    );
                }
                let done = finish::<B, M, P>(both, operand, tile);
                if lane == 0 {
                    arrive_barrier(rings.empty_values(slot));
                }
                mixed = done;
                if is_rescaled(&state, 1usize) {
                    #[unroll]
                    for i in 0..comptime!(head_dim / 2) {
                        mixed.insert(i, done.extract(i) * state.rescale[comptime!(i / 2 % 2)]);
                    }
                }
                operands::<P>(&following, &mut weights, tile);
            } else {
                // Keys that this warpgroup does not read.
                if !last && lane == 0 {
                    arrive_barrier(rings.empty_keys(next));
                }
                if index + 1 == group_tiles {
                    mixed = accumulate::<M, P>(mixed, weights, values, tile);
                }
                if lane == 0 {
                    arrive_barrier(rings.empty_values(slot));
                }
            }
            slot = next;
            parity = next_parity;
        }

        // Its queries have been read by all planes of the warpgroup.
        wait_named(GROUPS + group, 128usize);
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
}
