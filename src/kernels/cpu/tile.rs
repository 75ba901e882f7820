//! The inner product kernel under every matrix product here.

use super::simd::Simd;

/// Rows of which every block size is a divisor.
pub(super) const WHOLE_BLOCKS: usize = 24;

/// `acc[r][..] = sum over i of a[r, i] * b[i, ..]` for `R` rows of `a` and `C` vectors of `b`.
///
/// # Safety
///
/// Instructions of `S`; `a` has `R x depth` elements at its strides, `b` has `depth` rows of `C`
/// vectors, one after the other.
#[inline(always)]
pub(super) unsafe fn product<S: Simd, const R: usize, const C: usize>(
    depth: usize,
    a: *const f32,
    row_stride: isize,
    depth_stride: isize,
    b: *const f32,
) -> [[S::V; C]; R] {
    let mut acc = [[S::zero(); C]; R];
    let (mut a, mut b) = (a, b);
    for _ in 0..depth {
        let mut vectors = [S::zero(); C];
        for (c, vector) in vectors.iter_mut().enumerate() {
            *vector = S::load(b.wrapping_add(c * S::LANES));
        }
        for (r, row) in acc.iter_mut().enumerate() {
            let x = S::splat(*a.wrapping_offset((r as isize).wrapping_mul(row_stride)));
            for (sum, vector) in row.iter_mut().zip(vectors) {
                *sum = S::fma(x, vector, *sum);
            }
        }
        a = a.wrapping_offset(depth_stride);
        b = b.wrapping_add(C * S::LANES);
    }
    acc
}

/// Work on a block of rows whose number is known when compiling.
pub(super) trait Rows<S: Simd> {
    /// # Safety
    ///
    /// As the caller of [`for_rows`] promises.
    unsafe fn block<const R: usize>(&mut self, row: usize);
}

/// Covers `count` rows with blocks of `S::ROWS`, then smaller ones.
///
/// # Safety
///
/// Instructions of `S`, and whatever `rows` needs.
#[inline(always)]
pub(super) unsafe fn for_rows<S: Simd>(count: usize, rows: &mut impl Rows<S>) {
    let mut row = 0;
    while S::ROWS == 8 && count - row >= 8 {
        rows.block::<8>(row);
        row += 8;
    }
    while S::ROWS == 6 && count - row >= 6 {
        rows.block::<6>(row);
        row += 6;
    }
    while count - row >= 4 {
        rows.block::<4>(row);
        row += 4;
    }
    if count - row >= 2 {
        rows.block::<2>(row);
        row += 2;
    }
    if count > row {
        rows.block::<1>(row);
    }
}
