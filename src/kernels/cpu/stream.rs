//! Linear layers for few rows: the weight is streamed once, as dot products with its rows.

use core::ops::Range;

use rayon::prelude::*;

use super::scratch::Scratch;
use super::simd::{Elem, Job, Level, Simd};
use super::stored::Stored;
use super::view::Shared;

/// Elements of the weight below which waking other threads costs more than it gains.
const PARALLEL_ELEMENTS: usize = 1 << 16;
/// Elements of the weight that a thread streams at a time.
const STREAM_ELEMENTS: usize = 1 << 15;
/// How far ahead of its use a streamed weight is asked for.
pub(super) const PREFETCH_BYTES: usize = 2048;

/// Rows of the weight against all rows of `x`.
struct Stream<W> {
    /// `[M, d_input]` in f32.
    x: Shared<f32>,
    rows: usize,
    weight: Stored<W>,
    /// `[rows, d_output]`.
    out: Shared<f32>,
    from: usize,
    to: usize,
}

/// `x weight + bias` for at most 8 `rows`.
pub(super) fn stream<X: Elem, W: Elem>(
    x: &[X],
    rows: usize,
    weight: Stored<W>,
    bias: Option<&[f32]>,
    out: Shared<X>,
    level: Level,
) {
    let (d_input, d_output) = (weight.d_input, weight.d_output);
    let padded = rows.next_power_of_two();
    let scratch = Scratch::new([padded * d_input, rows * d_output]);
    let [wide, sums] = scratch.areas;

    // SAFETY: the areas have the lengths asked for, and every chunk writes columns of its own.
    unsafe {
        for (i, x) in x.iter().enumerate() {
            wide.add(i).write(x.widen());
        }
        for i in x.len()..padded * d_input {
            wide.add(i).write(0.0);
        }
        let (wide, sums) = (Shared(wide), Shared(sums));
        over_columns([d_input, d_output], |columns| {
            level.run(Stream {
                x: wide,
                rows,
                weight,
                out: sums,
                from: columns.start,
                to: columns.end,
            });
        });
        write_sums(sums, [rows, d_output], bias, out);
    }
}

/// Writes `[rows, d_output]` sums with the bias added.
///
/// # Safety
///
/// `sums` and `out` have so many elements.
pub(super) unsafe fn write_sums<X: Elem>(
    sums: Shared<f32>,
    [rows, d_output]: [usize; 2],
    bias: Option<&[f32]>,
    out: Shared<X>,
) {
    for row in 0..rows {
        for column in 0..d_output {
            let i = row * d_output + column;
            let bias = bias.map_or(0.0, |bias| bias[column]);
            out.at(i).write(X::narrow(*sums.at(i) + bias));
        }
    }
}

/// Runs the columns of a product with a weight `[d_input, d_output]`, shared by all threads where that is worth it.
pub(super) fn over_columns(
    [d_input, d_output]: [usize; 2],
    run: impl Fn(Range<usize>) + Send + Sync,
) {
    let chunk = (STREAM_ELEMENTS / d_input.max(1))
        .next_multiple_of(4)
        .max(4);
    let run = |index: usize| {
        let from = index * chunk;
        run(from..d_output.min(from + chunk));
    };
    let chunks = d_output.div_ceil(chunk);
    if chunks == 1 || d_input.saturating_mul(d_output) < PARALLEL_ELEMENTS {
        (0..chunks).for_each(run);
    } else {
        (0..chunks).into_par_iter().for_each(run);
    }
}

impl<W: Elem> Job for Stream<W> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        match self.rows {
            1 => self.all::<S, 1, 1, 4>(),
            2 => self.all::<S, 2, 1, 4>(),
            3 | 4 => self.all::<S, 4, 1, 2>(),
            // So many rows of `x` are worth sharing between two rows of the weight.
            _ => self.all::<S, 8, 2, 1>(),
        }
    }
}

impl<W: Elem> Stream<W> {
    /// Row after row of the weight: one stream through memory, which the processor reads ahead best.
    #[inline(always)]
    unsafe fn all<S: Simd, const M: usize, const N: usize, const U: usize>(&self) {
        let mut column = self.from;
        while self.to - column >= N {
            self.columns::<S, M, N, U>(column);
            column += N;
        }
        while column < self.to {
            self.columns::<S, M, 1, U>(column);
            column += 1;
        }
    }

    /// `N` rows of the weight, which are columns of the output, against `M` rows of `x`, `U` vectors
    /// at a time so that sums do not wait for each other.
    #[inline(always)]
    unsafe fn columns<S: Simd, const M: usize, const N: usize, const U: usize>(
        &self,
        column: usize,
    ) {
        let Stored {
            ptr,
            stride,
            d_input,
            d_output,
        } = self.weight;
        let weight = ptr.wrapping_add(column.wrapping_mul(stride));
        let x = self.x.0;
        let mut acc = [[[S::zero(); M]; N]; U];
        // Tensors of a mapped file start anywhere; vectors across two cache lines cost a tenth of the
        // bandwidth, so what stands before the first whole vector is left to the scalar loop.
        let vector = S::LANES * size_of::<W>();
        let beyond = weight.addr() % vector;
        let head = ((vector - beyond) % vector / size_of::<W>()).min(d_input);
        let mut i = head;
        while d_input - i >= U * S::LANES {
            for n in 0..N {
                let w = weight.wrapping_add(n.wrapping_mul(stride).wrapping_add(i));
                S::prefetch(w.cast::<u8>().wrapping_add(PREFETCH_BYTES));
            }
            for (u, sums) in acc.iter_mut().enumerate() {
                let at = i.wrapping_add(u * S::LANES);
                self.add_vectors::<S, M, N>(weight, at, sums);
            }
            i += U * S::LANES;
        }
        while d_input - i >= S::LANES {
            self.add_vectors::<S, M, N>(weight, i, &mut acc[0]);
            i += S::LANES;
        }
        for n in 0..N {
            for m in 0..self.rows.min(M) {
                let mut vector = acc[0][n][m];
                for sums in &acc[1..] {
                    vector = S::add(vector, sums[n][m]);
                }
                let mut sum = S::sum(vector);
                for i in (0..head).chain(i..d_input) {
                    let w = *weight.wrapping_add(n.wrapping_mul(stride).wrapping_add(i));
                    let x = *x.wrapping_add(m.wrapping_mul(d_input).wrapping_add(i));
                    sum += w.widen() * x;
                }
                self.out.at(m * d_output + column + n).write(sum);
            }
        }
    }

    /// One vector of each row.
    #[inline(always)]
    unsafe fn add_vectors<S: Simd, const M: usize, const N: usize>(
        &self,
        weight: *const W,
        i: usize,
        sums: &mut [[S::V; M]; N],
    ) {
        let (stride, d_input) = (self.weight.stride, self.weight.d_input);
        let mut ws = [S::zero(); N];
        for (n, w) in ws.iter_mut().enumerate() {
            *w = W::load::<S>(weight.wrapping_add(n.wrapping_mul(stride).wrapping_add(i)));
        }
        for m in 0..M {
            let x = S::load(self.x.at(m.wrapping_mul(d_input).wrapping_add(i)));
            for n in 0..N {
                sums[n][m] = S::fma(ws[n], x, sums[n][m]);
            }
        }
    }
}
