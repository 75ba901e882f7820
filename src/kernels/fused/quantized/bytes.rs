//! Bytes, words and floats at any place of words of four bytes, lowest byte first.

use cubecl::prelude::*;

/// The byte at `at`.
#[cube]
pub fn byte(words: &[u32], at: usize) -> u32 {
    (words[at / 4] >> ((at % 4) as u32 * 8u32)) & 0xffu32
}

/// The two bytes at `at`, which is even.
#[cube]
pub fn pair(words: &[u32], at: usize) -> u32 {
    (words[at / 4] >> ((at % 4) as u32 * 8u32)) & 0xffffu32
}

/// The four bytes at `at`, a multiple of four where they are `aligned`.
#[cube]
pub fn word(words: &[u32], at: usize, #[comptime] aligned: bool) -> u32 {
    let first = words[at / 4];
    if comptime!(aligned) {
        first
    } else {
        let shift = (at % 4) as u32 * 8u32;
        let mut bits = first >> shift;
        // Nothing of a whole word lies in the next one, which may be behind the end.
        if shift > 0u32 {
            bits |= words[at / 4 + 1] << (32u32 - shift);
        }
        bits
    }
}

/// The f16 at `at`, which is even.
#[cube]
pub fn half(words: &[u32], at: usize) -> f32 {
    let bits = pair(words, at);
    let magnitude = bits & 0x7fffu32;
    // Exponents begin at -14, and those of f32 at -126.
    let normal = (magnitude << 13u32) + comptime!(112u32 << 23);
    // Below the first exponent: steps of 2^-24.
    let small = u32::reinterpret(f32::cast_from(magnitude) * comptime!(1.0f32 / (1 << 24) as f32));
    let finite = select(magnitude < 0x0400u32, small, normal);
    // Infinite, or no number.
    let value = select(
        magnitude >= 0x7c00u32,
        (magnitude << 13u32) | 0x7f80_0000u32,
        finite,
    );
    f32::reinterpret(value | ((bits & 0x8000u32) << 16u32))
}
