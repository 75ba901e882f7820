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
use crate::kernels::BlockFormat;

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
    pub(super) fn fits(self, cols: usize) -> bool {
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
            Self::Q8_0 => blocks(x, out, small::q8_0),
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
