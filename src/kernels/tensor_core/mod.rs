//! Attention on NVIDIA tensor cores, bf16 and f16, with f32 sums.
//!
//! | file | holds |
//! |---|---|
//! | [`table`] | which kernel runs which problem, and how it is cut: [`table::describe`] prints it |
//! | `choice` | which of them a process is held to |
//! | [`plan`] | blocks, splits and scalars of a launch |
//! | [`visible`] | [`Regions`](super::Regions) as four numbers; what a run of rows sees |
//! | [`arguments`], [`block`] | the scalars of a launch; one block's rows and keys |
//! | [`tiles`] | shared-memory tiles, swizzled, and the asynchronous copies that fill them |
//! | [`softmax`] | hidden keys, running maximum, weights |
//! | [`hidden`] | values that some rows must not see even as `0 * NaN` |
//! | [`mma`], [`products`] | the kernel on `mma.sync`, compute capability 8.0 and later, and its products |
//! | [`wgmma`], [`wgmma_code`] | the kernel on `wgmma`, compute capability 9.0, and its PTX |
//! | [`output`], [`merge`] | normalised rows; parts of split keys into one output |
//! | `launch` | all of this on a CUDA device's tensors |
//!
//! A block computes 64 or 128 *packed* rows, `query row * group + query head of the group`, of one
//! key/value head: the heads of a group share every tile of keys and values. It walks over tiles of
//! keys, from the first that any of its rows sees to the last; tiles outside are never loaded, so
//! anchor rows skip the passing keys, and causal rows what comes after them.
//!
//! Everything but `launch` needs CubeCL alone; `tests/cuda` compiles it to CUDA C++, holds registers
//! and instruction counts to a table and runs the result in a simulator.
//!
//! # References
//!
//! - FlashAttention-2, arXiv 2307.08691: rows over planes, deferred normalisation, split keys
//! - FlashAttention-3, arXiv 2407.08608: `wgmma`, softmax behind the next tile's scores

// `gpu_asm!` passes a variable by its address and an expression by its value: hence products with 1.
#![allow(clippy::identity_op)]

pub mod arguments;
pub mod block;
#[cfg(feature = "cuda")]
pub mod choice;
pub mod hidden;
#[cfg(feature = "cuda")]
pub mod launch;
pub mod merge;
pub mod mma;
pub mod output;
pub mod plan;
pub mod products;
pub mod softmax;
pub mod table;
pub mod tiles;
pub mod visible;
pub mod wgmma;
pub mod wgmma_code;
