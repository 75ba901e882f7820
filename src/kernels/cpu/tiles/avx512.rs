//! Products of tiles of bf16 by AVX-512's products of pairs.

use core::arch::x86_64::{
    __cpuid, __m512bh, __m512i, _mm512_castps_si512, _mm512_dpbf16_ps, _mm512_loadu_ps,
    _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
};
use core::mem::transmute;

use super::{Product, TILE, TILE_DEPTH, TILE_ROWS};

/// Whether products of pairs are faster than those of f32: twice as fast on AMD's processors, half as fast on Intel's.
pub(in crate::kernels::cpu) fn has_fast_pairs() -> bool {
    let vendor = __cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx]
        .map(u32::to_le_bytes)
        .as_flattened()
        == b"AuthenticAMD"
}

/// Rows whose sums are in registers at a time: 16 of 32, as many as the latency of a product asks for.
const ROWS: usize = 8;

/// Products in vector registers.
pub(in crate::kernels::cpu) struct Avx512Tiles;

impl Product for Avx512Tiles {
    #[inline(always)]
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
        for first in (0..R * TILE_ROWS).step_by(ROWS) {
            let a = a[first / TILE_ROWS].wrapping_add(first % TILE_ROWS * TILE_DEPTH);
            let out = out.wrapping_add(first * stride);
            let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
            if ADD {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (half, sum) in sums.iter_mut().enumerate() {
                        *sum = _mm512_loadu_ps(out.wrapping_add(row * stride + half * TILE_ROWS));
                    }
                }
            }
            for step in 0..depth {
                let a = a.wrapping_add(step * TILE);
                let b = b.map(|b| b.wrapping_add(step * TILE));
                for pair in 0..TILE_DEPTH / 2 {
                    let columns = b.map(|b| pairs(b.wrapping_add(pair * TILE_DEPTH)));
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let of_row = a.wrapping_add(row * TILE_DEPTH + 2 * pair);
                        let of_row = _mm512_set1_epi32(of_row.cast::<i32>().read_unaligned());
                        let of_row = transmute::<__m512i, __m512bh>(of_row);
                        for (sum, columns) in sums.iter_mut().zip(columns) {
                            *sum = _mm512_dpbf16_ps(*sum, of_row, columns);
                        }
                    }
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (half, sum) in sums.into_iter().enumerate() {
                    _mm512_storeu_ps(out.wrapping_add(row * stride + half * TILE_ROWS), sum);
                }
            }
        }
    }
}

/// Two elements of each of 16 columns.
#[inline(always)]
unsafe fn pairs(p: *const u16) -> __m512bh {
    transmute(_mm512_castps_si512(_mm512_loadu_ps(p.cast())))
}
