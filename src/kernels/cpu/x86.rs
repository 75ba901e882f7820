//! AVX-512 and AVX2.

use core::arch::x86_64::*;

use super::simd::{Elem, Job, LOW, Simd, X_GROUP};

/// # Safety
///
/// The processor must have the enabled features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn avx512<J: Job>(job: J) -> J::Output {
    job.run::<Avx512<PLAIN>>()
}

/// # Safety
///
/// The processor must have the enabled features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn avx512_vnni<J: Job>(job: J) -> J::Output {
    job.run::<Avx512<VNNI>>()
}

/// # Safety
///
/// The processor must have the enabled features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
pub(super) unsafe fn avx512_bf16<J: Job>(job: J) -> J::Output {
    job.run::<Avx512<BF16>>()
}

/// # Safety
///
/// The processor must have the enabled features.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn avx2<J: Job>(job: J) -> J::Output {
    job.run::<Avx2>()
}

/// AVX-512 with F, BW, DQ and VL.
const PLAIN: u8 = 0;
/// And products of bytes.
const VNNI: u8 = 1;
/// And both of these and roundings to bf16.
const BF16: u8 = 2;

/// AVX-512 with one of the sets of extensions above.
#[derive(Clone, Copy)]
pub(super) struct Avx512<const SET: u8>;

impl<const SET: u8> Simd for Avx512<SET> {
    type V = __m512;
    type M = __mmask16;
    const LANES: usize = 16;
    const ROWS: usize = 8;
    const PANEL: usize = 3;

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast())
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        _mm512_set1_ps(x)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        _mm512_loadu_ps(p)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        _mm512_storeu_ps(p, v)
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> __m512 {
        _mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> __m512 {
        let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: __m512) {
        let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v);
        _mm256_storeu_si256(p.cast(), halves)
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: __m512) {
        if SET == BF16 {
            let short = core::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
            return _mm256_storeu_si256(p.cast(), short);
        }
        let bits = _mm512_castps_si512(v);
        let even = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let half = _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff));
        let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
        // Rounding could make an infinity of NaN.
        let quiet = _mm512_or_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(0x40));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
        let short = _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet));
        _mm256_storeu_si256(p.cast(), short)
    }
    #[inline(always)]
    unsafe fn load_codes<const SIGNED: bool>(p: *const u8) -> __m512 {
        let codes = _mm_loadu_si128(p.cast());
        _mm512_cvtepi32_ps(match SIGNED {
            true => _mm512_cvtepi8_epi32(codes),
            false => _mm512_cvtepu8_epi32(codes),
        })
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        _mm512_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        _mm512_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        _mm512_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn scale(x: __m512, n: __m512) -> __m512 {
        _mm512_scalef_ps(x, n)
    }
    #[inline(always)]
    unsafe fn round(x: __m512) -> __m512 {
        _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x)
    }
    #[inline(always)]
    unsafe fn clamp_exponent(x: __m512) -> __m512 {
        // `scale` saturates by itself; the limits keep -inf out of `x - round(x)`, which would be NaN.
        _mm512_max_ps(
            _mm512_set1_ps(-200.0),
            _mm512_min_ps(_mm512_set1_ps(200.0), x),
        )
    }
    #[inline(always)]
    unsafe fn within(x: __m512, from: __m512, to: __m512) -> __mmask16 {
        let above = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(from, x);
        _mm512_mask_cmp_ps_mask::<_CMP_LT_OQ>(above, x, to)
    }
    #[inline(always)]
    unsafe fn select(m: __mmask16, a: __m512, b: __m512) -> __m512 {
        _mm512_mask_blend_ps(m, b, a)
    }
    #[inline(always)]
    unsafe fn largest(v: __m512) -> f32 {
        _mm512_reduce_max_ps(v)
    }
    #[inline(always)]
    unsafe fn interleave(dst: *mut u16, a: *const u16, b: *const u16) {
        let low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(a.cast()));
        let high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(b.cast()));
        let both = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
        _mm512_storeu_si512(dst.cast(), both)
    }
    #[inline(always)]
    unsafe fn sum(v: __m512) -> f32 {
        let halves = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
        Avx2::sum(halves)
    }

    // `run_dots` takes AVX2 where there is no VNNI: the branches for that only make this whole.
    type Dots = __m512;

    #[inline(always)]
    unsafe fn no_dots() -> __m512 {
        _mm512_setzero_ps()
    }
    #[inline(always)]
    unsafe fn add_dots<const SIGNED: bool, const HALVES: bool>(
        dots: __m512,
        codes: *const u8,
        x: *const i8,
        scales: *const f32,
    ) -> __m512 {
        if SET < VNNI {
            return plus(
                dots,
                Avx2::add_dots::<SIGNED, HALVES>(Avx2::no_dots(), codes, x, scales),
            );
        }
        // In the halves in which they were written just before: a load across two stores waits for both.
        let first = _mm512_castsi256_si512(_mm256_loadu_si256(codes.cast()));
        let second = _mm256_loadu_si256(codes.wrapping_add(32).cast());
        let codes = _mm512_inserti64x4::<1>(first, second);
        let x = _mm512_loadu_si512(x.cast());
        let zero = _mm512_setzero_si512();
        let fours = match SIGNED {
            true => {
                let x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(codes), zero, x);
                _mm512_dpbusd_epi32(zero, _mm512_abs_epi8(codes), x)
            }
            false => _mm512_dpbusd_epi32(zero, codes, x),
        };
        let (scales, lanes) = match HALVES {
            true => (
                _mm_loadu_ps(scales),
                _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3),
            ),
            false => (
                _mm_castpd_ps(_mm_set_sd(scales.cast::<f64>().read_unaligned())),
                _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1),
            ),
        };
        let scales = _mm512_permutexvar_ps(lanes, _mm512_castps128_ps512(scales));
        _mm512_fmadd_ps(scales, _mm512_cvtepi32_ps(fours), dots)
    }
    #[inline(always)]
    unsafe fn store_fine(dst: *mut u8, x: &[i16; X_GROUP]) {
        if SET < VNNI {
            return Avx2::store_fine(dst, x);
        }
        // There are products of 16 bits.
        dst.cast::<[i16; X_GROUP]>().write_unaligned(*x)
    }
    #[inline(always)]
    unsafe fn add_fine_dots(dots: __m512, codes: *const u8, x: *const u8, scale: f32) -> __m512 {
        if SET < VNNI {
            return plus(dots, Avx2::add_fine_dots(Avx2::no_dots(), codes, x, scale));
        }
        let codes = _mm512_cvtepi8_epi16(_mm256_loadu_si256(codes.cast()));
        let pairs =
            _mm512_dpwssd_epi32(_mm512_setzero_si512(), codes, _mm512_loadu_si512(x.cast()));
        _mm512_fmadd_ps(_mm512_set1_ps(scale), _mm512_cvtepi32_ps(pairs), dots)
    }
    #[inline(always)]
    unsafe fn subtract_products(dots: __m512, a: *const f32, b: *const f32) -> __m512 {
        plus(dots, Avx2::subtract_products(Avx2::no_dots(), a, b))
    }
    #[inline(always)]
    unsafe fn sum_dots(dots: __m512) -> f32 {
        Self::sum(dots)
    }
    #[inline(always)]
    unsafe fn widen_half(bits: u16) -> f32 {
        Avx2::widen_half(bits)
    }
    #[inline(always)]
    unsafe fn widen_halves(p: *const u8, apart: usize) -> [f32; 8] {
        let places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let places = _mm256_mullo_epi32(places, _mm256_set1_epi32(apart as i32));
        let halves = _mm256_cvtepi32_epi16(_mm256_i32gather_epi32::<1>(p.cast(), places));
        let mut out = [0.0; 8];
        _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(halves));
        out
    }
    #[inline(always)]
    unsafe fn nibbles(packed: [u8; 16]) -> [u8; 32] {
        Avx2::nibbles(packed)
    }
    #[inline(always)]
    unsafe fn look_up(values: &[i8; 16], codes: [u8; 32]) -> [u8; 32] {
        Avx2::look_up(values, codes)
    }
    #[inline(always)]
    unsafe fn spread(bits: u32) -> [u8; 32] {
        Avx2::spread(bits)
    }
    #[inline(always)]
    unsafe fn transpose<E: Elem>(
        src: *const E,
        src_stride: usize,
        dst: *mut f32,
        dst_stride: usize,
    ) {
        let mut r = [_mm512_setzero_ps(); 16];
        for (i, row) in r.iter_mut().enumerate() {
            *row = E::load::<Self>(src.wrapping_add(i.wrapping_mul(src_stride)));
        }
        let mut t = r;
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        // Now quarters of 4 x 4: r[4 i + j] holds column j of every 128-bit lane, rows 4 i ...
        for i in 0..4 {
            r[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(
                _mm512_castps_pd(t[4 * i]),
                _mm512_castps_pd(t[4 * i + 2]),
            ));
            r[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(
                _mm512_castps_pd(t[4 * i]),
                _mm512_castps_pd(t[4 * i + 2]),
            ));
            r[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(
                _mm512_castps_pd(t[4 * i + 1]),
                _mm512_castps_pd(t[4 * i + 3]),
            ));
            r[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(
                _mm512_castps_pd(t[4 * i + 1]),
                _mm512_castps_pd(t[4 * i + 3]),
            ));
        }
        for j in 0..4 {
            let even_low = _mm512_shuffle_f32x4::<0x88>(r[j], r[4 + j]);
            let even_high = _mm512_shuffle_f32x4::<0x88>(r[8 + j], r[12 + j]);
            let odd_low = _mm512_shuffle_f32x4::<0xdd>(r[j], r[4 + j]);
            let odd_high = _mm512_shuffle_f32x4::<0xdd>(r[8 + j], r[12 + j]);
            t[j] = _mm512_shuffle_f32x4::<0x88>(even_low, even_high);
            t[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even_low, even_high);
            t[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd_low, odd_high);
            t[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd_low, odd_high);
        }
        for (i, column) in t.iter().enumerate() {
            Self::store(dst.wrapping_add(i.wrapping_mul(dst_stride)), *column);
        }
    }
}

/// Adds to the lower half.
#[inline(always)]
unsafe fn plus(dots: __m512, lower: __m256) -> __m512 {
    _mm512_add_ps(dots, _mm512_zextps256_ps512(lower))
}

#[derive(Clone, Copy)]
pub(super) struct Avx2;

impl Simd for Avx2 {
    type V = __m256;
    type M = __m256;
    const LANES: usize = 8;
    const ROWS: usize = 6;
    const PANEL: usize = 2;

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast())
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        _mm256_set1_ps(x)
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        _mm256_loadu_ps(p)
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        _mm256_storeu_ps(p, v)
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> __m256 {
        _mm256_cvtph_ps(_mm_loadu_si128(p.cast()))
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> __m256 {
        let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: __m256) {
        _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v))
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, v: __m256) {
        let bits = _mm256_castps_si256(v);
        let short = _mm256_srli_epi32::<16>(bits);
        let even = _mm256_and_si256(short, _mm256_set1_epi32(1));
        let half = _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff));
        let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half));
        // Rounding could make an infinity of NaN.
        let quiet = _mm256_or_si256(short, _mm256_set1_epi32(0x40));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
        let short = _mm256_blendv_epi8(rounded, quiet, nan);
        let packed = _mm256_packus_epi32(short, short);
        let packed = _mm256_permute4x64_epi64::<0b1000>(packed);
        _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(packed))
    }
    #[inline(always)]
    unsafe fn load_codes<const SIGNED: bool>(p: *const u8) -> __m256 {
        let codes = _mm_loadl_epi64(p.cast());
        _mm256_cvtepi32_ps(match SIGNED {
            true => _mm256_cvtepi8_epi32(codes),
            false => _mm256_cvtepu8_epi32(codes),
        })
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        _mm256_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        _mm256_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        _mm256_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        _mm256_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        _mm256_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        _mm256_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn scale(x: __m256, n: __m256) -> __m256 {
        let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased)))
    }
    #[inline(always)]
    unsafe fn round(x: __m256) -> __m256 {
        _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x)
    }
    #[inline(always)]
    unsafe fn clamp_exponent(x: __m256) -> __m256 {
        // The second operand is the result where one is NaN, so NaN stays.
        _mm256_max_ps(
            _mm256_set1_ps(-127.0),
            _mm256_min_ps(_mm256_set1_ps(128.0), x),
        )
    }
    #[inline(always)]
    unsafe fn within(x: __m256, from: __m256, to: __m256) -> __m256 {
        _mm256_and_ps(
            _mm256_cmp_ps::<_CMP_LE_OQ>(from, x),
            _mm256_cmp_ps::<_CMP_LT_OQ>(x, to),
        )
    }
    #[inline(always)]
    unsafe fn select(m: __m256, a: __m256, b: __m256) -> __m256 {
        _mm256_blendv_ps(b, a, m)
    }
    #[inline(always)]
    unsafe fn sum(v: __m256) -> f32 {
        let halves = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let pairs = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
        let total = _mm_add_ss(pairs, _mm_movehdup_ps(pairs));
        _mm_cvtss_f32(total)
    }

    type Dots = __m256;

    #[inline(always)]
    unsafe fn no_dots() -> __m256 {
        _mm256_setzero_ps()
    }
    #[inline(always)]
    unsafe fn add_dots<const SIGNED: bool, const HALVES: bool>(
        mut dots: __m256,
        codes: *const u8,
        x: *const i8,
        scales: *const f32,
    ) -> __m256 {
        for i in 0..2 {
            let codes = _mm256_loadu_si256(codes.wrapping_add(32 * i).cast());
            let x = _mm256_loadu_si256(x.wrapping_add(32 * i).cast());
            // The first factor is unsigned; pairs are at most 2 x 128 x 127, below what saturates.
            let pairs = match SIGNED {
                true => _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes)),
                false => _mm256_maddubs_epi16(codes, x),
            };
            let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
            let scales = match HALVES {
                true => {
                    let scales = scales.wrapping_add(2 * i);
                    let (first, second) = (*scales, *scales.wrapping_add(1));
                    _mm256_set_m128(_mm_set1_ps(second), _mm_set1_ps(first))
                }
                false => _mm256_set1_ps(*scales.wrapping_add(i)),
            };
            dots = _mm256_fmadd_ps(scales, _mm256_cvtepi32_ps(fours), dots);
        }
        dots
    }
    #[inline(always)]
    unsafe fn add_fine_dots(dots: __m256, codes: *const u8, x: *const u8, scale: f32) -> __m256 {
        let codes = _mm256_loadu_si256(codes.cast());
        let (high, low) = (
            _mm256_loadu_si256(x.cast()),
            _mm256_loadu_si256(x.wrapping_add(X_GROUP).cast()),
        );
        let size = _mm256_abs_epi8(codes);
        let high = _mm256_maddubs_epi16(size, _mm256_sign_epi8(high, codes));
        let low = _mm256_maddubs_epi16(size, _mm256_sign_epi8(low, codes));
        let high = _mm256_madd_epi16(high, _mm256_set1_epi16(LOW));
        let low = _mm256_madd_epi16(low, _mm256_set1_epi16(1));
        let fours = _mm256_cvtepi32_ps(_mm256_add_epi32(high, low));
        _mm256_fmadd_ps(_mm256_set1_ps(scale), fours, dots)
    }
    #[inline(always)]
    unsafe fn subtract_products(dots: __m256, a: *const f32, b: *const f32) -> __m256 {
        _mm256_fnmadd_ps(_mm256_loadu_ps(a), _mm256_loadu_ps(b), dots)
    }
    #[inline(always)]
    unsafe fn sum_dots(dots: __m256) -> f32 {
        Self::sum(dots)
    }
    #[inline(always)]
    unsafe fn widen_half(bits: u16) -> f32 {
        _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
    }
    #[inline(always)]
    unsafe fn widen_halves(p: *const u8, apart: usize) -> [f32; 8] {
        let at = |i: usize| p.wrapping_add(i.wrapping_mul(apart)).cast::<i16>();
        let [a, b, c, d, e, f, g, h] = core::array::from_fn(|i| at(i).read_unaligned());
        let mut out = [0.0; 8];
        let halves = _mm_setr_epi16(a, b, c, d, e, f, g, h);
        _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(halves));
        out
    }
    #[inline(always)]
    unsafe fn nibbles(packed: [u8; 16]) -> [u8; 32] {
        let packed = _mm_loadu_si128(packed.as_ptr().cast());
        let both = _mm256_set_m128i(_mm_srli_epi16::<4>(packed), packed);
        let mut out = [0; 32];
        let codes = _mm256_and_si256(both, _mm256_set1_epi8(15));
        _mm256_storeu_si256(out.as_mut_ptr().cast(), codes);
        out
    }
    #[inline(always)]
    unsafe fn look_up(values: &[i8; 16], codes: [u8; 32]) -> [u8; 32] {
        let values = _mm256_broadcastsi128_si256(_mm_loadu_si128(values.as_ptr().cast()));
        let codes = _mm256_loadu_si256(codes.as_ptr().cast());
        let mut out = [0; 32];
        _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm256_shuffle_epi8(values, codes));
        out
    }
    #[inline(always)]
    unsafe fn spread(bits: u32) -> [u8; 32] {
        // Each byte eight times, then another bit of each.
        let (low, high) = (0x0101_0101_0101_0101, 0x0202_0202_0202_0202);
        let places = _mm256_setr_epi64x(0, low, high, low | high);
        let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits.cast_signed()), places);
        let one_each = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
        let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, one_each), one_each);
        let mut out = [0; 32];
        _mm256_storeu_si256(out.as_mut_ptr().cast(), set);
        out
    }
    #[inline(always)]
    unsafe fn transpose<E: Elem>(
        src: *const E,
        src_stride: usize,
        dst: *mut f32,
        dst_stride: usize,
    ) {
        let mut r = [_mm256_setzero_ps(); 8];
        for (i, row) in r.iter_mut().enumerate() {
            *row = E::load::<Self>(src.wrapping_add(i.wrapping_mul(src_stride)));
        }
        let mut t = r;
        for i in 0..4 {
            t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        for i in 0..2 {
            r[4 * i] = _mm256_castpd_ps(_mm256_unpacklo_pd(
                _mm256_castps_pd(t[4 * i]),
                _mm256_castps_pd(t[4 * i + 2]),
            ));
            r[4 * i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(
                _mm256_castps_pd(t[4 * i]),
                _mm256_castps_pd(t[4 * i + 2]),
            ));
            r[4 * i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(
                _mm256_castps_pd(t[4 * i + 1]),
                _mm256_castps_pd(t[4 * i + 3]),
            ));
            r[4 * i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(
                _mm256_castps_pd(t[4 * i + 1]),
                _mm256_castps_pd(t[4 * i + 3]),
            ));
        }
        for j in 0..4 {
            t[j] = _mm256_permute2f128_ps::<0x20>(r[j], r[4 + j]);
            t[4 + j] = _mm256_permute2f128_ps::<0x31>(r[j], r[4 + j]);
        }
        for (i, column) in t.iter().enumerate() {
            Self::store(dst.wrapping_add(i.wrapping_mul(dst_stride)), *column);
        }
    }
}
