//! Tiles of rows in shared memory: where a chunk lies, and the asynchronous copies that fill them.

use cubecl::prelude::barrier::copy_async;
use cubecl::prelude::*;

use super::block::Block;
use super::opaque::opaque;
use crate::kernels::cube::arguments::{Arguments, Strides};

/// Eight elements: the 16 bytes that one `cp.async` and one row of `ldmatrix` move.
pub type Chunk<E> = Vector<E, Const<8>>;

/// Where chunk `chunk` of row `row` lies in a tile of `rows` rows of `chunks` chunks.
///
/// Rows of 64 elements (or several such columns) take the 128-byte swizzle that `wgmma` descriptors
/// name: the chunk's index is XORed with the row's, modulo 8. Other rows get an odd pitch. Either way
/// 8 consecutive rows of one column fall on all 32 banks once.
#[cube]
pub fn place(row: u32, chunk: u32, #[comptime] rows: usize, #[comptime] chunks: usize) -> u32 {
    if comptime!(chunks.is_multiple_of(8)) {
        (chunk / 8) * comptime!(rows as u32 * 8) + row * 8 + ((chunk % 8) ^ (row % 8))
    } else {
        row * comptime!(pitch(chunks) as u32) + chunk
    }
}

/// Chunks from one row to the next where no swizzle is used.
fn pitch(chunks: usize) -> usize {
    chunks | 1
}

/// Chunks of a tile of `rows` rows, padding included.
pub fn tile_chunks(rows: usize, head_dim: usize) -> usize {
    let chunks = head_dim / 8;
    if chunks.is_multiple_of(8) {
        rows * chunks
    } else {
        rows * pitch(chunks)
    }
}

/// The 32-bit address of shared memory that asynchronous instructions take.
#[cube]
pub fn shared_address<T: CubePrimitive>(tile: &Shared<[T]>) -> u32 {
    let address: u32;
    gpu_asm!(
        "{{ .reg .u64 t; cvta.to.shared.u64 t, {pointer}; cvt.u32.u64 {address}, t; }}",
        address = out(_) address,
        pointer = mem_in(_) &tile[0],
        options(explicit_mem),
    );
    address
}

/// A tile, and the threads that fill it together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TileShape {
    /// Rows.
    pub rows: usize,
    /// Chunks a row.
    pub chunks: usize,
    /// Threads.
    pub threads: usize,
}

impl TileShape {
    /// Turns that each thread takes, the last one perhaps not all of them.
    pub fn turns(&self) -> usize {
        (self.rows * self.chunks).div_ceil(self.threads)
    }

    /// Whether every thread takes this turn.
    pub fn full(&self, turn: usize) -> bool {
        (turn + 1) * self.threads <= self.rows * self.chunks
    }
}

/// Where the keys, or the values, of one head lie.
#[derive(CubeType, Clone, Copy)]
pub struct KeyRows {
    /// The chunk where key 0 begins.
    pub base: u32,
    /// Chunks from one key to the next.
    pub stride: u32,
    /// End of what the block reads.
    pub end: u32,
}

/// The keys of a block's head.
#[cube]
pub fn key_rows(view: &Strides, block: &Block) -> KeyRows {
    KeyRows {
        base: view.chunk(block.batch, block.kv_head, 0u32),
        stride: view.row,
        end: block.end,
    }
}

/// Starts the copies of the keys `start..start + rows` into the tile at `slot`. Behind their end the
/// last key is repeated: no row sees those copies, and nothing behind the end is read.
#[cube]
pub fn copy_keys<E: Float>(
    source: &[Chunk<E>],
    tile: &mut Shared<[Chunk<E>]>,
    slot: u32,
    keys: &KeyRows,
    start: u32,
    thread: u32,
    #[comptime] shape: TileShape,
) {
    let chunks = comptime!(shape.chunks as u32);
    let thread = opaque(thread);
    #[unroll]
    for turn in 0..comptime!(shape.turns()) {
        let index = comptime!((turn * shape.threads) as u32) + thread;
        let (row, chunk) = (index / chunks, index % chunks);
        if comptime!(shape.full(turn)) || row < comptime!(shape.rows as u32) {
            let key = min(start + row, keys.end - 1u32);
            let from = (keys.base + key * keys.stride + chunk) as usize;
            let to = (slot + place(row, chunk, shape.rows, shape.chunks)) as usize;
            copy_async(&source[from..from + 1], &mut tile[to..to + 1], 8u32);
        }
    }
}

/// Starts the copies of a block's queries; behind the last packed row it is repeated.
#[cube]
pub fn copy_queries<E: Float>(
    source: &[Chunk<E>],
    tile: &mut Shared<[Chunk<E>]>,
    arguments: &Arguments,
    block: &Block,
    thread: u32,
    #[comptime] shape: TileShape,
) {
    let chunks = comptime!(shape.chunks as u32);
    #[unroll]
    for turn in 0..comptime!(shape.turns()) {
        let index = comptime!((turn * shape.threads) as u32) + thread;
        let (row, chunk) = (index / chunks, index % chunks);
        if comptime!(shape.full(turn)) || row < comptime!(shape.rows as u32) {
            let packed_row = min(block.row + row, block.rows - 1u32);
            let head = block.kv_head * arguments.group + packed_row % arguments.group;
            let query = packed_row / arguments.group;
            let from = (arguments.q.chunk(block.batch, head, query) + chunk) as usize;
            let to = place(row, chunk, shape.rows, shape.chunks) as usize;
            copy_async(&source[from..from + 1], &mut tile[to..to + 1], 8u32);
        }
    }
}

/// Closes the group of copies started since the last.
#[cube]
pub fn commit_copies() {
    gpu_asm!("cp.async.commit_group;");
}

/// Waits until at most `pending` groups of this thread's copies are under way.
#[cube]
pub fn wait_copies(#[comptime] pending: usize) {
    let code = comptime!(format!("cp.async.wait_group {pending};"));
    gpu_asm!("{code}");
}
