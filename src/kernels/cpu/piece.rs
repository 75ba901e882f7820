//! A piece of an attention problem, for one thread.

use core::ops::Range;

use super::simd::Elem;
use super::view::{Shared, View};
use crate::kernels::Regions;

/// Lanes (rows times the heads of a group) up to which dot products serve better than panels.
pub(super) const DOT_LANES: usize = 8;

/// A problem whose arguments have been checked: queries and output of `E`, keys and values of `K`.
pub(super) struct Problem<E, K> {
    pub q: View<E, 4>,
    pub k: View<K, 4>,
    pub v: View<K, 4>,
    pub regions: Regions,
    /// Query heads of a key/value head.
    pub group: usize,
    pub out: Shared<E>,
    pub lse: Shared<f32>,
}

/// Rows and keys of one key/value head, and where their result goes.
pub(super) struct Piece<'a, E, K> {
    pub problem: &'a Problem<E, K>,
    pub batch: usize,
    pub kv_head: usize,
    pub rows: Range<usize>,
    pub keys: Range<usize>,
    /// Where sums go that have to be merged with those over other keys: `head_dim` sums, the
    /// shift and the total of each lane. Without it the piece covers all keys of its rows.
    pub partial: Option<Shared<f32>>,
}

impl<E: Elem, K: Elem> Problem<E, K> {
    #[inline]
    pub(super) fn head_dim(&self) -> usize {
        self.q.shape[3]
    }

    /// The keys that a row sees.
    #[inline]
    pub(super) fn visible(&self, row: usize) -> Range<usize> {
        self.regions
            .visible_keys(row, self.q.shape[2], self.k.shape[2])
    }

    /// The keys that any of the rows sees.
    pub(super) fn visible_to_any(&self, rows: Range<usize>) -> Range<usize> {
        let (mut start, mut end) = (usize::MAX, 0);
        for keys in rows.map(|row| self.visible(row)) {
            if !keys.is_empty() {
                (start, end) = (start.min(keys.start), end.max(keys.end));
            }
        }
        start.min(end)..end
    }

    /// Writes a row of output from its sums of weighted values, shift (in bits) and total weight.
    ///
    /// # Safety
    ///
    /// `sums` has `head_dim` elements; no other thread writes this row.
    #[inline]
    pub(super) unsafe fn write(
        &self,
        batch: usize,
        head: usize,
        row: usize,
        sums: *const f32,
        shift: f32,
        total: f32,
    ) {
        let [_, heads, seq_q, head_dim] = self.q.shape;
        let factor = if total == 0.0 { 0.0 } else { total.recip() };
        // Rows lie together, so that the heads of a row can be reshaped into one without a copy.
        let out = self
            .out
            .at(((batch * seq_q + row) * heads + head) * head_dim);
        let sums = core::slice::from_raw_parts(sums, head_dim);
        for (i, sum) in sums.iter().enumerate() {
            out.add(i).write(E::narrow(sum * factor));
        }
        // A total of 0 gives -inf.
        let lse = (shift + total.log2()) * core::f32::consts::LN_2;
        self.lse.at((batch * heads + head) * seq_q + row).write(lse);
    }
}

impl<E: Elem, K: Elem> Piece<'_, E, K> {
    #[inline]
    pub(super) fn lanes(&self) -> usize {
        self.rows.len() * self.problem.group
    }

    /// Row and query head of a lane: the heads of a group lie side by side, row after row.
    #[inline]
    pub(super) fn lane(&self, lane: usize) -> (usize, usize) {
        let group = self.problem.group;
        (
            self.rows.start + lane / group,
            self.kv_head * group + lane % group,
        )
    }

    /// The keys of this piece that a row sees.
    #[inline]
    pub(super) fn visible(&self, row: usize) -> Range<usize> {
        let keys = self.problem.visible(row);
        let start = keys.start.clamp(self.keys.start, self.keys.end);
        start..keys.end.clamp(start, self.keys.end)
    }

    /// Hands over the result of a lane: sums of weighted values, the shift of its scores in bits, and
    /// the total weight.
    ///
    /// # Safety
    ///
    /// `sums` has `head_dim` elements; a lane is handed over once.
    #[inline]
    pub(super) unsafe fn finish(&self, lane: usize, sums: *const f32, shift: f32, total: f32) {
        let head_dim = self.problem.head_dim();
        match self.partial {
            Some(partial) => {
                let partial = partial.at(lane * (head_dim + 2));
                core::ptr::copy_nonoverlapping(sums, partial, head_dim);
                partial.add(head_dim).write(shift);
                partial.add(head_dim + 1).write(total);
            }
            None => {
                let (row, head) = self.lane(lane);
                self.problem
                    .write(self.batch, head, row, sums, shift, total);
            }
        }
    }
}
