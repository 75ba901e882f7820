//! Blocks of safetensors checkpoints (GPTQ, AWQ, compressed-tensors, FP8), whose scales and zero points lie in tensors
//! of their own there: groups of any length become blocks of up to 128 elements that repeat them.

use super::{Blocks, Vectors};

/// Bytes in front of the codes: the scale as f32. Where codes have a zero point, the lowest byte is that, and the
/// scale has the others: the scales of files, f16 or bf16, have no more.
const HEAD: usize = 4;
/// The bits of a scale beside a zero point.
const SCALE: u32 = !0xff;
/// An element is at most a scale times as much.
const LARGEST: f32 = 512.0;

/// Four bits an element, with a zero point: a 32-block in the order of Q4_0, longer ones in that of Q4_K.
#[derive(Clone, Copy)]
pub(crate) struct Int4<const LEN: usize>;

/// Eight bits an element, signed, without zero point.
#[derive(Clone, Copy)]
pub(crate) struct Int8<const LEN: usize>;

/// Eight bits an element, signed, with a zero point.
#[derive(Clone, Copy)]
pub(crate) struct Int8Zero<const LEN: usize>;

/// Floats of eight bits: four of the exponent, three of the mantissa, no infinity.
#[derive(Clone, Copy)]
pub(crate) struct E4m3<const LEN: usize>;

/// Whether a scale, or what a zero point left of it, can be held beside one.
pub(crate) fn fits_beside_zero(scale: f32) -> bool {
    scale.to_bits() & !SCALE == 0
}

/// Whether a scale is finite, and its largest element too.
pub(crate) fn is_scale(scale: f32) -> bool {
    (scale * LARGEST).is_finite()
}

/// Whether a code of [`E4m3`] is no number.
pub(crate) fn is_nan(code: u8) -> bool {
    code & 0x7f == 0x7f
}

/// What a code of [`E4m3`] stands for.
#[inline(always)]
pub(crate) fn e4m3(code: u8) -> f32 {
    let magnitude = u32::from(code & 0x7f);
    // Exponents begin at -6, and those of f32 at -126.
    let normal = f32::from_bits((magnitude << 20).wrapping_add(120 << 23));
    // Below the first exponent; multiplying f32 as small as that would be slow.
    let small = magnitude as f32 * (1.0 / 512.0);
    let value = if magnitude < 8 { small } else { normal };
    f32::from_bits(value.to_bits() | u32::from(code & 0x80) << 24)
}

/// Where the elements of [`Int4`] lie: a byte holds elements `i` and `i + part` of every two parts.
const fn part(len: usize) -> usize {
    if len == 32 { 16 } else { 32 }
}

/// The bytes of a block of codes of four bits, a byte for each.
pub(crate) fn pack_int4(codes: &[u8], scale: f32, zero: u8, block: &mut [u8]) {
    let (head, packed) = block.split_at_mut(HEAD);
    head.copy_from_slice(&(scale.to_bits() & SCALE | u32::from(zero)).to_le_bytes());
    let part = part(codes.len());
    for (codes, packed) in codes
        .chunks_exact(2 * part)
        .zip(packed.chunks_exact_mut(part))
    {
        let (low, high) = codes.split_at(part);
        for ((packed, low), high) in packed.iter_mut().zip(low).zip(high) {
            *packed = low | high << 4;
        }
    }
}

/// The bytes of a block of whole bytes; `zero` where there is a zero point.
pub(crate) fn pack_bytes(codes: &[u8], scale: f32, zero: Option<u8>, block: &mut [u8]) {
    let (head, packed) = block.split_at_mut(HEAD);
    let bits = match zero {
        Some(zero) => scale.to_bits() & SCALE | u32::from(zero),
        None => scale.to_bits(),
    };
    head.copy_from_slice(&bits.to_le_bytes());
    packed.copy_from_slice(codes);
}

/// The first bytes of a block as they are.
fn head(block: &[u8]) -> u32 {
    block
        .first_chunk()
        .map_or(0, |&head| u32::from_le_bytes(head))
}

/// As [`head`].
///
/// # Safety
///
/// `block` has them.
#[inline(always)]
unsafe fn head_at(block: *const u8) -> u32 {
    // SAFETY: as the caller's.
    u32::from_le_bytes(unsafe { block.cast::<[u8; HEAD]>().read() })
}

/// Writes the value of all groups of `LEN` elements.
///
/// # Safety
///
/// `to` takes them.
#[inline(always)]
unsafe fn repeat<const LEN: usize>(to: *mut f32, value: f32) {
    for group in 0..LEN / 32 {
        // SAFETY: as the caller's.
        unsafe { to.add(group).write(value) };
    }
}

impl<const LEN: usize> Blocks for Int4<LEN> {
    const LEN: usize = LEN;
    const BYTES: usize = HEAD + LEN / 2;
    const MINIMUMS: bool = true;
    const HALVES: &'static [usize] = &[];

    fn is_finite(block: &[u8]) -> bool {
        is_scale(f32::from_bits(head(block) & SCALE))
    }

    #[inline(always)]
    unsafe fn scales<V: Vectors>(block: *const u8, scales: *mut f32, minimums: *mut f32) {
        // SAFETY: as the caller's.
        unsafe {
            let head = head_at(block);
            let scale = f32::from_bits(head & SCALE);
            repeat::<LEN>(scales, scale);
            repeat::<LEN>(minimums, scale * (head & 0xff) as f32);
        }
    }

    #[inline(always)]
    unsafe fn codes<V: Vectors>(block: *const u8, codes: *mut u8) {
        // SAFETY: as the caller's.
        unsafe {
            let packed = block.add(HEAD);
            if LEN == 32 {
                let both = V::nibbles(packed.cast::<[u8; 16]>().read());
                return codes.cast::<[u8; 32]>().write(both);
            }
            for pair in 0..LEN / 2 / part(LEN) {
                let (packed, codes) = (
                    packed.add(pair * part(LEN)),
                    codes.add(2 * pair * part(LEN)),
                );
                for i in 0..part(LEN) {
                    let byte = packed.add(i).read();
                    codes.add(i).write(byte & 15);
                    codes.add(part(LEN) + i).write(byte >> 4);
                }
            }
        }
    }
}

impl<const LEN: usize> Blocks for Int8<LEN> {
    const LEN: usize = LEN;
    const BYTES: usize = HEAD + LEN;
    const SIGNED: bool = true;
    const FINE: bool = true;
    const HALVES: &'static [usize] = &[];

    fn is_finite(block: &[u8]) -> bool {
        is_scale(f32::from_bits(head(block)))
    }

    #[inline(always)]
    unsafe fn scales<V: Vectors>(block: *const u8, scales: *mut f32, _: *mut f32) {
        // SAFETY: as the caller's.
        unsafe {
            repeat::<LEN>(scales, f32::from_bits(head_at(block)));
        }
    }

    #[inline(always)]
    unsafe fn codes<V: Vectors>(block: *const u8, codes: *mut u8) {
        // SAFETY: as the caller's.
        unsafe {
            let packed = block.add(HEAD).cast::<[u8; LEN]>().read();
            codes.cast::<[u8; LEN]>().write(packed);
        }
    }
}

impl<const LEN: usize> Blocks for Int8Zero<LEN> {
    const LEN: usize = LEN;
    const BYTES: usize = HEAD + LEN;
    const SIGNED: bool = true;
    const MINIMUMS: bool = true;
    const HALVES: &'static [usize] = &[];

    fn is_finite(block: &[u8]) -> bool {
        is_scale(f32::from_bits(head(block) & SCALE))
    }

    #[inline(always)]
    unsafe fn scales<V: Vectors>(block: *const u8, scales: *mut f32, minimums: *mut f32) {
        // SAFETY: as the caller's.
        unsafe {
            let head = head_at(block);
            let scale = f32::from_bits(head & SCALE);
            repeat::<LEN>(scales, scale);
            repeat::<LEN>(minimums, scale * f32::from((head & 0xff) as u8 as i8));
        }
    }

    #[inline(always)]
    unsafe fn codes<V: Vectors>(block: *const u8, codes: *mut u8) {
        // SAFETY: as the caller's.
        unsafe {
            let packed = block.add(HEAD).cast::<[u8; LEN]>().read();
            codes.cast::<[u8; LEN]>().write(packed);
        }
    }
}

impl<const LEN: usize> Blocks for E4m3<LEN> {
    const LEN: usize = LEN;
    const BYTES: usize = HEAD + LEN;
    const FLOATS: bool = true;
    const HALVES: &'static [usize] = &[];

    fn is_finite(block: &[u8]) -> bool {
        is_scale(f32::from_bits(head(block))) && !block[HEAD..].iter().any(|&code| is_nan(code))
    }

    #[inline(always)]
    unsafe fn scales<V: Vectors>(block: *const u8, scales: *mut f32, _: *mut f32) {
        // SAFETY: as the caller's.
        unsafe {
            repeat::<LEN>(scales, f32::from_bits(head_at(block)));
        }
    }

    #[inline(always)]
    unsafe fn codes<V: Vectors>(block: *const u8, codes: *mut u8) {
        // SAFETY: as the caller's.
        unsafe {
            let packed = block.add(HEAD).cast::<[u8; LEN]>().read();
            codes.cast::<[u8; LEN]>().write(packed);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::kernels::BlockFormat;

    /// The numbers of a format, by the definition of its bits.
    fn slow_e4m3(code: u8) -> f32 {
        let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
        let value = match exponent {
            0 => mantissa / 8.0 * 2f32.powi(-6),
            _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
        };
        if code & 0x80 == 0 { value } else { -value }
    }

    #[test]
    fn every_float_of_eight_bits_is_what_its_bits_say() {
        for code in 0..=255u8 {
            if is_nan(code) {
                assert!(matches!(code, 0x7f | 0xff));
            } else {
                assert_eq!(e4m3(code).to_bits(), slow_e4m3(code).to_bits(), "{code}");
            }
        }
        assert_eq!(e4m3(0x7e), 448.0);
    }

    /// Codes at the ends of their range, every zero point, scales of f16 and bf16 that are large and small: the
    /// element is the f32 next to `scale * (code - zero)`, which is exact.
    #[test]
    fn elements_are_exact() {
        let scales = [0x3c01, 0x0001, 0x7bff, 0x83ff].map(|bits| f16::from_bits(bits).to_f32());
        let wide =
            [0x0001, 0x7f00 - 0x500, 0x3f81].map(|bits| half::bf16::from_bits(bits).to_f32());
        for scale in scales.into_iter().chain(wide) {
            assert!(fits_beside_zero(scale) && is_scale(scale), "{scale}");
            // Miri takes a thousand times as long.
            for zero in (0..=255u8).step_by(if cfg!(miri) { 51 } else { 1 }) {
                for (format, len) in [
                    (BlockFormat::Int4x32, 32),
                    (BlockFormat::Int4x64, 64),
                    (BlockFormat::Int4x128, 128),
                ] {
                    let codes: Vec<u8> = (0..len).map(|i| (i * 7 % 16) as u8).collect();
                    let mut block = vec![0; format.block_bytes()];
                    pack_int4(&codes, scale, zero, &mut block);
                    assert_eq!(format.first_not_finite(&block), None);
                    let mut found = vec![0f32; len];
                    format.dequantize(&block, &mut found);
                    for (&found, &code) in found.iter().zip(&codes) {
                        let exact = f64::from(scale) * (f64::from(code) - f64::from(zero));
                        assert_eq!(f64::from(found), exact, "{format} {scale} {code} {zero}");
                    }
                }
                let codes: Vec<u8> = (0..32).map(|i| (i * 67 % 256) as u8).collect();
                let format = BlockFormat::Int8Zero;
                let mut block = vec![0; format.block_bytes()];
                pack_bytes(&codes, scale, Some(zero), &mut block);
                let mut found = vec![0f32; 32];
                format.dequantize(&block, &mut found);
                for (&found, &code) in found.iter().zip(&codes) {
                    let whole = f64::from(code as i8) - f64::from(zero as i8);
                    assert_eq!(
                        f64::from(found),
                        f64::from(scale) * whole,
                        "{scale} {code} {zero}"
                    );
                }
            }
        }
    }

    #[test]
    fn scales_and_codes_that_are_no_number_are_found() {
        let format = BlockFormat::Fp8x32;
        let mut blocks = vec![0; 2 * format.block_bytes()];
        pack_bytes(&[0x38; 32], 1.0, None, &mut blocks[..36]);
        pack_bytes(&[0xb8; 32], 1.0, None, &mut blocks[36..]);
        assert_eq!(format.first_not_finite(&blocks), None);
        blocks[36 + 4 + 31] = 0xff;
        assert_eq!(format.first_not_finite(&blocks), Some(1));
        pack_bytes(&[0; 32], f32::INFINITY, None, &mut blocks[..36]);
        assert_eq!(format.first_not_finite(&blocks), Some(0));
        let format = BlockFormat::Int4x64;
        let mut block = vec![0; format.block_bytes()];
        for (scale, found) in [(f32::NAN, Some(0)), (f32::MAX, Some(0)), (-1.0, None)] {
            pack_int4(&[0; 64], scale, 255, &mut block);
            assert_eq!(format.first_not_finite(&block), found, "{scale}");
        }
    }
}
