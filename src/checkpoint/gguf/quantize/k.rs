//! ggml's "k" blocks of 256 elements: scales of groups by search, themselves quantised under one of the block.

use half::f16;

use super::search::{extreme, inverse, nearest, scale, scale_and_minimum};

/// Elements of a block.
const LEN: usize = 256;
/// Groups of 32 in a block.
const GROUPS: usize = 8;
/// The largest of six bits.
const SIX_BITS: f32 = 63.0;

/// Four bits; groups of 32 with six bits of scale and of minimum.
pub(super) fn q4_k(x: &[f32; LEN], out: &mut [u8; 144]) {
    let codes = with_minimums(x, 15.0, out);
    low_halves(&codes, &mut out[16..]);
}

/// Five bits; otherwise as [`q4_k`].
pub(super) fn q5_k(x: &[f32; LEN], out: &mut [u8; 176]) {
    let codes = with_minimums(x, 31.0, out);
    let (fifth, halves) = out[16..].split_at_mut(32);
    for (i, byte) in fifth.iter_mut().enumerate() {
        *byte = (0..GROUPS).fold(0, |byte, group| byte | codes[32 * group + i] >> 4 << group);
    }
    low_halves(&codes, halves);
}

/// Writes the scales and minimums, 16 bytes, and returns the codes from 0 to `highest`.
fn with_minimums(x: &[f32; LEN], highest: f32, out: &mut [u8]) -> [u8; LEN] {
    let (mut scales, mut minimums) = ([0.0f32; GROUPS], [0.0f32; GROUPS]);
    for (group, x) in x.as_chunks::<32>().0.iter().enumerate() {
        (scales[group], minimums[group]) = scale_and_minimum(x, highest);
    }
    let (scale, scales) = six_bits(&scales);
    let (minimum, minimums) = six_bits(&minimums);
    out[..2].copy_from_slice(&scale.to_le_bytes());
    out[2..4].copy_from_slice(&minimum.to_le_bytes());
    for i in 0..4 {
        out[4 + i] = scales[i] | scales[4 + i] >> 4 << 6;
        out[8 + i] = minimums[i] | minimums[4 + i] >> 4 << 6;
        out[12 + i] = scales[4 + i] & 15 | (minimums[4 + i] & 15) << 4;
    }
    // For the scales as they are read back.
    let mut codes = [0u8; LEN];
    let groups = x
        .as_chunks::<32>()
        .0
        .iter()
        .zip(codes.as_chunks_mut::<32>().0);
    for (group, (x, codes)) in groups.enumerate() {
        let inverse = inverse(scale.to_f32() * f32::from(scales[group]));
        let minimum = minimum.to_f32() * f32::from(minimums[group]);
        for (code, x) in codes.iter_mut().zip(x) {
            *code = nearest(((x + minimum) * inverse).clamp(0.0, highest)) as u8;
        }
    }
    codes
}

/// Values that are not negative as six bits of their largest one's 63rd part.
fn six_bits(values: &[f32; GROUPS]) -> (f16, [u8; GROUPS]) {
    let unit = values
        .iter()
        .fold(0.0f32, |largest, &value| largest.max(value))
        / SIX_BITS;
    let inverse = inverse(unit);
    let codes = values.map(|value| nearest((value * inverse).clamp(0.0, SIX_BITS)) as u8);
    (f16::from_f32(unit), codes)
}

/// Four low bits of each code: of every 64, the first 32 in the low halves of 32 bytes.
fn low_halves(codes: &[u8; LEN], out: &mut [u8]) {
    let quarters = codes.as_chunks::<64>().0.iter();
    for (codes, out) in quarters.zip(out.as_chunks_mut::<32>().0) {
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = codes[i] & 15 | codes[32 + i] << 4;
        }
    }
}

/// Six bits; groups of 16 with eight bits of scale.
pub(super) fn q6_k(x: &[f32; LEN], out: &mut [u8; 210]) {
    /// Codes are from -32 to 31.
    const HALF: f32 = 32.0;
    let mut scales = [0.0f32; 16];
    for (scale_of, x) in scales.iter_mut().zip(x.as_chunks::<16>().0) {
        *scale_of = scale(x, HALF);
    }
    // The largest scale is -128.
    let unit = extreme(&scales) / -128.0;
    let to_unit = inverse(unit);
    let unit = f16::from_f32(unit);
    let scales = scales.map(|scale| nearest((scale * to_unit).clamp(-128.0, 127.0)) as i8);
    out[..192].fill(0);
    for (group, x) in x.as_chunks::<16>().0.iter().enumerate() {
        out[192 + group] = scales[group] as u8;
        let inverse = inverse(unit.to_f32() * f32::from(scales[group]));
        let (side, part) = (group / 8, group % 8 / 2);
        for (i, x) in x.iter().enumerate() {
            let code = nearest((x * inverse).clamp(-HALF, HALF - 1.0));
            let code = (code + HALF) as u8;
            let i = group % 2 * 16 + i;
            out[64 * side + 32 * (part % 2) + i] |= (code & 15) << (4 * (part / 2));
            out[128 + 32 * side + i] |= code >> 4 << (2 * part);
        }
    }
    out[208..].copy_from_slice(&unit.to_le_bytes());
}
