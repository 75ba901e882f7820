//! Pieces of queries, keys and values in shared memory, in f32, and their products.
//!
//! Both products are outer products in registers: a unit's rows times its columns.

use cubecl::prelude::*;

use super::table::Tile;
use crate::kernels::cube::arguments::{Arguments, Strides};
use crate::kernels::cube::block::Block;

/// Four elements: the widest read that every runtime has.
pub type Chunk<E> = Vector<E, Const<4>>;

/// Where the rows of one head's keys, or values, lie.
#[derive(CubeType, Clone, Copy)]
pub struct KeyRows {
    /// The chunk where key 0 begins.
    base: u32,
    /// Chunks from one key to the next.
    stride: u32,
    /// The last key that a block reads. Behind it this one is repeated: no row sees those copies, and
    /// nothing behind the end is read.
    last: u32,
}

/// The keys, or values, of a block's head. The block must have keys.
#[cube]
pub fn key_rows(view: &Strides, block: &Block) -> KeyRows {
    KeyRows {
        base: view.chunk(block.batch, block.kv_head, 0u32),
        stride: view.row,
        last: max(block.end, 1u32) - 1u32,
    }
}

/// Turns that every unit takes to move `count` chunks, the last one perhaps not all of them.
fn turns(count: usize, tile: Tile) -> usize {
    count.div_ceil(tile.units())
}

/// Whether every unit takes this turn.
fn full(count: usize, tile: Tile, turn: usize) -> bool {
    (turn + 1) * tile.units() <= count
}

/// Brings chunks `from..from + depth` of the keys from `start` into the stage.
///
/// A unit multiplies four neighbouring keys, and neighbouring units should read neighbouring rows of
/// the stage: key `4 c + j` lies in row `j * columns + c`.
#[cube]
pub fn stage_keys<E: Float>(
    source: &[Chunk<E>],
    stage: &mut Shared<[Chunk<f32>]>,
    rows: &KeyRows,
    start: u32,
    from: u32,
    unit: u32,
    #[comptime] tile: Tile,
) {
    let depth = comptime!(tile.depth() as u32);
    let count = comptime!(tile.keys() * tile.depth());
    #[unroll]
    for turn in 0..comptime!(turns(count, tile)) {
        let index = comptime!((turn * tile.units()) as u32) + unit;
        if comptime!(full(count, tile, turn)) || index < count as u32 {
            let (key, chunk) = (index / depth, index % depth);
            let at = rows.base + min(start + key, rows.last) * rows.stride + from + chunk;
            let row = key % 4 * comptime!(tile.columns as u32) + key / 4;
            stage[(row * comptime!(tile.pitch() as u32) + chunk) as usize] =
                Vector::cast_from(source[at as usize]);
        }
    }
}

/// Where the query chunks begin that a unit brings into the stage, turn by turn: they are the same for
/// every tile of keys, and finding a packed row takes a division. Behind the last row that one is
/// repeated, and never written out.
#[cube]
pub fn query_rows(
    arguments: &Arguments,
    block: &Block,
    unit: u32,
    #[comptime] tile: Tile,
) -> Array<u32> {
    let depth = comptime!(tile.depth() as u32);
    let turns = comptime!(turns(tile.rows() * tile.depth(), tile));
    let mut begins = Array::<u32>::new(turns);
    #[unroll]
    for turn in 0..turns {
        let index = comptime!((turn * tile.units()) as u32) + unit;
        let packed_row = min(block.row + index / depth, block.rows - 1u32);
        let head = block.kv_head * arguments.group + packed_row % arguments.group;
        let row = packed_row / arguments.group;
        begins[turn] = arguments.q.chunk(block.batch, head, row) + index % depth;
    }
    begins
}

/// Brings the same chunks of the block's queries into the stage, behind the keys.
#[cube]
pub fn stage_queries<E: Float>(
    source: &[Chunk<E>],
    stage: &mut Shared<[Chunk<f32>]>,
    rows: &Array<u32>,
    from: u32,
    unit: u32,
    #[comptime] tile: Tile,
) {
    let depth = comptime!(tile.depth() as u32);
    let count = comptime!(tile.rows() * tile.depth());
    #[unroll]
    for turn in 0..comptime!(turns(count, tile)) {
        let index = comptime!((turn * tile.units()) as u32) + unit;
        if comptime!(full(count, tile, turn)) || index < count as u32 {
            let row = comptime!(tile.keys() as u32) + index / depth;
            let to = row * comptime!(tile.pitch() as u32) + index % depth;
            stage[to as usize] = Vector::cast_from(source[(rows[turn] + from) as usize]);
        }
    }
}

/// Brings the values of `value_keys` keys from `start` into the stage.
#[cube]
pub fn stage_values<E: Float>(
    source: &[Chunk<E>],
    stage: &mut Shared<[Chunk<f32>]>,
    rows: &KeyRows,
    start: u32,
    unit: u32,
    #[comptime] tile: Tile,
) {
    let chunks = comptime!(tile.chunks() as u32);
    let count = comptime!(tile.value_keys * tile.chunks());
    #[unroll]
    for turn in 0..comptime!(turns(count, tile)) {
        let index = comptime!((turn * tile.units()) as u32) + unit;
        if comptime!(full(count, tile, turn)) || index < count as u32 {
            let (key, chunk) = (index / chunks, index % chunks);
            let at = rows.base + min(start + key, rows.last) * rows.stride + chunk;
            stage[(key * comptime!(tile.value_pitch() as u32) + chunk) as usize] =
                Vector::cast_from(source[at as usize]);
        }
    }
}

/// Adds the staged chunks' products to a unit's scores, `[row * 4 + key]`.
#[cube]
pub fn multiply_keys(
    stage: &Shared<[Chunk<f32>]>,
    scores: &mut Array<f32>,
    line: u32,
    column: u32,
    #[comptime] tile: Tile,
) {
    let pitch = comptime!(tile.pitch() as u32);
    for chunk in 0..comptime!(tile.depth() as u32) {
        let mut keys = Array::<Chunk<f32>>::new(4usize);
        #[unroll]
        for j in 0..4usize {
            let row = comptime!((j * tile.columns) as u32) + column;
            keys[j] = stage[(row * pitch + chunk) as usize];
        }
        #[unroll]
        for i in 0..comptime!(tile.unit_rows) {
            let row = comptime!((tile.keys() + i * tile.lines) as u32) + line;
            let query = stage[(row * pitch + chunk) as usize];
            #[unroll]
            for j in 0..4usize {
                let key = keys[j];
                let mut score = scores[comptime!(i * 4) + j];
                #[unroll]
                for e in 0..4usize {
                    score += query.extract(e) * key.extract(e);
                }
                scores[comptime!(i * 4) + j] = score;
            }
        }
    }
}

/// Adds the staged values, weighted, to a unit's outputs, `[row * unit_chunks + chunk]`; `piece` counts
/// the stages of values within the tile.
///
/// With `hidden` some weights are negative: those of hidden keys, whose values must not even be
/// multiplied by 0, as `0 * NaN` is NaN.
#[cube]
pub fn multiply_values(
    stage: &Shared<[Chunk<f32>]>,
    weights: &Shared<[Chunk<f32>]>,
    mixed: &mut Array<Chunk<f32>>,
    piece: u32,
    line: u32,
    column: u32,
    #[comptime] hidden: bool,
    #[comptime] tile: Tile,
) {
    let unit_chunks = comptime!(tile.unit_chunks());
    let quads = comptime!((tile.value_keys / 4) as u32);
    for quad in 0..quads {
        let mut shares = Array::<Chunk<f32>>::new(comptime!(tile.unit_rows));
        #[unroll]
        for i in 0..comptime!(tile.unit_rows) {
            let row = comptime!((i * tile.lines) as u32) + line;
            let at = row * comptime!(tile.weight_pitch() as u32) + piece * quads + quad;
            shares[i] = weights[at as usize];
        }
        #[unroll]
        for j in 0..4usize {
            let key = quad * 4 + j as u32;
            #[unroll]
            for n in 0..unit_chunks {
                let chunk = comptime!((n * tile.columns) as u32) + column;
                let value = stage[(key * comptime!(tile.value_pitch() as u32) + chunk) as usize];
                #[unroll]
                for i in 0..comptime!(tile.unit_rows) {
                    let weight = shares[i].extract(j);
                    let mut product = Chunk::<f32>::new(weight) * value;
                    if comptime!(hidden) {
                        product = select(weight < 0.0f32, Chunk::<f32>::new(0.0f32), product);
                    }
                    mixed[comptime!(i * unit_chunks) + n] += product;
                }
            }
        }
    }
}
