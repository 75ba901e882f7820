//! Attention on `mma.sync` m16n8k16, for compute capability 8.0 and later.
//!
//! FlashAttention-2, arXiv 2307.08691: every plane owns rows and walks over the keys alone with them;
//! weights stay in registers between the two products. Keys and values come through two rings of
//! shared-memory tiles that `cp.async` fills ahead of use.

use cubecl::cmma::{MatrixIdent, MmaDefinition};
use cubecl::prelude::*;

use super::arguments::Arguments;
use super::block::block_at;
use super::hidden::{NOTES, clean, clear_notes};
use super::output::write_rows;
use super::softmax::{Fragments, RowState, hide, weigh, zeros};
use super::table::MmaTile;
use super::tiles::{
    Chunk, commit_copies, copy_keys, copy_queries, opaque, place, tile_chunks, wait_copies,
};

type Operand<E> = Array<Vector<E, Const<2>>>;

/// A 16 x 16 piece of a tile: rows from `row`, chunks `chunk` and the next. As an A operand of
/// queries, or transposed as the B operands of two column tiles of values.
#[cube]
fn load_piece<E: Float>(
    definition: &MmaDefinition<E, E, f32>,
    tile: &Shared<[Chunk<E>]>,
    slot: u32,
    row: u32,
    lane: u32,
    #[comptime] chunk: usize,
    #[comptime] ident: MatrixIdent,
    #[comptime] rows: usize,
    #[comptime] chunks: usize,
) -> Operand<E> {
    let at = slot + place(row + lane % 16, chunk as u32 + lane / 16, rows, chunks);
    let transpose = comptime!(matches!(ident, MatrixIdent::B));
    definition.load_matrix::<_, Const<2>>(
        &tile[at as usize..at as usize + 1],
        ident,
        4usize,
        transpose,
    )
}

/// The B operands of two column tiles of keys: keys from `row`, chunks `chunk` and the next.
#[cube]
fn load_keys<E: Float>(
    definition: &MmaDefinition<E, E, f32>,
    tile: &Shared<[Chunk<E>]>,
    slot: u32,
    lane: u32,
    #[comptime] row: usize,
    #[comptime] chunk: usize,
    #[comptime] rows: usize,
    #[comptime] chunks: usize,
) -> Operand<E> {
    let key = row as u32 + (lane / 16) * 8 + lane % 8;
    let at = slot + place(key, chunk as u32 + (lane / 8) % 2, rows, chunks);
    definition.load_matrix::<_, Const<2>>(
        &tile[at as usize..at as usize + 1],
        MatrixIdent::B,
        4usize,
        false,
    )
}

/// Adds the products of every row tile's A operand with two B operands to the accumulators of column
/// tiles `column` and the next.
#[cube]
fn multiply<E: Float>(
    definition: &MmaDefinition<E, E, f32>,
    left: &Sequence<Operand<E>>,
    right: &Operand<E>,
    sums: &mut Fragments,
    #[comptime] first: usize,
    #[comptime] column: usize,
    #[comptime] columns: usize,
    #[comptime] row_tiles: usize,
) {
    #[unroll]
    for half in 0..2usize {
        let mut operand = Array::<Vector<E, Const<2>>>::new(2usize);
        operand[0] = right[half * 2];
        operand[1] = right[half * 2 + 1];
        #[unroll]
        for t in 0..row_tiles {
            definition.execute_inplace(
                left.index(first + t),
                &operand,
                sums.index_mut(t * columns + column + half),
            );
        }
    }
}

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
    let threads = comptime!(tile.planes * 32);
    let block_rows = comptime!(tile.rows());
    let chunks = comptime!(head_dim / 8);
    let slot = comptime!(tile_chunks(keys, head_dim));
    let ring = comptime!((stages * slot) as u32);
    let definition = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);

    let lane = UNIT_POS_X;
    let thread = UNIT_POS_Y * 32 + lane;
    let block = block_at(&arguments, CUBE_POS_X, block_rows, keys);
    let visible = &arguments.visible;
    let plane_row = UNIT_POS_Y * comptime!((row_tiles * 16) as u32);
    let mut q_tile =
        Shared::<[Chunk<E>]>::new_aligned_slice(comptime!(tile_chunks(block_rows, head_dim)), 128usize);
    let mut k_tiles = Shared::<[Chunk<E>]>::new_aligned_slice(comptime!(stages * slot), 128usize);
    let mut v_tiles = Shared::<[Chunk<E>]>::new_aligned_slice(comptime!(stages * slot), 128usize);
    let mut notes = Shared::<[u32]>::new_slice(NOTES);
    let k_base = arguments.k.chunk(block.batch, block.kv_head, 0u32);
    let v_base = arguments.v.chunk(block.batch, block.kv_head, 0u32);

    clear_notes(&mut notes, thread);
    copy_queries::<E>(q, &mut q_tile, &arguments, &block, thread, block_rows, chunks, threads);
    commit_copies();
    #[unroll]
    for i in 0..comptime!(stages - 1) {
        let start = block.first + comptime!((i * keys) as u32);
        let to = comptime!((i * slot) as u32);
        if (i as u32) < block.tiles {
            copy_keys::<E>(k, &mut k_tiles, to, k_base, arguments.k.row, start, block.end, thread, keys, chunks, threads);
        }
        commit_copies();
        if (i as u32) < block.tiles {
            copy_keys::<E>(v, &mut v_tiles, to, v_base, arguments.v.row, start, block.end, thread, keys, chunks, threads);
        }
        commit_copies();
    }

    // Queries either stay in registers, where those suffice, or are read again for every tile.
    let mut held = Sequence::<Operand<E>>::new();
    if comptime!(tile.hold_queries) {
        wait_copies(comptime!(2 * (stages - 1)));
        sync_cube();
        #[unroll]
        for step in 0..comptime!(head_dim / 16) {
            #[unroll]
            for t in 0..row_tiles {
                held.push(load_piece::<E>(&definition, &q_tile, 0u32, plane_row + comptime!(t as u32 * 16), lane, comptime!(step * 2), MatrixIdent::A, block_rows, chunks));
            }
        }
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
            active = start < block.rows_end(&arguments, thread / 32 * comptime!((row_tiles * 16) as u32), comptime!(row_tiles * 16));
        }
        let mut scores = zeros(comptime!(row_tiles * keys / 8));

        // This tile's keys are here; after the barrier all planes are done with the slot to fill.
        wait_copies(comptime!(2 * stages - 3));
        sync_cube();
        if ahead < block.end {
            copy_keys::<E>(k, &mut k_tiles, filling, k_base, arguments.k.row, ahead, block.end, thread, keys, chunks, threads);
        }
        commit_copies();

        if active {
            let unit = opaque(thread);
            let (lane, plane_row) = (unit % 32, unit / 32 * comptime!((row_tiles * 16) as u32));
            #[unroll]
            for step in 0..comptime!(head_dim / 16) {
                let mut left = Sequence::<Operand<E>>::new();
                #[unroll]
                for t in 0..row_tiles {
                    if comptime!(!tile.hold_queries) {
                        left.push(load_piece::<E>(&definition, &q_tile, 0u32, plane_row + comptime!(t as u32 * 16), lane, comptime!(step * 2), MatrixIdent::A, block_rows, chunks));
                    }
                }
                #[unroll]
                for n in 0..comptime!(keys / 16) {
                    let right = load_keys::<E>(&definition, &k_tiles, current, lane, comptime!(n * 16), comptime!(step * 2), keys, chunks);
                    if comptime!(tile.hold_queries) {
                        multiply::<E>(&definition, &held, &right, &mut scores, comptime!(step * row_tiles), comptime!(n * 2), comptime!(keys / 8), row_tiles);
                    } else {
                        multiply::<E>(&definition, &left, &right, &mut scores, 0usize, comptime!(n * 2), comptime!(keys / 8), row_tiles);
                    }
                }
            }
            if edge {
                hide(&mut scores, &arguments, block.row + plane_row, lane, start, row_tiles, keys);
            }
            weigh(&mut scores, &mut state, arguments.scale_log2, row_tiles, keys);
            #[unroll]
            for i in 0..comptime!(2 * row_tiles) {
                #[unroll]
                for n in 0..chunks {
                    let fragment = mixed.index_mut(comptime!(i / 2 * chunks) + n);
                    fragment[comptime!(i % 2)] = fragment[comptime!(i % 2)] * Vector::new(state.rescale[i]);
                }
            }
        }

        wait_copies(comptime!(2 * stages - 3));
        if edge {
            clean::<E>(&mut v_tiles, current, &notes, start, visible.passing, thread, comptime!(tile.dtype.exponent()), keys, chunks, threads);
        }
        sync_cube();
        if ahead < block.end {
            copy_keys::<E>(v, &mut v_tiles, filling, v_base, arguments.v.row, ahead, block.end, thread, keys, chunks, threads);
        }
        commit_copies();

        if active {
            let unit = opaque(thread);
            let lane = unit % 32;
            #[unroll]
            for step in 0..comptime!(keys / 16) {
                // The accumulator layout of two score tiles is the operand layout of one weight tile.
                let mut left = Sequence::<Operand<E>>::new();
                #[unroll]
                for t in 0..row_tiles {
                    let mut operand = Array::<Vector<E, Const<2>>>::new(4usize);
                    #[unroll]
                    for half in 0..2usize {
                        let weights = scores.index(comptime!(t * (keys / 8) + step * 2) + half);
                        operand[half * 2] = Vector::cast_from(weights[0]);
                        operand[half * 2 + 1] = Vector::cast_from(weights[1]);
                    }
                    left.push(operand);
                }
                #[unroll]
                for n in 0..comptime!(chunks / 2) {
                    let right = load_piece::<E>(&definition, &v_tiles, current, comptime!(step as u32 * 16), lane, comptime!(n * 2), MatrixIdent::B, keys, chunks);
                    multiply::<E>(&definition, &left, &right, &mut mixed, 0usize, comptime!(n * 2), chunks, row_tiles);
                }
            }
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
    write_rows::<E, O, W>(out, lse, &mut q_tile, &notes, &mixed, &state, &arguments, &block, plane_row, lane, row_tiles, block_rows, head_dim, comptime!(tile.parts));
}
