//! Matrix products of tiles of bf16, with sums in f32.
//!
//! Two matrices are cut into tiles of 1 KiB. Of the left one a tile is 16 rows of 32 elements; of the right one it is
//! 16 rows that hold two elements, one below the other, of each of 16 columns. AMX multiplies them in one instruction,
//! AVX-512 a row of the left one with a row of two elements of the right one.

#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod linear;

use core::marker::PhantomData;

use burn::tensor::DType;

#[cfg(target_arch = "x86_64")]
pub(super) use self::amx::{AmxTiles, is_available};
pub(super) use self::attention::InTiles;
#[cfg(target_arch = "x86_64")]
pub(super) use self::avx512::{Avx512Tiles, has_fast_pairs};
pub(super) use self::linear::multiply;
use super::simd::{Elem, Job, Simd};

/// Rows of a tile.
pub(super) const TILE_ROWS: usize = 16;
/// Elements of a row of a tile in bf16.
pub(super) const TILE_DEPTH: usize = 32;
/// Elements of a tile in bf16.
pub(super) const TILE: usize = TILE_ROWS * TILE_DEPTH;

/// Columns of a pair of tiles, and rows of one.
pub(super) const PAIR: usize = 2 * TILE_ROWS;

/// Products of tiles.
pub(super) trait Product: Sized {
    /// # Safety
    ///
    /// The processor must have the instructions.
    unsafe fn new() -> Self;

    /// Sums of products of `R` blocks of 16 rows of `a` with two of 16 columns of `b`, written to `out`, whose rows are
    /// `stride` elements apart; added to what is there with `ADD`.
    ///
    /// A block of rows is `depth` tiles of 16 rows of 32 elements. A block of columns is as many tiles, of which each
    /// row holds two elements of every column.
    ///
    /// # Safety
    ///
    /// `a` and `b` have such tiles, and `out` takes `16 R x 32` elements at its stride.
    unsafe fn product<const R: usize, const ADD: bool>(
        &self,
        depth: usize,
        a: [*const u16; R],
        b: [*const u16; 2],
        out: *mut f32,
        stride: usize,
    );
}

/// A piece of work that multiplies tiles, compiled for every kind of [`Product`]; else as a [`Job`].
pub(super) trait TileJob {
    type Output;
    /// # Safety
    ///
    /// The processor must have the instructions of `S`.
    unsafe fn run<S: Simd, T: Product>(self, tiles: &T) -> Self::Output;
}

/// A job with the products of `T`.
#[cfg_attr(
    not(any(target_arch = "x86_64", test)),
    allow(dead_code, reason = "no other processor has tiles")
)]
pub(super) struct WithTiles<J, T>(J, PhantomData<T>);

#[cfg_attr(
    not(any(target_arch = "x86_64", test)),
    allow(dead_code, reason = "as above")
)]
impl<J, T> WithTiles<J, T> {
    pub(super) fn new(job: J) -> Self {
        Self(job, PhantomData)
    }
}

impl<J: TileJob, T: Product> Job for WithTiles<J, T> {
    type Output = J::Output;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> J::Output {
        self.0.run::<S, T>(&T::new())
    }
}

/// Products of tiles in plain code: the reference.
#[cfg(test)]
pub(super) struct PlainTiles;

#[cfg(test)]
impl Product for PlainTiles {
    unsafe fn new() -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn product<const R: usize, const ADD: bool>(
        &self,
        depth: usize,
        a: [*const u16; R],
        b: [*const u16; 2],
        out: *mut f32,
        stride: usize,
    ) {
        let widen = |x: *const u16| half::bf16::from_bits(*x).to_f32();
        for (row, column) in (0..R * TILE_ROWS).flat_map(|row| (0..PAIR).map(move |i| (row, i))) {
            let a = a[row / TILE_ROWS].wrapping_add(row % TILE_ROWS * TILE_DEPTH);
            let b = b[column / TILE_ROWS].wrapping_add(2 * (column % TILE_ROWS));
            let out = out.wrapping_add(row * stride + column);
            let mut sum = if ADD { *out } else { 0.0 };
            for step in 0..depth {
                for i in 0..TILE_DEPTH {
                    let at = step * TILE + i / 2 * TILE_DEPTH + i % 2;
                    sum += widen(a.wrapping_add(step * TILE + i)) * widen(b.wrapping_add(at));
                }
            }
            out.write(sum);
        }
    }
}

/// `count` elements, a multiple of the vector, to bf16.
#[inline(always)]
pub(super) unsafe fn round<S: Simd, X: Elem>(src: *const X, dst: *mut u16, count: usize) {
    if X::dtype() == DType::BF16 {
        return core::ptr::copy_nonoverlapping(src.cast(), dst, count);
    }
    let mut i = 0;
    while i < count {
        S::store_bf16(dst.wrapping_add(i), X::load::<S>(src.wrapping_add(i)));
        i += S::LANES;
    }
}

/// 16 rows of the weight, `stride` elements apart, with `depth` whole steps of 32 elements, as tiles of columns.
#[inline(always)]
pub(super) unsafe fn transpose_pairs<S: Simd>(
    src: *const u16,
    stride: usize,
    depth: usize,
    dst: *mut u16,
) {
    // Two elements move together, as the bits of one f32.
    for step in 0..depth {
        let src = src.wrapping_add(step * TILE_DEPTH);
        let dst = dst.wrapping_add(step * TILE);
        let mut part = 0;
        while part < TILE_ROWS {
            for lane in (0..TILE_ROWS).step_by(S::LANES) {
                let src = src.wrapping_add(lane * stride + 2 * part).cast::<f32>();
                let dst = dst.wrapping_add(part * TILE_DEPTH + 2 * lane).cast::<f32>();
                S::transpose::<f32>(src, stride / 2, dst, TILE_ROWS);
            }
            part += S::LANES;
        }
    }
}
