//! Weights that stay quantised on a device: the blocks of [`BlockFormat`](crate::kernels::BlockFormat) as they lie in
//! a file, read as words of four bytes, since not every runtime has bytes.
//!
//! | file | holds |
//! |---|---|
//! | [`layout`] | where a format's codes lie, for kernels that are compiled for it |
//! | [`bytes`] | bytes, words and floats at any place of the words |
//! | [`scales`] | scales and minimums of a piece |
//! | [`codes`] | codes of a piece, and what they stand for |
//! | [`dequantize`] | blocks, or named rows of them, to floats |
//! | [`product`] | `x weight + bias` for few rows of `x`, codes read once |
//! | [`compact`] | a view of bytes to rows one behind the other |
//! | `launch` | all of these on a device's tensors |
//!
//! Kernels work on *pieces*: 32 elements of a block as two runs of 16, whose codes lie in the same bytes (the low and
//! the high halves of 16 bytes, say). A run has one scale in every format. Four codes of each run are a *word*.

pub mod bytes;
pub mod codes;
pub mod compact;
pub mod dequantize;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(crate) mod launch;
pub mod layout;
pub mod product;
pub mod scales;
