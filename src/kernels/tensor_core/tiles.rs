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

/// Turns that a thread computes the addresses of at once.
const AT_ONCE: usize = 8;

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

    /// Whether every thread takes every turn.
    pub fn whole(&self) -> bool {
        self.full(self.turns().next_multiple_of(AT_ONCE.min(self.turns())) - 1)
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
    // More turns at once would take more registers.
    let parts = comptime!(shape.turns().div_ceil(AT_ONCE));
    #[unroll(parts == 1)]
    for part in 0..parts {
        #[unroll]
        for turn in 0..comptime!(shape.turns().min(AT_ONCE)) {
            let turn = part * AT_ONCE + turn;
            let index = turn as u32 * comptime!(shape.threads as u32) + thread;
            let (row, chunk) = (index / chunks, index % chunks);
            if comptime!(shape.whole()) || row < comptime!(shape.rows as u32) {
                let key = min(start + row, keys.end - 1u32);
                let from = (keys.base + key * keys.stride + chunk) as usize;
                let to = (slot + place(row, chunk, shape.rows, shape.chunks)) as usize;
                copy_async(&source[from..from + 1], &mut tile[to..to + 1], 8u32);
            }
        }
    }
}

/// The 64-bit address of global memory that asynchronous instructions take.
#[cube]
fn global_address<E: CubePrimitive>(source: &[E]) -> u64 {
    let address: u64;
    gpu_asm!(
        "cvta.to.global.u64 {address}, {pointer};",
        address = out(_) address,
        pointer = mem_in(_) &source[0],
        options(explicit_mem),
    );
    address
}

/// Starts the copy of one chunk, between addresses.
#[cube]
fn copy_chunk(to: u32, from: u64) {
    gpu_asm!(
        "cp.async.cg.shared.global [{to}], [{from}], 16;",
        to = in(_) to * 1u32,
        from = in(_) from * 1u64,
    );
}

/// [`copy_keys`] of a tile that ends before the keys do, in three instructions a chunk: rows of a thread are a step apart,
/// in memory and, where the swizzle comes round, in the tile.
#[cube]
pub fn copy_whole_tile<E: Float>(
    source: &[Chunk<E>],
    tile: &mut Shared<[Chunk<E>]>,
    slot: u32,
    keys: &KeyRows,
    start: u32,
    thread: u32,
    #[comptime] shape: TileShape,
) {
    let chunks = comptime!(shape.chunks as u32);
    // Rows that the threads copy in one turn, and turns until the swizzle is the same.
    let step = comptime!(shape.threads / shape.chunks);
    let period = comptime!((8 / step).max(1));
    let (first, chunk) = (thread / chunks, thread % chunks);
    let tile_address = shared_address(&*tile) + slot * 16u32;
    let mut to = Array::<u32>::new(period);
    #[unroll]
    for turn in 0..period {
        let row = first + comptime!((turn * step) as u32);
        to[turn] = tile_address + place(row, chunk, shape.rows, shape.chunks) * 16u32;
    }
    let row = keys.base + (start + first) * keys.stride + chunk;
    let mut from = global_address(source) + u64::cast_from(row) * 16u64;
    let stride = u64::cast_from(keys.stride) * comptime!(16 * step as u64).runtime();
    #[unroll]
    for turn in 0..comptime!(shape.turns()) {
        // Swizzled columns of a tile are 8 chunks wide.
        let behind = comptime!((turn / period * period * step * 8 * 16) as u32);
        copy_chunk(to[comptime!(turn % period)] + behind, from);
        from += stride;
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
