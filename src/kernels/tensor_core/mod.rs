//! Attention on NVIDIA tensor cores, bf16 and f16, with f32 sums.
//!
//! | file | holds |
//! |---|---|
//! | [`table`] | which kernel runs which problem, and how it is cut: [`table::describe`] prints it |
//! | `choice` | which of them a process is held to |
//! | [`plan`] | blocks, splits and scalars of a launch |
//! | [`block`] | what a plane's share of a block's rows sees |
//! | [`barriers`] | barriers between planes that do different work |
//! | [`tiles`] | shared-memory tiles, swizzled, and the asynchronous copies that fill them |
//! | [`softmax`] | hidden keys, running maximum, weights |
//! | [`hidden`] | values that some rows must not see even as `0 * NaN` |
//! | [`mma`], [`products`] | the kernel on `mma.sync`, compute capability 8.0 and later, and its products |
//! | [`wgmma`], [`wgmma_code`] | the kernel on `wgmma`, compute capability 9.0, and its PTX |
//! | [`output`] | normalised rows |
//! | `self_test` | a small problem before the first large one, whose wrong result leaves `wgmma` out |
//! | `launch` | all of this on a CUDA device's tensors |
//!
//! Regions, blocks of packed rows and the merge of split keys are [`cube`](super::cube)'s.
//!
//! `tests/cuda` compiles the kernels to CUDA C++, compares registers and instruction counts with a table and
//! runs the result in a simulator.
//!
//! # References
//!
//! - FlashAttention-2, arXiv 2307.08691: rows over planes, deferred normalisation, split keys
//! - FlashAttention-3, arXiv 2407.08608: `wgmma`, softmax behind the next tile's scores

// `gpu_asm!` passes a variable by its address and an expression by its value: hence products with 1.
#![allow(clippy::identity_op)]

pub mod barriers;
pub mod block;
#[cfg(feature = "cuda")]
pub mod choice;
pub mod hidden;
#[cfg(feature = "cuda")]
pub(crate) mod launch;
pub mod mma;
mod opaque;
pub mod output;
pub mod plan;
pub mod products;
#[cfg(any(feature = "cuda", test))]
pub(crate) mod self_test;
pub mod softmax;
pub mod table;
pub mod tiles;
pub mod wgmma;
pub mod wgmma_code;
