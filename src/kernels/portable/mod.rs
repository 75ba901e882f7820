//! Attention on any CubeCL runtime, with f32 arithmetic: f32 everywhere, and what the tensor-core
//! kernels leave.
//!
//! | file | holds |
//! |---|---|
//! | [`table`] | how a problem is cut into tiles: [`table::describe`] prints it |
//! | [`plan`] | blocks, splits and scalars of a launch |
//! | [`attention`] | the kernel |
//! | [`stage`] | pieces of queries, keys and values in shared memory, and their products |
//! | [`softmax`] | hidden keys, running maximum, weights |
//! | `launch` | all of this on a device's tensors |
//!
//! Regions, blocks of packed rows and the merge of split keys are [`cube`](super::cube)'s.
//!
//! The kernel uses what every GPU has, and nothing else: shared memory (below the 32 KiB that WebGPU
//! adapters commonly give) and barriers. No plane operations, no matrix instructions, no asynchronous
//! copies, no infinities. Both of its products are shaped like a matrix product in f32: a unit holds
//! several rows times several columns in registers, so that an operand read from shared memory is used
//! four or eight times.
//!
//! # References
//!
//! - FlashAttention-2, arXiv 2307.08691: online softmax, deferred normalisation, split keys

pub mod attention;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(crate) mod launch;
pub mod plan;
pub mod softmax;
pub mod stage;
pub mod table;
