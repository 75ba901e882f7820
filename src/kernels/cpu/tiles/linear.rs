//! Linear layers for more rows by tiles of bf16: `x` is rounded into tiles, and each thread packs columns of the weight
//! into tiles of its own and multiplies them. Sums are in f32.

use core::ops::Range;

use rayon::prelude::*;

use super::{PAIR, Product, TILE, TILE_DEPTH, TILE_ROWS, TileJob, round};
use crate::kernels::cpu::packed::Panels;
use crate::kernels::cpu::scratch::Scratch;
use crate::kernels::cpu::simd::{Elem, Job, Level, Simd};
use crate::kernels::cpu::view::Shared;

/// Elements of packed columns that a thread works with at a time, within its second level cache.
const CACHED: usize = 384 << 10;
/// Pieces for each thread, so that uneven ones even out.
const PIECES_PER_THREAD: usize = 4;
/// Rows of `x` that a piece has at least, so that packed columns are reused.
const PIECE_ROWS: usize = 256;
/// Elements of `x` in tiles at a time: 32 MiB.
const PACKED: usize = 16 << 20;

/// `x weight + bias` for any number of rows.
pub(in crate::kernels::cpu) fn multiply<X: Elem, W: Panels>(
    x: &[X],
    rows: usize,
    weight: W,
    bias: Option<&[f32]>,
    out: Shared<X>,
    level: Level,
) {
    let [d_input, d_output] = weight.shape();
    let at_once = (PACKED / d_input.max(1)).max(PIECE_ROWS);
    for first in (0..rows).step_by(at_once) {
        let count = at_once.min(rows - first);
        let x = &x[first * d_input..][..count * d_input];
        let out = Shared(out.at(first * d_output));
        multiply_rows(x, count, weight, bias, out, level);
    }
}

fn multiply_rows<X: Elem, W: Panels>(
    x: &[X],
    rows: usize,
    weight: W,
    bias: Option<&[f32]>,
    out: Shared<X>,
    level: Level,
) {
    let [d_input, d_output] = weight.shape();
    let depth = d_input.div_ceil(TILE_DEPTH);
    let blocks = rows.div_ceil(TILE_ROWS);
    let scratch = Scratch::new([blocks * depth * TILE / 2]);
    let packed_x: Shared<u16> = Shared(scratch.areas[0].cast());
    (0..blocks)
        .into_par_iter()
        .with_min_len(4)
        .for_each(|block| {
            let rows = block * TILE_ROWS..rows.min((block + 1) * TILE_ROWS);
            level.run_tiles(PackRows {
                x: &x[rows.start * d_input..rows.end * d_input],
                rows: rows.len(),
                d_input,
                dst: packed_x.at(block * depth * TILE),
            });
        });

    let threads = rayon::current_num_threads();
    let pairs = d_output.div_ceil(PAIR);
    let wanted = threads * PIECES_PER_THREAD;
    // Columns that stay cached, times pieces of rows where those alone would leave threads idle: each piece packs the
    // columns again.
    let group = (CACHED / (depth * 2 * TILE).max(1)).clamp(1, pairs.div_ceil(wanted));
    let groups = pairs.div_ceil(group);
    let pieces = match groups >= 2 * threads {
        true => 1,
        false => (2 * threads)
            .div_ceil(groups)
            .min(rows.div_ceil(PIECE_ROWS)),
    };
    let piece = blocks.div_ceil(pieces).next_multiple_of(2);
    let pieces = blocks.div_ceil(piece);
    (0..groups * pieces)
        .into_par_iter()
        .with_max_len(1)
        .for_each(|index| {
            let (group_index, piece_index) = (index / pieces, index % pieces);
            let first = group_index * group;
            let pairs = first..pairs.min(first + group);
            let scratch = Scratch::new([pairs.len() * depth * TILE, PAIR * PAIR]);
            let [packed, sums] = scratch.areas;
            level.run_tiles(PackColumns {
                weight,
                columns: pairs.start * PAIR..pairs.end * PAIR,
                depth,
                dst: packed.cast(),
            });
            level.multiply_tiles(Columns {
                x: packed_x,
                blocks: piece_index * piece..blocks.min((piece_index + 1) * piece),
                rows,
                packed: packed.cast(),
                pairs,
                depth,
                d_output,
                bias,
                out,
                sums,
            });
        });
}

/// Up to 16 rows of `x` into tiles.
struct PackRows<'a, X> {
    x: &'a [X],
    rows: usize,
    d_input: usize,
    dst: *mut u16,
}

impl<X: Elem> Job for PackRows<'_, X> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // Tile after tile: what is written lies in order.
        for (step, from) in (0..self.d_input).step_by(TILE_DEPTH).enumerate() {
            let count = TILE_DEPTH.min(self.d_input - from);
            let tile = self.dst.wrapping_add(step * TILE);
            for row in 0..self.rows {
                let src = self.x.as_ptr().wrapping_add(row * self.d_input + from);
                let dst = tile.wrapping_add(row * TILE_DEPTH);
                if count == TILE_DEPTH {
                    round::<S, X>(src, dst, TILE_DEPTH);
                    continue;
                }
                let mut rest = [half::bf16::ZERO; TILE_DEPTH];
                for (i, rest) in rest.iter_mut().enumerate().take(count) {
                    *rest = half::bf16::from_f32((*src.wrapping_add(i)).widen());
                }
                dst.cast::<[half::bf16; TILE_DEPTH]>().write(rest);
            }
            let rest = (TILE_ROWS - self.rows) * TILE_DEPTH;
            core::ptr::write_bytes(tile.wrapping_add(self.rows * TILE_DEPTH), 0, rest);
        }
    }
}

/// Columns of the weight into tiles.
struct PackColumns<W> {
    weight: W,
    columns: Range<usize>,
    depth: usize,
    dst: *mut u16,
}

impl<W: Panels> Job for PackColumns<W> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let strip = self.depth * TILE;
        for (i, column) in self.columns.step_by(TILE_ROWS).enumerate() {
            self.weight
                .pack_tiles::<S>(column, self.dst.wrapping_add(i * strip));
        }
    }
}

/// Rows of `x` against packed columns of the weight.
struct Columns<'a, X> {
    x: Shared<u16>,
    /// Of 16 rows.
    blocks: Range<usize>,
    rows: usize,
    packed: *const u16,
    /// Of 32 columns.
    pairs: Range<usize>,
    depth: usize,
    d_output: usize,
    bias: Option<&'a [f32]>,
    out: Shared<X>,
    /// Takes 32 rows of 32 columns.
    sums: *mut f32,
}

impl<X: Elem> TileJob for Columns<'_, X> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd, T: Product>(self, tiles: &T) {
        let (packed, sums) = (self.packed, self.sums);
        let strip = self.depth * TILE;
        let mut block = self.blocks.start;
        while block < self.blocks.end {
            let two = self.blocks.end - block >= 2;
            let a = self.x.at(block * strip).cast_const();
            for (i, pair) in self.pairs.clone().enumerate() {
                let b = packed.wrapping_add(2 * i * strip);
                let b = [b, b.wrapping_add(strip)];
                if two {
                    let a = [a, a.wrapping_add(strip)];
                    tiles.product::<2, false>(self.depth, a, b, sums, PAIR);
                } else {
                    tiles.product::<1, false>(self.depth, [a], b, sums, PAIR);
                }
                self.write::<S>(
                    block * TILE_ROWS,
                    if two { PAIR } else { TILE_ROWS },
                    pair,
                    sums,
                );
            }
            block += if two { 2 } else { 1 };
        }
    }
}

impl<X: Elem> Columns<'_, X> {
    /// Adds the bias to `count` rows of sums, and writes those that there are.
    #[inline(always)]
    unsafe fn write<S: Simd>(&self, first: usize, count: usize, pair: usize, sums: *const f32) {
        let column = pair * PAIR;
        let columns = PAIR.min(self.d_output - column);
        for row in 0..count.min(self.rows - first) {
            let sums = sums.wrapping_add(row * PAIR);
            let out = self.out.at((first + row) * self.d_output + column);
            if columns == PAIR {
                for i in (0..PAIR).step_by(S::LANES) {
                    let mut sum = S::load(sums.wrapping_add(i));
                    if let Some(bias) = self.bias {
                        sum = S::add(sum, S::load(bias.as_ptr().wrapping_add(column + i)));
                    }
                    X::store::<S>(out.wrapping_add(i), sum);
                }
            } else {
                for i in 0..columns {
                    let bias = self.bias.map_or(0.0, |bias| bias[column + i]);
                    out.wrapping_add(i)
                        .write(X::narrow(*sums.wrapping_add(i) + bias));
                }
            }
        }
    }
}
