//! Rows of `x` rounded to whole numbers with a scale for 32 elements, which are multiplied with codes in integers.

use core::marker::PhantomData;

use super::simd::{Elem, FINE_CODES, Job, Level, Simd, X_CODES, X_GROUP};
use super::view::Shared;
use crate::kernels::quantized::{Blocks, CHUNK};

/// Rows of `x` in eight bits; in fifteen beside formats that are [`FINE`](Blocks::FINE).
pub(super) struct Rounded<F> {
    /// `[rows, width]`, of every 32 elements what [`Simd::add_dots`] or [`Simd::add_fine_dots`] takes.
    codes: Shared<u8>,
    /// `[rows, width / 32]`.
    scales: Shared<f32>,
    /// `[rows, width / GROUP]`: sums of the elements that share a scale of the weight, where it has minimums or an
    /// offset.
    sums: Shared<f32>,
    /// Elements of a row, a multiple of a chunk.
    width: usize,
    format: PhantomData<F>,
}

impl<F> Clone for Rounded<F> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<F> Copy for Rounded<F> {}

impl<F: Blocks> Rounded<F> {
    /// Bytes of an element.
    const BYTES: usize = if F::FINE { 2 } else { 1 };
    /// Whether sums are needed.
    const SUMS: bool = F::MINIMUMS || F::OFFSET > 0;

    /// The floats that rows of `d_input` elements need, for codes, scales and sums.
    pub(super) fn lengths(rows: usize, d_input: usize) -> [usize; 3] {
        const { assert!(!(F::FINE && Self::SUMS), "codes of 15 bits have no sums") };
        let width = d_input.next_multiple_of(CHUNK);
        [
            rows * width * Self::BYTES / size_of::<f32>(),
            rows * (width / X_GROUP),
            rows * (width / F::GROUP),
        ]
    }

    /// Rounds rows of `d_input` elements into areas of these [lengths](Self::lengths).
    pub(super) fn new<X: Elem>(
        x: &[X],
        d_input: usize,
        [codes, scales, sums]: [*mut f32; 3],
        level: Level,
    ) -> Self {
        let rounded = Self {
            codes: Shared(codes.cast()),
            scales: Shared(scales),
            sums: Shared(sums),
            width: d_input.next_multiple_of(CHUNK),
            format: PhantomData,
        };
        if d_input > 0 {
            level.run_dots(Round {
                x,
                d_input,
                to: rounded,
            });
        }
        rounded
    }

    /// The codes of a row from `element` on, the first of a group of 32.
    #[inline(always)]
    pub(super) fn codes(&self, row: usize, element: usize) -> *const u8 {
        self.codes.at((row * self.width + element) * Self::BYTES)
    }

    /// The scales of a row from that of `element` on.
    #[inline(always)]
    pub(super) fn scales(&self, row: usize, element: usize) -> *const f32 {
        self.scales.at((row * self.width + element) / X_GROUP)
    }

    /// The sums of a row from that of `element` on.
    #[inline(always)]
    pub(super) fn sums(&self, row: usize, element: usize) -> *const f32 {
        self.sums.at((row * self.width + element) / F::GROUP)
    }
}

/// Rounds rows of `x`.
struct Round<'a, X, F> {
    x: &'a [X],
    d_input: usize,
    to: Rounded<F>,
}

impl<X: Elem, F: Blocks> Job for Round<'_, X, F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let to = self.to;
        for (row, x) in self.x.chunks_exact(self.d_input).enumerate() {
            for element in (0..to.width).step_by(X_GROUP) {
                let mut values = [0f32; X_GROUP];
                let from = element.min(self.d_input);
                let until = (from + X_GROUP).min(self.d_input);
                for (value, x) in values.iter_mut().zip(&x[from..until]) {
                    *value = x.widen();
                }
                let mut largest = [0f32; 8];
                // 0, and NaN where an element is infinite or NaN.
                let mut nothing = [0f32; 8];
                for part in values.as_chunks::<8>().0 {
                    for lane in 0..8 {
                        let value = part[lane].abs();
                        nothing[lane] += value * 0.0;
                        largest[lane] = match value > largest[lane] {
                            true => value,
                            false => largest[lane],
                        };
                    }
                }
                let largest = largest.iter().fold(0f32, |a, &b| a.max(b));
                let scale = match F::FINE {
                    true => largest / FINE_CODES,
                    false => largest / X_CODES,
                };
                let factor = match scale > 0.0 && scale.recip() < f32::INFINITY {
                    true => scale.recip(),
                    false => 0.0,
                };
                // Adding 1.5 * 2^23 leaves a whole number in the lowest bits.
                const WHOLE: f32 = 12_582_912.0;
                let mut whole = [0i16; X_GROUP];
                for (whole, value) in whole.iter_mut().zip(values) {
                    *whole = (value * factor + WHOLE).to_bits() as i16;
                }
                let scale = scale + nothing.iter().sum::<f32>();
                to.scales(row, element).cast_mut().write(scale);
                let codes = to.codes(row, element).cast_mut();
                if F::FINE {
                    S::store_fine(codes, &whole);
                    continue;
                }
                codes.cast::<[i8; X_GROUP]>().write(whole.map(|x| x as i8));
                if Rounded::<F>::SUMS {
                    let sums = to.sums(row, element).cast_mut();
                    for (group, whole) in whole.chunks_exact(F::GROUP).enumerate() {
                        // At most 32 times 127.
                        let sum = whole.iter().fold(0i16, |sum, &x| sum.wrapping_add(x));
                        sums.add(group).write(scale * f32::from(sum));
                    }
                }
            }
        }
    }
}
