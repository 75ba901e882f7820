//! Codes of a piece, and what they stand for, as `src/kernels/quantized/` has them for processors.

use cubecl::prelude::*;

use super::bytes::word;
use super::layout::{Layout, Packing, Values};

/// Four elements.
pub type Four = Vector<f32, Const<4>>;

/// Four codes of each run of a piece, a byte each.
#[derive(CubeType, Clone, Copy)]
pub struct Codes {
    /// Of the first run.
    pub first: u32,
    /// Of the second.
    pub second: u32,
}

/// The first element of a piece in its block.
#[cube]
pub fn first_element(piece: u32, #[comptime] layout: Layout) -> u32 {
    let turns = comptime!(layout.gap() as u32 / 16);
    piece / turns * comptime!(2 * layout.gap() as u32) + piece % turns * 16u32
}

/// The codes of elements `4 at..4 at + 4` of both runs of a piece of the block at byte `block`.
#[cube]
pub fn codes(
    words: &[u32],
    block: usize,
    piece: u32,
    at: u32,
    #[comptime] layout: Layout,
) -> Codes {
    let start = block + comptime!(layout.start());
    let aligned = comptime!(layout.aligned);
    match comptime!(layout.packing()) {
        Packing::Four => halves(word(
            words,
            start + (piece * 16u32 + at * 4u32) as usize,
            aligned,
        )),
        Packing::FiveByWord => {
            let four = halves(word(words, start + (at * 4u32) as usize, aligned));
            let fifth = word(words, start - 4, aligned) >> (at * 4u32);
            Codes {
                first: four.first | spread(fifth & 15u32),
                second: four.second | spread((fifth >> 16u32) & 15u32),
            }
        }
        Packing::FiveByBits => {
            let four = word(words, start + (piece * 16u32 + at * 4u32) as usize, aligned);
            let four = halves(four);
            let fifth = start - 32 + (piece % 2u32 * 16u32 + at * 4u32) as usize;
            let fifth = word(words, fifth, aligned) >> (piece / 2u32 * 2u32);
            Codes {
                first: four.first | ((fifth & 0x0101_0101u32) << 4u32),
                second: four.second | (((fifth >> 1u32) & 0x0101_0101u32) << 4u32),
            }
        }
        Packing::Two => two_bits(words, start, piece, at, aligned),
        Packing::Three => {
            let two = two_bits(words, start, piece, at, aligned);
            let third = start - 32 + (piece % 2u32 * 16u32 + at * 4u32) as usize;
            let third = word(words, third, aligned) >> (piece / 2u32 * 2u32);
            Codes {
                first: two.first | ((third & 0x0101_0101u32) << 2u32),
                second: two.second | (((third >> 1u32) & 0x0101_0101u32) << 2u32),
            }
        }
        Packing::Six => {
            let four = word(words, start + (piece * 16u32 + at * 4u32) as usize, aligned);
            let four = halves(four);
            let two = piece / 4u32 * 32u32 + piece % 2u32 * 16u32 + at * 4u32;
            let two = word(words, start + 128 + two as usize, aligned);
            let two = two >> (piece / 2u32 % 2u32 * 2u32);
            Codes {
                first: four.first | ((two & 0x0303_0303u32) << 4u32),
                second: four.second | (((two >> 4u32) & 0x0303_0303u32) << 4u32),
            }
        }
        Packing::Eight => {
            let start = start + (piece * 32u32 + at * 4u32) as usize;
            // Of signed bytes the highest bit is turned over.
            let turned = comptime!(if layout.signed() { 0x8080_8080u32 } else { 0 });
            Codes {
                first: word(words, start, aligned) ^ turned,
                second: word(words, start + 16, aligned) ^ turned,
            }
        }
    }
}

/// The low and the high halves of bytes.
#[cube]
fn halves(bytes: u32) -> Codes {
    Codes {
        first: bytes & 0x0f0f_0f0fu32,
        second: (bytes >> 4u32) & 0x0f0f_0f0fu32,
    }
}

/// Four bits as the fifth bits of four bytes.
#[cube]
fn spread(bits: u32) -> u32 {
    ((bits * 0x0020_4081u32) & 0x0101_0101u32) << 4u32
}

/// Codes of two bits: a piece has two of four parts.
#[cube]
fn two_bits(words: &[u32], start: usize, piece: u32, at: u32, #[comptime] aligned: bool) -> Codes {
    let two = piece / 4u32 * 32u32 + piece % 2u32 * 16u32 + at * 4u32;
    let two = word(words, start + two as usize, aligned) >> (piece / 2u32 % 2u32 * 4u32);
    Codes {
        first: two & 0x0303_0303u32,
        second: (two >> 2u32) & 0x0303_0303u32,
    }
}

/// What four codes stand for. Rounded after each operation, as on processors: products under a minimum have no more
/// digits than an f32, so that it does not matter whether a device rounds them before it takes the minimum off.
#[cube]
pub fn elements(codes: u32, scale: f32, minimum: f32, #[comptime] layout: Layout) -> Four {
    let mut values = Four::empty();
    #[unroll]
    for i in 0..4usize {
        let code = (codes >> comptime!(8 * i as u32)) & 0xffu32;
        values.insert(i, value(code, layout));
    }
    let scaled = values * Four::new(scale);
    if comptime!(layout.minimums()) {
        scaled - Four::new(minimum)
    } else {
        scaled
    }
}

/// What a code stands for before it is scaled.
#[cube]
fn value(code: u32, #[comptime] layout: Layout) -> f32 {
    match comptime!(layout.values()) {
        Values::Whole => f32::cast_from(code) - comptime!(layout.zero()),
        Values::Table => looked_up(code),
        Values::Float => e4m3(code),
    }
}

/// ggml's table of sixteen values, four in a word, each with 128 added.
const TABLE: [u32; 4] = [0x3f2d_1801, 0x766a_5d4f, 0xa699_8d81, 0xf1d9_c5b5];

#[cube]
fn looked_up(code: u32) -> f32 {
    let low = select(code < 4u32, comptime!(TABLE[0]), comptime!(TABLE[1]));
    let high = select(code < 12u32, comptime!(TABLE[2]), comptime!(TABLE[3]));
    let four = select(code < 8u32, low, high);
    let value = (four >> (code % 4u32 * 8u32)) & 0xffu32;
    f32::cast_from(value) - 128.0f32
}

/// A float of eight bits: four of the exponent, three of the mantissa.
#[cube]
fn e4m3(code: u32) -> f32 {
    let magnitude = code & 0x7fu32;
    // Exponents begin at -6, and those of f32 at -126.
    let normal = (magnitude << 20u32) + comptime!(120u32 << 23);
    // Below the first exponent: steps of 2^-9.
    let small = u32::reinterpret(f32::cast_from(magnitude) * comptime!(1.0f32 / 512.0));
    let value = select(magnitude < 8u32, small, normal);
    f32::reinterpret(value | ((code & 0x80u32) << 24u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::BlockFormat;

    #[test]
    fn the_table_is_that_of_iq4_nl() {
        let mut block = half::f16::ONE.to_le_bytes().to_vec();
        block.extend(0..16);
        let mut values = [0.0; 32];
        BlockFormat::Iq4Nl.dequantize(&block, &mut values);
        let bytes = TABLE.into_iter().flat_map(u32::to_le_bytes);
        for (byte, value) in bytes.zip(values) {
            assert_eq!(f32::from(byte) - 128.0, value);
        }
    }
}
