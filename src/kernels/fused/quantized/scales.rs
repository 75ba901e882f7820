//! Scales and minimums of a piece, as `src/kernels/quantized/` has them for processors.

use cubecl::prelude::*;

use super::bytes::{byte, half, pair, word};
use super::layout::{Layout, Scaling};

/// What the codes of both runs of a piece are multiplied by, and what is taken off then.
#[derive(CubeType, Clone, Copy)]
pub struct Scales {
    /// The first run's scale.
    pub first: f32,
    /// The second run's.
    pub second: f32,
    /// The first run's minimum; 0 where the format has none.
    pub first_minimum: f32,
    /// The second run's.
    pub second_minimum: f32,
}

/// The scales of a piece of the block at byte `block`.
#[cube]
pub fn scales(words: &[u32], block: usize, piece: u32, #[comptime] layout: Layout) -> Scales {
    match comptime!(layout.scaling()) {
        Scaling::Half => one(half(words, block), 0.0f32.runtime()),
        Scaling::HalfAndMinimum => one(half(words, block), -half(words, block + 2)),
        Scaling::Float => one(
            f32::reinterpret(word(words, block, layout.aligned)),
            0.0f32.runtime(),
        ),
        Scaling::FloatAndZero => {
            let head = word(words, block, layout.aligned);
            let scale = f32::reinterpret(head & 0xffff_ff00u32);
            let zero = head & 0xffu32;
            if comptime!(layout.signed()) {
                one(scale, scale * (f32::cast_from(zero ^ 0x80u32) - 128.0f32))
            } else {
                one(scale, scale * f32::cast_from(zero))
            }
        }
        Scaling::FourBits => four_bits(words, block, piece, layout),
        Scaling::SixBits => six_bits(words, block, piece, layout),
        Scaling::SixBitPairs => six_bit_pairs(words, block, piece),
        Scaling::EightBits => eight_bits(words, block, piece, layout),
        Scaling::SplitBits => split_bits(words, block, piece),
    }
}

/// One scale and minimum for both runs.
#[cube]
fn one(scale: f32, minimum: f32) -> Scales {
    Scales {
        first: scale,
        second: scale,
        first_minimum: minimum,
        second_minimum: minimum,
    }
}

/// The group of 16 elements that the first run of a piece is.
#[cube]
fn group_of_16(piece: u32, #[comptime] layout: Layout) -> u32 {
    let turns = comptime!(layout.gap() as u32 / 16);
    piece / turns * comptime!(2 * turns) + piece % turns
}

/// Q2_K: a byte a group, its scale in the low half.
#[cube]
fn four_bits(words: &[u32], block: usize, piece: u32, #[comptime] layout: Layout) -> Scales {
    let (scale, minimum) = (half(words, block + 80), half(words, block + 82));
    let at = block + group_of_16(piece, layout) as usize;
    let first = byte(words, at);
    let second = byte(words, at + comptime!(layout.gap() / 16));
    Scales {
        first: scale * f32::cast_from(first & 15u32),
        second: scale * f32::cast_from(second & 15u32),
        first_minimum: minimum * f32::cast_from(first >> 4u32),
        second_minimum: minimum * f32::cast_from(second >> 4u32),
    }
}

/// Q3_K: of four groups at a time, a byte each; four low bits, then two high ones.
#[cube]
fn six_bits(words: &[u32], block: usize, piece: u32, #[comptime] layout: Layout) -> Scales {
    let scale = half(words, block + 108);
    let group = group_of_16(piece, layout);
    Scales {
        first: scale * of_group_of_16(words, block, group),
        second: scale * of_group_of_16(words, block, group + comptime!(layout.gap() as u32 / 16)),
        first_minimum: 0.0f32.runtime(),
        second_minimum: 0.0f32.runtime(),
    }
}

#[cube]
fn of_group_of_16(words: &[u32], block: usize, group: u32) -> f32 {
    let (four, place) = (group / 4u32, group % 4u32);
    let low = byte(words, block + 96 + (four % 2u32 * 4u32 + place) as usize);
    let low = (low >> (four / 2u32 * 4u32)) & 15u32;
    let high = (byte(words, block + 104 + place as usize) >> (four * 2u32)) & 3u32;
    f32::cast_from(low | (high << 4u32)) - 32.0f32
}

/// Q4_K and Q5_K: those of eight groups in twelve bytes.
#[cube]
fn six_bit_pairs(words: &[u32], block: usize, piece: u32) -> Scales {
    let (scale, minimum) = (half(words, block), half(words, block + 2));
    // Runs are 32 elements apart: groups side by side.
    let group = piece / 2u32 * 2u32;
    let (first, first_minimum) = of_group_of_32(words, block + 4, group);
    let (second, second_minimum) = of_group_of_32(words, block + 4, group + 1u32);
    Scales {
        first: scale * first,
        second: scale * second,
        first_minimum: minimum * first_minimum,
        second_minimum: minimum * second_minimum,
    }
}

/// Scale and minimum of one of eight groups.
#[cube]
fn of_group_of_32(words: &[u32], at: usize, group: u32) -> (f32, f32) {
    let place = (group % 4u32) as usize;
    let first = byte(words, at + place);
    let second = byte(words, at + 4 + place);
    let third = byte(words, at + 8 + place);
    let late = group >= 4u32;
    let scale = select(
        late,
        (third & 15u32) | ((first >> 6u32) << 4u32),
        first & 63u32,
    );
    let minimum = select(
        late,
        (third >> 4u32) | ((second >> 6u32) << 4u32),
        second & 63u32,
    );
    (f32::cast_from(scale), f32::cast_from(minimum))
}

/// Q6_K: a signed byte a group.
#[cube]
fn eight_bits(words: &[u32], block: usize, piece: u32, #[comptime] layout: Layout) -> Scales {
    let scale = half(words, block + 208);
    let at = block + 192 + group_of_16(piece, layout) as usize;
    let first = byte(words, at) ^ 0x80u32;
    let second = byte(words, at + comptime!(layout.gap() / 16)) ^ 0x80u32;
    Scales {
        first: scale * (f32::cast_from(first) - 128.0f32),
        second: scale * (f32::cast_from(second) - 128.0f32),
        first_minimum: 0.0f32.runtime(),
        second_minimum: 0.0f32.runtime(),
    }
}

/// IQ4_XS: two high bits of each group, then four low bits; a piece is a group.
#[cube]
fn split_bits(words: &[u32], block: usize, piece: u32) -> Scales {
    let high = (pair(words, block + 2) >> (piece * 2u32)) & 3u32;
    let low = byte(words, block + 4 + (piece / 2u32) as usize);
    let low = (low >> (piece % 2u32 * 4u32)) & 15u32;
    let of_group = f32::cast_from(low | (high << 4u32)) - 32.0f32;
    one(half(words, block) * of_group, 0.0f32.runtime())
}
