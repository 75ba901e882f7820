//! Attention for many rows: scores and outputs are computed transposed, in panels of lanes.
//!
//! A lane is one query row of one head of the group. With lanes side by side in vectors, keys and
//! values are only ever read element by element, so they are used where they lie, whatever their
//! stride; maxima and sums over keys are plain vector operations; and each lane can have its own range
//! of visible keys.

use core::ops::Range;

use super::gather::{hand_over, in_place, pack_queries, rows_in_f32};
use super::piece::Piece;
use super::scratch::Scratch;
use super::simd::{Elem, Job, Simd};
use super::tile::{Rows, for_rows, product};

/// Keys of a tile: with a panel of weights they fill the first level cache.
const TILE_KEYS: usize = 96;

/// A piece computed in panels.
pub(super) struct Panels<'a, E, K>(pub &'a Piece<'a, E, K>);

/// One panel's state, all `[.., lanes]`.
struct Panel {
    /// Queries `[head_dim, lanes]`, scaled so that scores are in bits.
    queries: *const f32,
    /// Sums of weighted values `[head_dim, lanes]`.
    sums: *mut f32,
    /// Largest score so far; finite, so that differences are never NaN.
    shift: *mut f32,
    /// Sum of weights.
    total: *mut f32,
}

/// Keys and values of a tile in f32.
#[derive(Clone, Copy)]
struct Tile {
    keys: *const f32,
    key_stride: isize,
    values: *const f32,
    value_stride: isize,
    count: usize,
    head_dim: usize,
}

impl<E: Elem, K: Elem> Job for Panels<'_, E, K> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        if self.0.lanes() <= S::LANES {
            self.run_in::<S, 1>()
        } else if S::PANEL == 2 {
            self.run_in::<S, 2>()
        } else {
            self.run_in::<S, 3>()
        }
    }
}

impl<E: Elem, K: Elem> Panels<'_, E, K> {
    /// In panels of `C` vectors.
    // No closures around vector code anywhere here: they would be compiled without its instructions.
    #[inline(always)]
    unsafe fn run_in<S: Simd, const C: usize>(self) {
        let piece = self.0;
        let (k, v) = (&piece.problem.k, &piece.problem.v);
        let head_dim = piece.problem.head_dim();
        let width = C * S::LANES;
        let panels = piece.lanes().div_ceil(width);
        let state = panels * head_dim * width;
        let copied = |view| {
            if in_place(view) {
                0
            } else {
                TILE_KEYS * head_dim
            }
        };
        let scratch = Scratch::new([
            state,
            state,
            panels * width,
            panels * width,
            TILE_KEYS * width,
            2 * width,
            S::LANES * head_dim,
            copied(k),
            copied(v),
        ]);
        let [
            queries,
            sums,
            shift,
            total,
            weights,
            bounds,
            rows,
            keys,
            values,
        ] = scratch.areas;
        pack_queries::<S, E, K>(piece, panels * C, width, queries, rows);
        core::slice::from_raw_parts_mut(sums, state).fill(0.0);
        core::slice::from_raw_parts_mut(shift, panels * width).fill(f32::MIN);
        core::slice::from_raw_parts_mut(total, panels * width).fill(0.0);

        let mut start = piece.keys.start;
        while start < piece.keys.end {
            let end = piece.keys.end.min(start + TILE_KEYS);
            let at = [piece.batch, piece.kv_head, start, 0];
            let (keys, key_stride) = rows_in_f32::<S, K>(k, at, end - start, keys);
            let (values, value_stride) = rows_in_f32::<S, K>(v, at, end - start, values);
            for index in 0..panels {
                let (seen, seen_by_all) = seen_by_panel(piece, index * width, width);
                let panel = Panel {
                    queries: queries.add(index * head_dim * width),
                    sums: sums.add(index * head_dim * width),
                    shift: shift.add(index * width),
                    total: total.add(index * width),
                };
                for (range, masked) in segments(start..end, seen, seen_by_all) {
                    if range.is_empty() {
                        continue;
                    }
                    let skipped = (range.start - start) as isize;
                    let tile = Tile {
                        keys: keys.wrapping_offset(skipped.wrapping_mul(key_stride)),
                        key_stride,
                        values: values.wrapping_offset(skipped.wrapping_mul(value_stride)),
                        value_stride,
                        count: range.len(),
                        head_dim,
                    };
                    if masked {
                        write_bounds(piece, index * width, width, &range, bounds);
                        step::<S, C, true>(&panel, tile, weights, bounds);
                    } else {
                        step::<S, C, false>(&panel, tile, weights, bounds);
                    }
                }
            }
            start = end;
        }
        hand_over::<S, E, K>(piece, panels * C, width, [sums, shift, total, rows]);
    }
}

/// The keys that some lane of a panel sees, and those that every lane sees.
pub(super) fn seen_by_panel<E: Elem, K: Elem>(
    piece: &Piece<'_, E, K>,
    first: usize,
    width: usize,
) -> (Range<usize>, Range<usize>) {
    let rows = piece.lane(first).0..=piece.lane(piece.lanes().min(first + width) - 1).0;
    let (mut start, mut end) = (usize::MAX, 0);
    let mut seen_by_all = 0..usize::MAX;
    for keys in rows.map(|row| piece.visible(row)) {
        seen_by_all = seen_by_all.start.max(keys.start)..seen_by_all.end.min(keys.end);
        if !keys.is_empty() {
            (start, end) = (start.min(keys.start), end.max(keys.end));
        }
    }
    (start.min(end)..end, seen_by_all)
}

/// A tile's keys that a panel needs, and whether each run of them has to be masked.
fn segments(
    tile: Range<usize>,
    seen: Range<usize>,
    seen_by_all: Range<usize>,
) -> [(Range<usize>, bool); 3] {
    let from = seen.start.max(tile.start);
    let to = seen.end.min(tile.end).max(from);
    let all_from = seen_by_all.start.clamp(from, to);
    let all_to = seen_by_all.end.clamp(all_from, to);
    [
        (from..all_from, true),
        (all_from..all_to, false),
        (all_to..to, true),
    ]
}

/// The keys each lane sees, counted from the first of `range`: all starts, then all ends.
#[inline(always)]
unsafe fn write_bounds<E: Elem, K: Elem>(
    piece: &Piece<'_, E, K>,
    first: usize,
    width: usize,
    range: &Range<usize>,
    bounds: *mut f32,
) {
    for lane in 0..width {
        let index = (first + lane).min(piece.lanes() - 1);
        let seen = piece.visible(piece.lane(index).0);
        let relative = |key: usize| (key.clamp(range.start, range.end) - range.start) as f32;
        bounds.add(lane).write(relative(seen.start));
        bounds.add(width + lane).write(relative(seen.end));
    }
}

/// Takes the keys of a tile into a panel: scores, their maximum, weights, weighted values.
#[inline(always)]
unsafe fn step<S: Simd, const C: usize, const MASKED: bool>(
    panel: &Panel,
    tile: Tile,
    weights: *mut f32,
    bounds: *const f32,
) {
    let width = C * S::LANES;
    let mut from = [S::zero(); C];
    let mut to = [S::zero(); C];
    let mut shift = [S::zero(); C];
    for c in 0..C {
        shift[c] = S::load(panel.shift.add(c * S::LANES));
        if MASKED {
            from[c] = S::load(bounds.add(c * S::LANES));
            to[c] = S::load(bounds.add(width + c * S::LANES));
        }
    }
    let old = shift;
    let mut scores = Scores::<S, C, MASKED> {
        panel,
        tile,
        weights,
        shift,
        from,
        to,
    };
    for_rows::<S>(tile.count, &mut scores);
    let shift = scores.shift;

    let mut factor = [S::zero(); C];
    let mut total = [S::zero(); C];
    for c in 0..C {
        factor[c] = S::exp2(S::sub(old[c], shift[c]));
        total[c] = S::mul(S::load(panel.total.add(c * S::LANES)), factor[c]);
        S::store(panel.shift.add(c * S::LANES), shift[c]);
    }
    let mut at = weights;
    for _ in 0..tile.count {
        for c in 0..C {
            let p = at.wrapping_add(c * S::LANES);
            let weight = S::exp2(S::sub(S::load(p), shift[c]));
            total[c] = S::add(total[c], weight);
            S::store(p, weight);
        }
        at = at.wrapping_add(width);
    }
    for c in 0..C {
        S::store(panel.total.add(c * S::LANES), total[c]);
    }

    let mut sums = Sums::<S, C, MASKED> {
        panel,
        tile,
        weights,
        factor,
        from,
        to,
    };
    for_rows::<S>(tile.head_dim, &mut sums);
}

/// Scores of blocks of keys, and their maximum.
struct Scores<'a, S: Simd, const C: usize, const MASKED: bool> {
    panel: &'a Panel,
    tile: Tile,
    weights: *mut f32,
    shift: [S::V; C],
    from: [S::V; C],
    to: [S::V; C],
}

impl<S: Simd, const C: usize, const MASKED: bool> Rows<S> for Scores<'_, S, C, MASKED> {
    #[inline(always)]
    unsafe fn block<const R: usize>(&mut self, row: usize) {
        let stride = self.tile.key_stride;
        let keys = self
            .tile
            .keys
            .wrapping_offset((row as isize).wrapping_mul(stride));
        let acc = product::<S, R, C>(self.tile.head_dim, keys, stride, 1, self.panel.queries);
        let mut dst = self.weights.wrapping_add(row.wrapping_mul(C * S::LANES));
        for (r, scores) in acc.iter().enumerate() {
            for c in 0..C {
                let mut score = scores[c];
                if MASKED {
                    let key = S::splat((row + r) as f32);
                    let seen = S::within(key, self.from[c], self.to[c]);
                    score = S::select(seen, score, S::splat(f32::NEG_INFINITY));
                }
                self.shift[c] = S::max(self.shift[c], score);
                S::store(dst.wrapping_add(c * S::LANES), score);
            }
            dst = dst.wrapping_add(C * S::LANES);
        }
    }
}

/// Sums of weighted values for blocks of `head_dim`.
struct Sums<'a, S: Simd, const C: usize, const MASKED: bool> {
    panel: &'a Panel,
    tile: Tile,
    weights: *const f32,
    factor: [S::V; C],
    from: [S::V; C],
    to: [S::V; C],
}

impl<S: Simd, const C: usize, const MASKED: bool> Rows<S> for Sums<'_, S, C, MASKED> {
    #[inline(always)]
    unsafe fn block<const R: usize>(&mut self, row: usize) {
        let values = self.tile.values.wrapping_add(row);
        let stride = self.tile.value_stride;
        let acc = match MASKED {
            false => product::<S, R, C>(self.tile.count, values, 1, stride, self.weights),
            true => self.masked_product::<R>(values),
        };
        let mut dst = self.panel.sums.wrapping_add(row.wrapping_mul(C * S::LANES));
        for sums in &acc {
            for c in 0..C {
                let p = dst.wrapping_add(c * S::LANES);
                S::store(p, S::fma(S::load(p), self.factor[c], sums[c]));
            }
            dst = dst.wrapping_add(C * S::LANES);
        }
    }
}

impl<S: Simd, const C: usize, const MASKED: bool> Sums<'_, S, C, MASKED> {
    /// As [`product`], but a value that a lane does not see is not touched by it: its weight is
    /// zero, and zero times NaN would be NaN.
    #[inline(always)]
    unsafe fn masked_product<const R: usize>(&self, values: *const f32) -> [[S::V; C]; R] {
        let mut acc = [[S::zero(); C]; R];
        let (mut values, mut weights) = (values, self.weights);
        for key in 0..self.tile.count {
            let at = S::splat(key as f32);
            for c in 0..C {
                let weight = S::load(weights.wrapping_add(c * S::LANES));
                let seen = S::within(at, self.from[c], self.to[c]);
                for (r, sums) in acc.iter_mut().enumerate() {
                    let value = S::splat(*values.wrapping_add(r));
                    sums[c] = S::select(seen, S::fma(value, weight, sums[c]), sums[c]);
                }
            }
            values = values.wrapping_offset(self.tile.value_stride);
            weights = weights.wrapping_add(C * S::LANES);
        }
        acc
    }
}
