//! Few rows of `x` against a quantised weight whose codes are floats of eight bits: a chunk of the weight at a time is
//! widened to f32, and multiplied where it lies in the cache.

use super::quantized::{Of, Stored};
use super::scratch::Scratch;
use super::simd::{Elem, Job, Level, Simd};
use super::stream::{over_columns, write_sums};
use super::view::Shared;
use crate::kernels::quantized::{Blocks, CHUNK, Unpacked};

/// Rows of the weight against all rows of `x`.
struct Stream<F> {
    /// `[rows, d_input]` in f32.
    x: Shared<f32>,
    rows: usize,
    weight: Stored<F>,
    /// `[rows, d_output]`.
    out: Shared<f32>,
    from: usize,
    to: usize,
}

/// `x weight + bias` for at most 8 `rows`.
pub(super) fn stream<X: Elem, F: Blocks>(
    x: &[X],
    rows: usize,
    weight: Stored<F>,
    bias: Option<&[f32]>,
    out: Shared<X>,
    level: Level,
) {
    let (d_input, d_output) = (weight.d_input, weight.d_output);
    let scratch = Scratch::new([rows * d_input, rows * d_output]);
    let [wide, sums] = scratch.areas.map(Shared);
    for (i, x) in x.iter().enumerate() {
        // SAFETY: `x` has `rows * d_input` elements, and so has the area.
        unsafe { wide.at(i).write(x.widen()) };
    }
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
    // SAFETY: the area has `rows * d_output` elements, all written.
    unsafe { write_sums(sums, [rows, d_output], bias, out) };
}

impl<F: Blocks> Job for Stream<F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        match self.rows {
            1 => self.all::<S, 1>(),
            2 => self.all::<S, 2>(),
            3 | 4 => self.all::<S, 4>(),
            _ => self.all::<S, 8>(),
        }
    }
}

impl<F: Blocks> Stream<F> {
    #[inline(always)]
    unsafe fn all<S: Simd, const M: usize>(&self) {
        let Stored { ptr, d_input, .. } = self.weight;
        let mut unpacked = Unpacked::new();
        let mut wide = [0f32; CHUNK];
        for column in self.from..self.to {
            let row = ptr.wrapping_add(column.wrapping_mul(self.weight.row));
            // Two sums, so that one does not wait for the other.
            let mut sums = [[S::zero(); 2]; M];
            let mut element = 0;
            while element < d_input {
                let (len, at) = self.weight.chunk(element);
                unpacked.fill::<F, Of<S>>(row.wrapping_add(at), len);
                unpacked.dequantize::<F>(&mut wide[..len]);
                // Blocks are a multiple of two vectors.
                for i in (0..len).step_by(2 * S::LANES) {
                    let at = wide.as_ptr().wrapping_add(i);
                    let weights = [S::load(at), S::load(at.wrapping_add(S::LANES))];
                    for (m, sums) in sums.iter_mut().enumerate().take(self.rows) {
                        let x = self.x.at(m.wrapping_mul(d_input).wrapping_add(element + i));
                        sums[0] = S::fma(weights[0], S::load(x), sums[0]);
                        let x = x.wrapping_add(S::LANES);
                        sums[1] = S::fma(weights[1], S::load(x), sums[1]);
                    }
                }
                element += len;
            }
            for (m, [even, odd]) in sums.into_iter().enumerate().take(self.rows) {
                let at = m * self.weight.d_output + column;
                self.out.at(at).write(S::sum(S::add(even, odd)));
            }
        }
    }
}
