//! Blocks of 32 elements, rounded as ggml's reference does.

use half::f16;

use super::search::{extreme, inverse};

/// Writes an f16 to the first two bytes.
fn put(value: f32, out: &mut [u8]) {
    out[..2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

/// Five bits: the largest magnitude is -16.
pub(super) fn q5_0(x: &[f32; 32], out: &mut [u8; 22]) {
    let scale = extreme(x) / -16.0;
    put(scale, out);
    five_bits(x, 0.0, scale, 16.5, &mut out[2..]);
}

/// Five bits and a minimum.
pub(super) fn q5_1(x: &[f32; 32], out: &mut [u8; 24]) {
    let low = x.iter().fold(f32::INFINITY, |low, &x| low.min(x));
    let high = x.iter().fold(f32::NEG_INFINITY, |high, &x| high.max(x));
    let scale = (high - low) / 31.0;
    put(scale, out);
    put(low, &mut out[2..]);
    five_bits(x, low, scale, 0.5, &mut out[4..]);
}

/// The fifth bits of all codes, then their low halves.
fn five_bits(x: &[f32; 32], low: f32, scale: f32, shift: f32, out: &mut [u8]) {
    let inverse = inverse(scale);
    let code = |x: f32| ((x - low) * inverse + shift).clamp(0.0, 31.0) as u8;
    let mut fifth = 0u32;
    for i in 0..16 {
        let (first, second) = (code(x[i]), code(x[16 + i]));
        out[4 + i] = first & 15 | second << 4;
        fifth |= u32::from(first >> 4) << i | u32::from(second >> 4) << (16 + i);
    }
    out[..4].copy_from_slice(&fifth.to_le_bytes());
}
