//! Attention for few rows: each key is read once for all lanes, as vectors along `head_dim`.

use core::ops::Range;

use super::piece::{DOT_LANES, Piece};
use super::scratch::{LINE, Scratch};
use super::simd::{Elem, Job, Simd};
use super::stream::PREFETCH_BYTES;

/// Keys taken at a time: their scores, for all lanes, stay in the first level cache.
const BLOCK_KEYS: usize = 256;

/// A piece of at most [`DOT_LANES`] lanes, whose `head_dim` is adjacent in keys and values and a
/// multiple of the vector.
pub(super) struct Dots<'a, E, K>(pub Piece<'a, E, K>);

/// State of all lanes.
struct State {
    /// `[lanes, head_dim]`, scaled so that scores are in bits.
    queries: *mut f32,
    /// `[lanes, head_dim]`, sums of weighted values.
    sums: *mut f32,
    /// `[lanes, BLOCK_KEYS]`.
    scores: *mut f32,
    shift: [f32; DOT_LANES],
    total: [f32; DOT_LANES],
    head_dim: usize,
}

impl<E: Elem, K: Elem> Job for Dots<'_, E, K> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let piece = &self.0;
        let head_dim = piece.problem.head_dim();
        let area = DOT_LANES * head_dim;
        let scratch = Scratch::new([area, area, DOT_LANES * BLOCK_KEYS]);
        let [queries, sums, scores] = scratch.areas;

        let mut state = State {
            queries,
            sums,
            scores,
            shift: [f32::MIN; DOT_LANES],
            total: [0.0; DOT_LANES],
            head_dim,
        };
        state.load_queries(piece);

        let seen = |lane: usize| piece.visible(piece.lane(lane).0);
        let mut all = piece.keys.clone();
        for lane in 0..piece.lanes() {
            let keys = seen(lane);
            all = all.start.max(keys.start)..all.end.min(keys.end);
        }
        if all.is_empty() {
            all = piece.keys.start..piece.keys.start;
        }
        match piece.lanes() {
            1 => state.take::<S, E, K, 1>(piece, 0, all.clone()),
            2 => state.take::<S, E, K, 2>(piece, 0, all.clone()),
            3 => state.take::<S, E, K, 3>(piece, 0, all.clone()),
            4 => state.take::<S, E, K, 4>(piece, 0, all.clone()),
            _ => state.take::<S, E, K, DOT_LANES>(piece, 0, all.clone()),
        }
        // Keys that only some lanes see are few: lane by lane.
        for lane in 0..piece.lanes() {
            let keys = seen(lane);
            state.take::<S, E, K, 1>(piece, lane, keys.start..keys.end.min(all.start));
            state.take::<S, E, K, 1>(piece, lane, keys.start.max(all.end)..keys.end);
        }
        for lane in 0..piece.lanes() {
            let row = sums.add(lane * head_dim);
            piece.finish(lane, row, state.shift[lane], state.total[lane]);
        }
    }
}

impl State {
    /// Scales the queries; lanes beyond the last are zero.
    #[inline(always)]
    unsafe fn load_queries<E: Elem, K: Elem>(&mut self, piece: &Piece<'_, E, K>) {
        let view = &piece.problem.q;
        let scale = core::f32::consts::LOG2_E / (self.head_dim as f32).sqrt();
        for i in 0..DOT_LANES * self.head_dim {
            self.queries.add(i).write(0.0);
            self.sums.add(i).write(0.0);
        }
        for lane in 0..piece.lanes() {
            let (row, head) = piece.lane(lane);
            let src = view.at([piece.batch, head, row, 0]);
            for i in 0..self.head_dim {
                let x = *src.wrapping_offset((i as isize).wrapping_mul(view.strides[3]));
                self.queries
                    .add(lane * self.head_dim + i)
                    .write(x.widen() * scale);
            }
        }
    }

    /// Takes keys into `L` lanes, all of which see all of them.
    #[inline(always)]
    unsafe fn take<S: Simd, E: Elem, K: Elem, const L: usize>(
        &mut self,
        piece: &Piece<'_, E, K>,
        lane: usize,
        keys: Range<usize>,
    ) {
        let (k, v) = (&piece.problem.k, &piece.problem.v);
        let mut start = keys.start;
        while start < keys.end {
            let count = BLOCK_KEYS.min(keys.end - start);
            let at = [piece.batch, piece.kv_head, start, 0];
            let values = (v.at(at), v.strides[2]);
            self.score::<S, K, L>(lane, k.at(at), k.strides[2], count, values);
            let factor = self.weigh::<S, L>(lane, count);
            self.add_values::<S, K, L>(lane, v.at(at), v.strides[2], count, factor);
            start += count;
        }
    }

    #[inline(always)]
    unsafe fn score<S: Simd, E: Elem, const L: usize>(
        &mut self,
        lane: usize,
        keys: *const E,
        stride: isize,
        count: usize,
        (values, values_stride): (*const E, isize),
    ) {
        let row = self.head_dim * size_of::<E>();
        let ahead = PREFETCH_BYTES / row;
        let mut key = 0;
        while count - key >= 2 {
            // The keys are next, and then the values, in short pieces that the processor reads ahead too late.
            for next in key..key + 2 {
                let at = |stride: isize, row: usize| (row as isize).wrapping_mul(stride);
                let key = keys.wrapping_offset(at(stride, next + ahead));
                let value = values.wrapping_offset(at(values_stride, next));
                for line in (0..row).step_by(LINE * size_of::<f32>()) {
                    S::prefetch(key.cast::<u8>().wrapping_add(line));
                    S::prefetch(value.cast::<u8>().wrapping_add(line));
                }
            }
            self.score_keys::<S, E, L, 2>(lane, keys, stride, key);
            key += 2;
        }
        if key < count {
            self.score_keys::<S, E, L, 1>(lane, keys, stride, key);
        }
    }

    /// Scores of `K` keys from number `key` on.
    #[inline(always)]
    unsafe fn score_keys<S: Simd, E: Elem, const L: usize, const K: usize>(
        &mut self,
        lane: usize,
        keys: *const E,
        stride: isize,
        key: usize,
    ) {
        let queries = self.queries.add(lane * self.head_dim);
        let keys = keys.wrapping_offset((key as isize).wrapping_mul(stride));
        let mut acc = [[S::zero(); L]; K];
        let mut i = 0;
        while i < self.head_dim {
            for (n, sums) in acc.iter_mut().enumerate() {
                let row = keys.wrapping_offset((n as isize).wrapping_mul(stride));
                let x = E::load::<S>(row.wrapping_add(i));
                for (l, sum) in sums.iter_mut().enumerate() {
                    let query = S::load(queries.wrapping_add(l.wrapping_mul(self.head_dim) + i));
                    *sum = S::fma(x, query, *sum);
                }
            }
            i += S::LANES;
        }
        for (n, sums) in acc.iter().enumerate() {
            for (l, sum) in sums.iter().enumerate() {
                self.scores
                    .add((lane + l) * BLOCK_KEYS + key + n)
                    .write(S::sum(*sum));
            }
        }
    }

    /// Scores to weights; returns what earlier sums have to be multiplied with.
    #[inline(always)]
    unsafe fn weigh<S: Simd, const L: usize>(&mut self, lane: usize, count: usize) -> [f32; L] {
        let mut factors = [0.0; L];
        for (l, factor) in factors.iter_mut().enumerate() {
            let lane = lane + l;
            let scores = self.scores.add(lane * BLOCK_KEYS);
            let padded = count.next_multiple_of(S::LANES);
            for i in count..padded {
                scores.add(i).write(f32::NEG_INFINITY);
            }
            let mut top = S::splat(self.shift[lane]);
            let mut i = 0;
            while i < padded {
                top = S::max(top, S::load(scores.add(i)));
                i += S::LANES;
            }
            let old = self.shift[lane];
            let shift = S::largest(top).max(old);
            let mut total = S::zero();
            let mut i = 0;
            while i < padded {
                let weight = S::exp2(S::sub(S::load(scores.add(i)), S::splat(shift)));
                total = S::add(total, weight);
                S::store(scores.add(i), weight);
                i += S::LANES;
            }
            *factor = (old - shift).exp2();
            self.shift[lane] = shift;
            self.total[lane] = self.total[lane] * *factor + S::sum(total);
        }
        factors
    }

    #[inline(always)]
    unsafe fn add_values<S: Simd, E: Elem, const L: usize>(
        &mut self,
        lane: usize,
        values: *const E,
        stride: isize,
        count: usize,
        factor: [f32; L],
    ) {
        let mut i = 0;
        // As many vectors as the registers hold accumulators for.
        while self.head_dim - i >= 4 * S::LANES && 4 * L < S::ROWS * S::PANEL {
            self.add_columns::<S, E, L, 4>(lane, values.wrapping_add(i), stride, count, factor, i);
            i += 4 * S::LANES;
        }
        while self.head_dim - i >= 2 * S::LANES {
            self.add_columns::<S, E, L, 2>(lane, values.wrapping_add(i), stride, count, factor, i);
            i += 2 * S::LANES;
        }
        while i < self.head_dim {
            self.add_columns::<S, E, L, 1>(lane, values.wrapping_add(i), stride, count, factor, i);
            i += S::LANES;
        }
    }

    /// Weighted values of `N` vectors from element `first` of `head_dim` on.
    #[inline(always)]
    unsafe fn add_columns<S: Simd, E: Elem, const L: usize, const N: usize>(
        &mut self,
        lane: usize,
        values: *const E,
        stride: isize,
        count: usize,
        factor: [f32; L],
        first: usize,
    ) {
        let sums = self.sums.add(lane * self.head_dim + first);
        let mut acc = [[S::zero(); N]; L];
        for (l, row) in acc.iter_mut().enumerate() {
            let factor = S::splat(factor[l]);
            for (n, sum) in row.iter_mut().enumerate() {
                let p = sums.wrapping_add(l.wrapping_mul(self.head_dim) + n * S::LANES);
                *sum = S::mul(S::load(p), factor);
            }
        }
        let mut weights = self.scores.add(lane * BLOCK_KEYS).cast_const();
        let mut values = values;
        for _ in 0..count {
            let mut vectors = [S::zero(); N];
            for (n, vector) in vectors.iter_mut().enumerate() {
                *vector = E::load::<S>(values.wrapping_add(n * S::LANES));
            }
            for (l, row) in acc.iter_mut().enumerate() {
                let weight = S::splat(*weights.wrapping_add(l * BLOCK_KEYS));
                for (sum, vector) in row.iter_mut().zip(vectors) {
                    *sum = S::fma(weight, vector, *sum);
                }
            }
            weights = weights.wrapping_add(1);
            values = values.wrapping_offset(stride);
        }
        for (l, row) in acc.iter().enumerate() {
            for (n, sum) in row.iter().enumerate() {
                let p = sums.wrapping_add(l.wrapping_mul(self.head_dim) + n * S::LANES);
                S::store(p, *sum);
            }
        }
    }
}
