//! The two products of a tile, as `mma.sync` instructions on fragments that `ldmatrix` loads.

use cubecl::cmma::{MatrixIdent, MmaDefinition};
use cubecl::prelude::*;

use super::softmax::Fragments;
use super::table::MmaTile;
use super::tiles::{Chunk, place};

/// Registers of an operand: two elements in each.
pub type Operand<E> = Array<Vector<E, Const<2>>>;

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

/// A operands of `row_tiles` row tiles of queries from `row`: 16 columns from `step * 16`.
#[cube]
fn push_queries<E: Float>(
    definition: &MmaDefinition<E, E, f32>,
    operands: &mut Sequence<Operand<E>>,
    queries: &Shared<[Chunk<E>]>,
    row: u32,
    lane: u32,
    #[comptime] step: usize,
    #[comptime] tile: MmaTile,
) {
    #[unroll]
    for t in 0..comptime!(tile.row_tiles) {
        operands.push(load_piece::<E>(
            definition,
            queries,
            0u32,
            row + comptime!(t as u32 * 16),
            lane,
            comptime!(step * 2),
            MatrixIdent::A,
            comptime!(tile.rows()),
            comptime!(tile.head_dim / 8),
        ));
    }
}

/// Loads all A operands of the queries of a plane, whose first row is `row`.
#[cube]
pub fn hold_queries<E: Float>(
    definition: &MmaDefinition<E, E, f32>,
    held: &mut Sequence<Operand<E>>,
    queries: &Shared<[Chunk<E>]>,
    row: u32,
    lane: u32,
    #[comptime] tile: MmaTile,
) {
    #[unroll]
    for step in 0..comptime!(tile.head_dim / 16) {
        push_queries::<E>(definition, held, queries, row, lane, step, tile);
    }
}

/// `scores += Q K^T` of a plane's rows and the tile of keys at `slot`. Queries come from `held`, or from
/// shared memory where the tile does not hold them.
#[cube]
#[allow(clippy::too_many_arguments)]
pub fn multiply_keys<E: Float>(
    definition: &MmaDefinition<E, E, f32>,
    held: &Sequence<Operand<E>>,
    queries: &Shared<[Chunk<E>]>,
    row: u32,
    keys: &Shared<[Chunk<E>]>,
    slot: u32,
    scores: &mut Fragments,
    lane: u32,
    #[comptime] tile: MmaTile,
) {
    #[unroll]
    for step in 0..comptime!(tile.head_dim / 16) {
        let mut left = Sequence::<Operand<E>>::new();
        if comptime!(!tile.hold_queries) {
            push_queries::<E>(definition, &mut left, queries, row, lane, step, tile);
        }
        #[unroll]
        for n in 0..comptime!(tile.keys / 16) {
            let right = load_keys::<E>(
                definition,
                keys,
                slot,
                lane,
                comptime!(n * 16),
                comptime!(step * 2),
                comptime!(tile.keys),
                comptime!(tile.head_dim / 8),
            );
            if comptime!(tile.hold_queries) {
                multiply::<E>(
                    definition,
                    held,
                    &right,
                    scores,
                    comptime!(step * tile.row_tiles),
                    comptime!(n * 2),
                    comptime!(tile.keys / 8),
                    comptime!(tile.row_tiles),
                );
            } else {
                multiply::<E>(
                    definition,
                    &left,
                    &right,
                    scores,
                    0usize,
                    comptime!(n * 2),
                    comptime!(tile.keys / 8),
                    comptime!(tile.row_tiles),
                );
            }
        }
    }
}

/// `mixed += P V` of a plane's weights and the tile of values at `slot`. The accumulator layout of two
/// column tiles of weights is the operand layout of one: weights never leave their registers.
#[cube]
pub fn multiply_values<E: Float>(
    definition: &MmaDefinition<E, E, f32>,
    weights: &Fragments,
    values: &Shared<[Chunk<E>]>,
    slot: u32,
    mixed: &mut Fragments,
    lane: u32,
    #[comptime] tile: MmaTile,
) {
    let chunks = comptime!(tile.head_dim / 8);
    #[unroll]
    for step in 0..comptime!(tile.keys / 16) {
        let mut left = Sequence::<Operand<E>>::new();
        #[unroll]
        for t in 0..comptime!(tile.row_tiles) {
            let mut operand = Array::<Vector<E, Const<2>>>::new(4usize);
            #[unroll]
            for half in 0..2usize {
                let pair = weights.index(comptime!(t * (tile.keys / 8) + step * 2) + half);
                operand[half * 2] = Vector::cast_from(pair[0]);
                operand[half * 2 + 1] = Vector::cast_from(pair[1]);
            }
            left.push(operand);
        }
        #[unroll]
        for n in 0..comptime!(chunks / 2) {
            let right = load_piece::<E>(
                definition,
                values,
                slot,
                comptime!(step as u32 * 16),
                lane,
                comptime!(n * 2),
                MatrixIdent::B,
                comptime!(tile.keys),
                chunks,
            );
            multiply::<E>(
                definition,
                &left,
                &right,
                mixed,
                0usize,
                comptime!(n * 2),
                chunks,
                comptime!(tile.row_tiles),
            );
        }
    }
}
