//! Attention for many rows by tiles of bf16: queries, keys and values in bf16, scores, softmax and sums in f32, and the
//! weights of the values rounded to bf16, as in FlashAttention.
//!
//! Lanes (query rows of the heads of a group) are rows of the left matrix, keys and then values the right one.

use core::ops::Range;

use super::{PAIR, Product, TILE, TILE_DEPTH, TILE_ROWS, TileJob, transpose_pairs};
use crate::kernels::cpu::panels::seen_by_panel;
use crate::kernels::cpu::piece::Piece;
use crate::kernels::cpu::scratch::{LINE, Scratch};
use crate::kernels::cpu::simd::{Elem, Simd};
use crate::kernels::cpu::view::View;

/// Keys taken at a time: their tiles and the scores of a pair of blocks of lanes stay near the processor.
const BLOCK_KEYS: usize = 128;
/// Tiles along the keys of a block.
const KEY_STEPS: usize = BLOCK_KEYS / TILE_DEPTH;
/// The exponent of bf16 that infinity and NaN have.
const NOT_FINITE: u16 = 0x7f80;

/// A piece computed in tiles. Keys and values are bf16.
pub(in crate::kernels::cpu) struct InTiles<'a, E, K>(pub &'a Piece<'a, E, K>);

impl<E: Elem, K: Elem> TileJob for InTiles<'_, E, K> {
    /// Whether it could be computed: products with 0 are wrong where a value is infinite or NaN.
    type Output = bool;

    #[inline(always)]
    unsafe fn run<S: Simd, T: Product>(self, tiles: &T) -> bool {
        let piece = self.0;
        let head_dim = piece.problem.head_dim();
        let depth = head_dim.div_ceil(TILE_DEPTH);
        let width = depth * TILE_DEPTH;
        let lanes = piece.lanes().next_multiple_of(PAIR);
        let scratch = Scratch::new([
            lanes * width / 2,
            BLOCK_KEYS * width / 2,
            BLOCK_KEYS * width / 2,
            PAIR * BLOCK_KEYS,
            PAIR * BLOCK_KEYS / 2,
            lanes * width,
            lanes,
            lanes,
            lanes * LINE,
            TILE_ROWS * width / 2,
        ]);
        let [
            queries,
            keys,
            values,
            scores,
            weights,
            sums,
            shift,
            factor,
            totals,
            rows,
        ] = scratch.areas;
        let areas = Areas {
            queries: queries.cast(),
            keys: keys.cast(),
            values: values.cast(),
            scores,
            weights: weights.cast(),
            sums,
            shift,
            factor,
            totals,
            depth,
            width,
        };
        self.pack_queries(&areas);
        core::slice::from_raw_parts_mut(sums, lanes * width).fill(0.0);
        core::slice::from_raw_parts_mut(shift, lanes).fill(f32::MIN);
        core::slice::from_raw_parts_mut(totals, lanes * LINE).fill(0.0);

        let mut start = piece.keys.start;
        while start < piece.keys.end {
            let keys = start..piece.keys.end.min(start + BLOCK_KEYS);
            let (k, v) = (&piece.problem.k, &piece.problem.v);
            if !self.pack_keys::<S>(k, v, keys.clone(), &areas, rows.cast()) {
                return false;
            }
            for first in (0..lanes).step_by(PAIR) {
                self.take::<S, T>(tiles, keys.clone(), first, &areas);
            }
            start = keys.end;
        }
        for lane in 0..piece.lanes() {
            let total = S::sum(S::load(totals.wrapping_add(lane * LINE)));
            let row = sums.wrapping_add(lane * width);
            piece.finish(lane, row, *shift.wrapping_add(lane), total);
        }
        true
    }
}

/// Where a piece's tiles and sums are.
struct Areas {
    /// Of every 16 lanes, `depth` tiles.
    queries: *mut u16,
    /// Of every 16 keys, `depth` tiles.
    keys: *mut u16,
    /// Of every 16 of `head_dim`, [`KEY_STEPS`] tiles.
    values: *mut u16,
    /// `[32, BLOCK_KEYS]`.
    scores: *mut f32,
    /// Of two blocks of 16 lanes, [`KEY_STEPS`] tiles.
    weights: *mut u16,
    /// `[lanes, width]`, sums of weighted values.
    sums: *mut f32,
    /// The largest score of each lane so far, in bits; finite, so that differences are never NaN.
    shift: *mut f32,
    /// What the sums so far have to be multiplied with.
    factor: *mut f32,
    /// `[lanes, 16]`, sums of weights.
    totals: *mut f32,
    /// Tiles along `head_dim`.
    depth: usize,
    /// `head_dim` in whole tiles.
    width: usize,
}

impl<E: Elem, K: Elem> InTiles<'_, E, K> {
    /// Queries; lanes beyond the last are 0.
    #[inline(always)]
    unsafe fn pack_queries(&self, areas: &Areas) {
        let piece = self.0;
        let view = &piece.problem.q;
        let head_dim = piece.problem.head_dim();
        let lanes = piece.lanes();
        for lane in 0..lanes.next_multiple_of(PAIR) {
            let block = lane / TILE_ROWS * areas.depth * TILE + lane % TILE_ROWS * TILE_DEPTH;
            let dst = areas.queries.wrapping_add(block);
            let src = match lane < lanes {
                true => {
                    let (row, head) = piece.lane(lane);
                    view.at([piece.batch, head, row, 0])
                }
                false => view.ptr,
            };
            for step in 0..areas.depth {
                let mut row = [half::bf16::ZERO; TILE_DEPTH];
                let from = step * TILE_DEPTH;
                let count = match lane < lanes {
                    true => TILE_DEPTH.min(head_dim - from),
                    false => 0,
                };
                for (i, x) in row.iter_mut().enumerate().take(count) {
                    let at = ((from + i) as isize).wrapping_mul(view.strides[3]);
                    *x = half::bf16::from_f32((*src.wrapping_offset(at)).widen());
                }
                dst.wrapping_add(step * TILE)
                    .cast::<[half::bf16; TILE_DEPTH]>()
                    .write(row);
            }
        }
    }

    /// Keys and values of a block, with 0 beyond its end; whether all values are finite.
    #[inline(always)]
    unsafe fn pack_keys<S: Simd>(
        &self,
        k: &View<K, 4>,
        v: &View<K, 4>,
        keys: Range<usize>,
        areas: &Areas,
        rows: *mut u16,
    ) -> bool {
        let (head_dim, width) = (self.0.problem.head_dim(), areas.width);
        let mut largest = 0;
        for first in (0..keys.len().next_multiple_of(PAIR)).step_by(TILE_ROWS) {
            self.copy_rows(k, &keys, first, head_dim, width, rows);
            let dst = areas.keys.wrapping_add(first * width);
            transpose_pairs::<S>(rows, width, areas.depth, dst);

            self.copy_rows(v, &keys, first, head_dim, width, rows);
            for x in core::slice::from_raw_parts(rows, TILE_ROWS * width) {
                largest = u16::max(largest, x & !0x8000);
            }
            let step = areas.values.wrapping_add(first / TILE_DEPTH * TILE);
            for pair in 0..TILE_ROWS / 2 {
                let row = first % TILE_DEPTH / 2 + pair;
                let (a, b) = (2 * pair * width, (2 * pair + 1) * width);
                for i in (0..width).step_by(S::LANES) {
                    let place =
                        i / TILE_ROWS * KEY_STEPS * TILE + row * TILE_DEPTH + 2 * (i % TILE_ROWS);
                    let dst = step.wrapping_add(place);
                    S::interleave(dst, rows.wrapping_add(a + i), rows.wrapping_add(b + i));
                }
            }
        }
        largest < NOT_FINITE
    }

    /// 16 rows from number `first` of `keys` on, one after the other in whole tiles, with 0 beyond their end.
    #[inline(always)]
    unsafe fn copy_rows(
        &self,
        view: &View<K, 4>,
        keys: &Range<usize>,
        first: usize,
        head_dim: usize,
        width: usize,
        rows: *mut u16,
    ) {
        let piece = self.0;
        for row in 0..TILE_ROWS {
            let dst = rows.wrapping_add(row * width);
            let key = keys.start + first + row;
            if key >= keys.end {
                core::ptr::write_bytes(dst, 0, width);
                continue;
            }
            let src = view.at([piece.batch, piece.kv_head, key, 0]).cast::<u16>();
            match view.strides[3] {
                1 => core::ptr::copy_nonoverlapping(src, dst, head_dim),
                stride => (0..head_dim).for_each(|i| {
                    let at = (i as isize).wrapping_mul(stride);
                    dst.wrapping_add(i).write(*src.wrapping_offset(at));
                }),
            }
            core::ptr::write_bytes(dst.wrapping_add(head_dim), 0, width - head_dim);
        }
    }

    /// Takes a block of keys into the 32 lanes from `first` on.
    #[inline(always)]
    unsafe fn take<S: Simd, T: Product>(
        &self,
        tiles: &T,
        keys: Range<usize>,
        first: usize,
        areas: &Areas,
    ) {
        let piece = self.0;
        let lanes = first..piece.lanes().min(first + PAIR);
        let (seen, by_all) = seen_by_panel(piece, first, PAIR);
        let from = seen.start.max(keys.start);
        let to = seen.end.min(keys.end);
        if from >= to {
            return;
        }
        let steps = (from - keys.start) / TILE_DEPTH..(to - keys.start).div_ceil(TILE_DEPTH);
        let masked = by_all.start > keys.start + steps.start * TILE_DEPTH
            || by_all.end < keys.start + steps.end * TILE_DEPTH
            || keys.end < keys.start + steps.end * TILE_DEPTH;

        let strip = areas.depth * TILE;
        let queries = areas
            .queries
            .cast_const()
            .wrapping_add(first / TILE_ROWS * strip);
        let queries = [queries, queries.wrapping_add(strip)];
        for step in steps.clone() {
            let keys = areas.keys.cast_const().wrapping_add(2 * step * strip);
            let keys = [keys, keys.wrapping_add(strip)];
            let scores = areas.scores.wrapping_add(step * PAIR);
            tiles.product::<2, false>(areas.depth, queries, keys, scores, BLOCK_KEYS);
        }

        // What makes scores of products, in bits.
        let scale = core::f32::consts::LOG2_E / (piece.problem.head_dim() as f32).sqrt();
        let factor = areas.factor.wrapping_add(first);
        for lane in lanes.clone() {
            let scores = areas.scores.wrapping_add((lane - first) * BLOCK_KEYS);
            if masked {
                let seen = piece.visible(piece.lane(lane).0);
                let within = |key: usize| key.clamp(keys.start, keys.end) - keys.start;
                mask::<S>(scores, &steps, within(seen.start)..within(seen.end));
            }
            let mut top = [S::splat(f32::MIN); 2];
            for step in steps.clone() {
                for i in (0..PAIR).step_by(S::LANES) {
                    let top = &mut top[i / S::LANES % 2];
                    *top = S::max(*top, S::load(scores.wrapping_add(step * PAIR + i)));
                }
            }
            let shift = areas.shift.wrapping_add(lane);
            let new = S::largest(S::max(top[0], top[1])).max(f32::MIN / 2.0) * scale;
            let new = new.max(*shift);
            factor.wrapping_add(lane - first).write(*shift - new);
            shift.write(new);
        }
        let mut changed = false;
        for i in (0..PAIR).step_by(S::LANES) {
            let p = factor.wrapping_add(i);
            S::store(p, S::exp2(S::load(p)));
        }
        for lane in lanes.clone() {
            changed |= *areas.factor.wrapping_add(lane) != 1.0;
        }

        for lane in lanes.clone() {
            let scores = areas.scores.wrapping_add((lane - first) * BLOCK_KEYS);
            let block = (lane - first) / TILE_ROWS * KEY_STEPS * TILE;
            let weights = areas
                .weights
                .wrapping_add(block + (lane - first) % TILE_ROWS * TILE_DEPTH);
            let shift = S::splat(-*areas.shift.wrapping_add(lane));
            let totals = areas.totals.wrapping_add(lane * LINE);
            let mut total = S::mul(S::load(totals), S::splat(*areas.factor.wrapping_add(lane)));
            for step in steps.clone() {
                for i in (0..PAIR).step_by(S::LANES) {
                    let score = S::load(scores.wrapping_add(step * PAIR + i));
                    let weight = S::coarse_exp2(S::fma(score, S::splat(scale), shift));
                    total = S::add(total, weight);
                    S::store_bf16(weights.wrapping_add(step * TILE + i), weight);
                }
            }
            S::store(totals, total);
        }

        let width = areas.width;
        if changed {
            for lane in lanes {
                let factor = S::splat(*areas.factor.wrapping_add(lane));
                let sums = areas.sums.wrapping_add(lane * width);
                for i in (0..width).step_by(S::LANES) {
                    let p = sums.wrapping_add(i);
                    S::store(p, S::mul(S::load(p), factor));
                }
            }
        }
        let weights = areas.weights.cast_const().wrapping_add(steps.start * TILE);
        let weights = [weights, weights.wrapping_add(KEY_STEPS * TILE)];
        for i in (0..width).step_by(PAIR) {
            let strip = i / TILE_ROWS * KEY_STEPS + steps.start;
            let values = areas.values.cast_const().wrapping_add(strip * TILE);
            let values = [values, values.wrapping_add(KEY_STEPS * TILE)];
            let sums = areas.sums.wrapping_add(first * width + i);
            tiles.product::<2, true>(steps.len(), weights, values, sums, width);
        }
    }
}

/// Puts -inf in place of the scores of keys outside `seen`.
#[inline(always)]
unsafe fn mask<S: Simd>(scores: *mut f32, steps: &Range<usize>, seen: Range<usize>) {
    let (from, to) = (S::splat(seen.start as f32), S::splat(seen.end as f32));
    let mut places = [0f32; LINE];
    for (i, place) in places.iter_mut().enumerate() {
        *place = i as f32;
    }
    let places = S::load(places.as_ptr());
    for i in (steps.start * PAIR..steps.end * PAIR).step_by(S::LANES) {
        let p = scores.wrapping_add(i);
        let inside = S::within(S::add(places, S::splat(i as f32)), from, to);
        S::store(
            p,
            S::select(inside, S::load(p), S::splat(f32::NEG_INFINITY)),
        );
    }
}
