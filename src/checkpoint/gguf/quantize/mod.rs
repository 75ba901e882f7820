//! Floats to the blocks of a GGUF file.
//!
//! | file | holds |
//! |---|---|
//! | `small` | blocks of 32 elements, bit for bit as ggml's reference rounds them |
//! | `k` | blocks of 256 elements with scales of groups |
//! | `search` | the scale and minimum of a group with the least squared error |

mod k;
mod search;
mod small;

use burn::tensor::{FloatDType, f16};
use half::slice::HalfFloatSliceExt;

use super::kind::GgmlType;
use crate::kernels::{self, BlockFormat};

/// How elements are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    F32,
    F16,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl Written {
    /// The type in the file.
    pub(crate) fn kind(self) -> GgmlType {
        match self {
            Self::F32 => GgmlType::floats(FloatDType::F32),
            Self::F16 => GgmlType::floats(FloatDType::F16),
            Self::Q5_0 => GgmlType::quantized(BlockFormat::Q5_0),
            Self::Q5_1 => GgmlType::quantized(BlockFormat::Q5_1),
            Self::Q8_0 => GgmlType::quantized(BlockFormat::Q8_0),
            Self::Q4K => GgmlType::quantized(BlockFormat::Q4K),
            Self::Q5K => GgmlType::quantized(BlockFormat::Q5K),
            Self::Q6K => GgmlType::quantized(BlockFormat::Q6K),
        }
    }

    /// Bytes of a row of `cols` elements, a whole number of blocks.
    pub(crate) fn row_bytes(self, cols: usize) -> usize {
        let (len, bytes) = (self.kind().block_len(), self.kind().block_bytes());
        cols / len as usize * bytes as usize
    }

    /// Whether rows of `cols` elements are whole blocks.
    pub(crate) fn fits(self, cols: usize) -> bool {
        (cols as u64).is_multiple_of(self.kind().block_len())
    }

    /// Writes a row of finite elements; `false` where one of them, or a scale, is beyond an f16.
    pub(crate) fn write(self, x: &[f32], out: &mut [u8]) -> bool {
        match self {
            Self::F32 => {
                for (out, x) in out.as_chunks_mut().0.iter_mut().zip(x) {
                    *out = x.to_le_bytes();
                }
            }
            Self::F16 => {
                let mut halves = vec![f16::ZERO; x.len()];
                halves.convert_from_f32_slice(x);
                for (out, half) in out.as_chunks_mut().0.iter_mut().zip(&halves) {
                    *out = half.to_le_bytes();
                }
                return halves.iter().all(|half| half.is_finite());
            }
            Self::Q5_0 => blocks(x, out, small::q5_0),
            Self::Q5_1 => blocks(x, out, small::q5_1),
            Self::Q8_0 => blocks(x, out, kernels::q8_0),
            Self::Q4K => blocks(x, out, k::q4_k),
            Self::Q5K => blocks(x, out, k::q5_k),
            Self::Q6K => blocks(x, out, k::q6_k),
        }
        let format = self.kind().blocks();
        format.is_none_or(|format| format.first_not_finite(out).is_none())
    }
}

/// Writes one block after the other.
fn blocks<const LEN: usize, const BYTES: usize>(
    x: &[f32],
    out: &mut [u8],
    write: impl Fn(&[f32; LEN], &mut [u8; BYTES]),
) {
    let blocks = out.as_chunks_mut::<BYTES>().0.iter_mut();
    for (out, x) in blocks.zip(x.as_chunks::<LEN>().0) {
        write(x, out);
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::hex;

    const ALL: [Written; 6] = [
        Written::Q5_0,
        Written::Q5_1,
        Written::Q8_0,
        Written::Q4K,
        Written::Q5K,
        Written::Q6K,
    ];

    /// Numbers with a normal distribution, the same every time.
    fn normal(count: usize) -> Vec<f32> {
        let mut state = 1u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        let mut sum = || (0..12).map(|_| uniform()).sum::<f32>() - 6.0;
        (0..count).map(|_| 0.02 * sum()).collect()
    }

    fn quantized(written: Written, x: &[f32]) -> Vec<u8> {
        let mut out = vec![0; written.row_bytes(x.len())];
        assert!(written.write(x, &mut out), "{written:?}");
        out
    }

    fn back(written: Written, blocks: &[u8], len: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; len];
        let format = written.kind().blocks().unwrap();
        format.dequantize(blocks, &mut out);
        out
    }

    /// The squared error over the squares of `x`.
    fn error(x: &[f32], back: &[f32]) -> f64 {
        let square = |x: f32| f64::from(x) * f64::from(x);
        let errors = x.iter().zip(back).map(|(x, back)| square(x - back));
        errors.sum::<f64>() / x.iter().map(|&x| square(x)).sum::<f64>()
    }

    /// What gguf-py 0.19 makes of the same numbers, as SHA-256.
    #[test]
    fn small_blocks_are_those_of_gguf_py() {
        let x: Vec<f32> = (0..8192)
            .map(|i: i32| ((i * 7919) % 4001 - 2000) as f32 / (1 + i % 97) as f32)
            .collect();
        let expected = [
            (
                Written::Q8_0,
                "343004441364946e99a866a77d644fe66bea274d515e4d20592ea7e4de34b5e7",
            ),
            (
                Written::Q5_0,
                "75e52abcf0c98e71fe18c9e46c09d4a9e199cdbde9559e4e953bcbe9b489b868",
            ),
            (
                Written::Q5_1,
                "3211cb791cc9fffe95847cb33a40b6b711dc1f5c44abe90b8e3054bfa1246ab3",
            ),
        ];
        for (written, expected) in expected {
            let found = Sha256::digest(quantized(written, &x));
            assert_eq!(hex::encode(&found), expected, "{written:?}");
        }
    }

    /// Q8_0 by its definition, one element at a time, in f64 where that makes no difference.
    #[test]
    fn eight_bits_are_the_nearest() {
        let mut x = normal(32 * 500);
        x[..32].fill(0.0);
        x[40] = -70.0;
        // Exactly between two codes.
        for (i, x) in x[64..96].iter_mut().enumerate() {
            *x = i as f32 - 0.5;
        }
        x[64] = 127.0;
        for (block, found) in x.chunks(32).zip(quantized(Written::Q8_0, &x).chunks(34)) {
            let largest = block
                .iter()
                .fold(0.0f32, |m, x| if x.abs() > m { x.abs() } else { m });
            let scale = largest / 127.0;
            assert_eq!(found[..2], f16::from_f32(scale).to_le_bytes());
            for (x, &code) in block.iter().zip(&found[2..]) {
                let steps = if scale == 0.0 { 0.0 } else { x * (1.0 / scale) };
                let whole = f64::from(steps.abs()) + 0.5;
                let expected = steps.signum() as f64 * whole.floor();
                assert_eq!(f64::from(code as i8), expected, "{x} of {largest}");
            }
        }
    }

    /// Four bits by the smallest and the largest element alone: scales in six bits, no search.
    fn plain_four_bits(x: &[f32]) -> Vec<f32> {
        let mut out = Vec::with_capacity(x.len());
        for block in x.chunks(256) {
            let ranges = block.chunks(32).map(|group| {
                let low = group.iter().fold(0.0f32, |low, &x| low.min(x));
                (group.iter().fold(low, |high, &x| high.max(x)) - low, -low)
            });
            let ranges: Vec<(f32, f32)> = ranges.collect();
            let unit = |values: &dyn Fn(&(f32, f32)) -> f32| {
                ranges.iter().map(values).fold(0.0, f32::max) / 63.0
            };
            let (scale, minimum) = (unit(&|range| range.0 / 15.0), unit(&|range| range.1));
            for (group, (range, low)) in block.chunks(32).zip(&ranges) {
                let scale = scale * (range / 15.0 / scale).round();
                let minimum = minimum * (low / minimum).round();
                let code = |x: &f32| ((x + minimum) / scale).round().clamp(0.0, 15.0);
                out.extend(group.iter().map(|x| scale * code(x) - minimum));
            }
        }
        out
    }

    /// The search is worth its time: the bound between the two is a seventh below plain rounding.
    #[test]
    fn search_has_less_error_than_plain_rounding() {
        let x = normal(256 * 200);
        let of = |written| error(&x, &back(written, &quantized(written, &x), x.len()));
        let (searched, plain) = (of(Written::Q4K), error(&x, &plain_four_bits(&x)));
        assert!(searched < 6.0 / 7.0 * plain, "{searched:e} and {plain:e}");
    }

    /// Errors of each format, about a tenth above those of llama.cpp's own blocks on such numbers.
    #[test]
    fn errors_are_within_bounds() {
        let x = normal(256 * 200);
        for (written, bound) in [
            (Written::Q5_0, 2.4e-3),
            (Written::Q5_1, 1.8e-3),
            (Written::Q8_0, 4e-5),
            (Written::Q4K, 5.6e-3),
            (Written::Q5K, 1.4e-3),
            (Written::Q6K, 3.5e-4),
        ] {
            let found = error(&x, &back(written, &quantized(written, &x), x.len()));
            assert!(
                (bound / 3.0..bound).contains(&found),
                "{written:?}: {found:e}"
            );
        }
    }

    /// Elements that a format cannot tell apart, and those at the ends of its range.
    #[test]
    fn edges_stay_close() {
        let random = normal(256);
        let with = |of: &dyn Fn(usize) -> f32| (0..256).map(of).collect::<Vec<f32>>();
        let cases = [
            with(&|_| 0.0),
            with(&|_| 3.0),
            with(&|_| -3.0),
            with(&|i| random[i].abs()),
            with(&|i| -random[i].abs()),
            with(&|i| 40_000.0 * random[i]),
            with(&|i| if i == 17 { 1.0 } else { 0.0 }),
            with(&|i| if i == 200 { -1.0 } else { 0.0 }),
            with(&|i| {
                if i % 16 == 0 {
                    random[i]
                } else {
                    1e-3 * random[i]
                }
            }),
        ];
        for written in ALL {
            for (case, x) in cases.iter().enumerate() {
                let back = back(written, &quantized(written, x), x.len());
                let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                // A step of five bits with a sign, or of four with a minimum on one side.
                let bound = largest / 15.0 + 1e-6;
                for (x, back) in x.iter().zip(&back) {
                    let off = (x - back).abs();
                    assert!(off <= bound, "{written:?}, case {case}: {x} became {back}");
                }
            }
            // So small that nothing is left, and no code stands for something else.
            for tiny in [1e-40, 1e-20, 1e-12] {
                let x = with(&|i| tiny * random[i]);
                let back = back(written, &quantized(written, &x), x.len());
                assert!(
                    back.iter().all(|back| back.abs() < 1e-7),
                    "{written:?} {tiny:e}"
                );
            }
        }
    }

    #[test]
    fn what_no_half_can_scale_is_told() {
        let mut x = vec![1.0f32; 256];
        x[3] = 3e38;
        x[7] = -3e38;
        for written in ALL {
            let mut out = vec![0; written.row_bytes(x.len())];
            assert!(!written.write(&x, &mut out), "{written:?}");
        }
        let mut out = [0; 2];
        assert!(!Written::F16.write(&[1e6], &mut out) && Written::F16.write(&[6e4], &mut out));
        assert!(Written::F32.write(&[3e38], &mut [0; 4]));
    }
}
