//! Attention for many rows: scores and outputs are computed transposed, in panels of lanes.
//!
//! A lane is one query row of one head of the group. With lanes side by side in vectors, keys and
//! values are only ever read element by element, so they are used where they lie, whatever their
//! stride; maxima and sums over keys are plain vector operations; and each lane can have its own range
//! of visible keys.

use core::ops::Range;

use super::attention::Piece;
use super::simd::{Elem, Job, Simd};
use super::tile::{Rows, for_rows, product};
use super::{scratch, view::View};

/// Keys of a tile: with a panel of weights they fill the first level cache.
const TILE_KEYS: usize = 96;

/// A piece computed in panels of `C` vectors.
pub(super) struct Panels<'a, E, const C: usize>(pub Piece<'a, E>);

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
    /// Keys that some lane sees, and keys that every lane sees.
    seen: Range<usize>,
    seen_by_all: Range<usize>,
}

/// Keys and values of a tile in f32.
#[derive(Clone, Copy)]
struct Tile {
    keys: *const f32,
    key_stride: isize,
    values: *const f32,
    value_stride: isize,
}

impl<E: Elem, const C: usize> Job for Panels<'_, E, C> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let piece = &self.0;
        let problem = piece.problem;
        let head_dim = problem.head_dim();
        let width = C * S::LANES;
        let lanes = piece.lanes();
        let count = lanes.div_ceil(width);
        let area = head_dim * width;
        let in_place =
            |view: &View<E, 4>| E::dtype() == burn::tensor::DType::F32 && view.strides[3] == 1;
        let copied = |view: &View<E, 4>| match in_place(view) {
            true => 0,
            false => TILE_KEYS * head_dim,
        };
        let lengths = [
            count * area,
            count * area,
            count * width,
            count * width,
            TILE_KEYS * width,
            2 * width,
            S::LANES * head_dim,
            copied(&problem.k),
            copied(&problem.v),
        ];
        scratch::with(lengths, |areas| {
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
            ] = areas;
            pack_queries::<S, E>(piece, count * C, width, queries, rows);
            for i in 0..count * area {
                sums.add(i).write(0.0);
            }
            for i in 0..count * width {
                shift.add(i).write(f32::MIN);
                total.add(i).write(0.0);
            }
            let panel = |index: usize| {
                let first = piece.lane(index * width).0;
                let last = piece.lane(lanes.min((index + 1) * width) - 1).0;
                let mut seen = usize::MAX..0;
                let mut seen_by_all = 0..usize::MAX;
                for keys in (first..=last).map(|row| piece.visible(row)) {
                    seen_by_all = seen_by_all.start.max(keys.start)..seen_by_all.end.min(keys.end);
                    if !keys.is_empty() {
                        seen = seen.start.min(keys.start)..seen.end.max(keys.end);
                    }
                }
                Panel {
                    queries: queries.add(index * area),
                    sums: sums.add(index * area),
                    shift: shift.add(index * width),
                    total: total.add(index * width),
                    seen,
                    seen_by_all,
                }
            };
            let mut start = piece.keys.start;
            while start < piece.keys.end {
                let end = piece.keys.end.min(start + TILE_KEYS);
                let (k, v) = (&problem.k, &problem.v);
                let at = |view: &View<E, 4>| view.at([piece.batch, piece.kv_head, start, 0]);
                let tile = |view: &View<E, 4>, copy: *mut f32| match in_place(view) {
                    true => (at(view).cast::<f32>(), view.strides[2]),
                    false => {
                        widen::<S, E>(view, at(view), end - start, head_dim, copy);
                        (copy.cast_const(), head_dim as isize)
                    }
                };
                let (tile_keys, key_stride) = tile(k, keys);
                let (tile_values, value_stride) = tile(v, values);
                for index in 0..count {
                    let panel = panel(index);
                    let from = panel.seen.start.max(start);
                    let to = panel.seen.end.min(end);
                    if from >= to {
                        continue;
                    }
                    let all_from = panel.seen_by_all.start.clamp(from, to);
                    let all_to = panel.seen_by_all.end.clamp(all_from, to);
                    let part = |from: usize| Tile {
                        keys: tile_keys
                            .wrapping_offset(((from - start) as isize).wrapping_mul(key_stride)),
                        key_stride,
                        values: tile_values
                            .wrapping_offset(((from - start) as isize).wrapping_mul(value_stride)),
                        value_stride,
                    };
                    for (range, masked) in [
                        (from..all_from, true),
                        (all_from..all_to, false),
                        (all_to..to, true),
                    ] {
                        if range.is_empty() {
                            continue;
                        }
                        let tile = part(range.start);
                        if masked {
                            write_bounds(piece, index * width, width, &range, bounds);
                            step::<S, C, true>(
                                &panel,
                                tile,
                                range.len(),
                                head_dim,
                                weights,
                                bounds,
                            );
                        } else {
                            step::<S, C, false>(
                                &panel,
                                tile,
                                range.len(),
                                head_dim,
                                weights,
                                bounds,
                            );
                        }
                    }
                }
                start = end;
            }
            hand_over::<S, E>(piece, count * C, width, [sums, shift, total, rows]);
        });
    }
}

/// Queries to panels `[head_dim, lanes]`, scaled; lanes beyond the last are zero.
#[inline(always)]
unsafe fn pack_queries<S: Simd, E: Elem>(
    piece: &Piece<'_, E>,
    vectors: usize,
    width: usize,
    queries: *mut f32,
    rows: *mut f32,
) {
    let head_dim = piece.problem.head_dim();
    let view = &piece.problem.q;
    let scale = core::f32::consts::LOG2_E / (head_dim as f32).sqrt();
    let per_panel = width / S::LANES;
    for vector in 0..vectors {
        for lane in 0..S::LANES {
            let row = rows.add(lane * head_dim);
            let index = vector * S::LANES + lane;
            if index >= piece.lanes() {
                for i in 0..head_dim {
                    row.add(i).write(0.0);
                }
                continue;
            }
            let (q_row, head) = piece.lane(index);
            let src = view.at([piece.batch, head, q_row, 0]);
            let step = view.strides[3];
            for i in 0..head_dim {
                let x = *src.wrapping_offset((i as isize).wrapping_mul(step));
                row.add(i).write(x.widen() * scale);
            }
        }
        let dst =
            queries.add(vector / per_panel * head_dim * width + vector % per_panel * S::LANES);
        transpose_rows::<S>(rows, head_dim, dst, width);
    }
}

/// `LANES` rows of `head_dim` to `head_dim` rows of `LANES`.
#[inline(always)]
unsafe fn transpose_rows<S: Simd>(
    rows: *const f32,
    head_dim: usize,
    dst: *mut f32,
    dst_stride: usize,
) {
    let mut i = 0;
    while head_dim - i >= S::LANES {
        S::transpose(rows.add(i), head_dim, dst.add(i * dst_stride), dst_stride);
        i += S::LANES;
    }
    for i in i..head_dim {
        for lane in 0..S::LANES {
            dst.add(i * dst_stride + lane)
                .write(*rows.add(lane * head_dim + i));
        }
    }
}

/// Copies rows of a view to f32, one after the other.
#[inline(always)]
unsafe fn widen<S: Simd, E: Elem>(
    view: &View<E, 4>,
    src: *const E,
    rows: usize,
    head_dim: usize,
    dst: *mut f32,
) {
    for row in 0..rows {
        let src = src.wrapping_offset((row as isize).wrapping_mul(view.strides[2]));
        let dst = dst.add(row * head_dim);
        let mut i = 0;
        if view.strides[3] == 1 {
            while head_dim - i >= S::LANES {
                S::store(dst.add(i), E::load::<S>(src.wrapping_add(i)));
                i += S::LANES;
            }
        }
        for i in i..head_dim {
            let x = *src.wrapping_offset((i as isize).wrapping_mul(view.strides[3]));
            dst.add(i).write(x.widen());
        }
    }
}

/// The keys each lane sees, counted from the first of `range`: all starts, then all ends.
#[inline(always)]
unsafe fn write_bounds<E: Elem>(
    piece: &Piece<'_, E>,
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
    keys: usize,
    head_dim: usize,
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
        head_dim,
        weights,
        shift,
        from,
        to,
    };
    for_rows::<S>(keys, &mut scores);
    let shift = scores.shift;

    let mut factor = [S::zero(); C];
    let mut total = [S::zero(); C];
    for c in 0..C {
        factor[c] = S::exp2(S::sub(old[c], shift[c]));
        total[c] = S::mul(S::load(panel.total.add(c * S::LANES)), factor[c]);
        S::store(panel.shift.add(c * S::LANES), shift[c]);
    }
    let mut at = weights;
    for _ in 0..keys {
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
        keys,
        weights,
        factor,
        from,
        to,
    };
    for_rows::<S>(head_dim, &mut sums);
}

/// Scores of blocks of keys, and their maximum.
struct Scores<'a, S: Simd, const C: usize, const MASKED: bool> {
    panel: &'a Panel,
    tile: Tile,
    head_dim: usize,
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
        let acc = product::<S, R, C>(self.head_dim, keys, stride, 1, self.panel.queries);
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
    keys: usize,
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
            false => product::<S, R, C>(self.keys, values, 1, stride, self.weights),
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
        for key in 0..self.keys {
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

/// Transposes the sums back and hands every lane over.
#[inline(always)]
unsafe fn hand_over<S: Simd, E: Elem>(
    piece: &Piece<'_, E>,
    vectors: usize,
    width: usize,
    [sums, shift, total, rows]: [*mut f32; 4],
) {
    let head_dim = piece.problem.head_dim();
    let per_panel = width / S::LANES;
    for vector in 0..vectors {
        let src = sums.add(vector / per_panel * head_dim * width + vector % per_panel * S::LANES);
        let mut i = 0;
        while head_dim - i >= S::LANES {
            S::transpose::<f32>(src.add(i * width), width, rows.add(i), head_dim);
            i += S::LANES;
        }
        for i in i..head_dim {
            for lane in 0..S::LANES {
                rows.add(lane * head_dim + i)
                    .write(*src.add(i * width + lane));
            }
        }
        for lane in 0..S::LANES {
            let index = vector * S::LANES + lane;
            if index < piece.lanes() {
                let row = rows.add(lane * head_dim);
                piece.finish(index, row, *shift.add(index), *total.add(index));
            }
        }
    }
}
