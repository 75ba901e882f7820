//! Attention with regions, and the few fused operations around it. Kernels know only tensors.
//!
//! | operation | function | plain-tensor reference |
//! |---|---|---|
//! | attention over `[passing \| anchor \| local]` keys, with its normaliser | [`attention()`] | [`reference::attention`] |
//! | the same over keys and values in eight bits | [`quantized_attention()`], which [`quantize_rows()`] makes | [`dequantize()`], and [`reference::attention`] |
//! | one attention out of parts | [`merge()`] | plain tensors already |
//! | what a cache holds so far, as a view | [`first_rows()`] | a slice |
//! | linear layer on weights as stored | [`linear()`] | [`reference::linear`] |
//! | the same on weights that stay quantised | [`quantized_linear()`] | [`dequantize()`], and [`reference::linear`] |
//! | rows of a quantised embedding | [`quantized_rows()`] | [`dequantize()`], and a selection |
//! | root mean square normalisation | [`rms_norm()`] | [`reference::rms_norm`] |
//! | the same behind a residual connection | [`add_rms_norm()`] | a sum, and [`reference::rms_norm`] |
//! | `silu(gate) * up` | [`silu_mul()`] | [`reference::silu_mul`] |
//! | half-split rotary embedding | [`rotate()`] | [`reference::rotate`] |
//! | second half of a retaining head | [`silu_scores()`] | [`reference::silu_scores`] |
//! | rows with the highest pooled scores | [`select_rows()`] | [`reference::select_rows`] |
//! | chosen keys and values, packed | [`gather_rows()`] | [`reference::gather_rows`] |
//!
//! Which implementation runs is decided by the tensors' device, at every call:
//!
//! | device | implementation |
//! |---|---|
//! | Flex (CPU) | tiles and vector instructions, below |
//! | CUDA from compute capability 8.0, attention in bf16 or f16 | tensor-core kernels: `tensor_core_table` prints which; `APB_TENSOR_CORE=mma`, `wgmma` or `none` restricts them, for comparisons |
//! | CUDA, linear layers of up to 8 rows | a kernel that reads each weight once |
//! | CUDA, linear layers | cuBLASLt, where it is found at run time: `cublaslt_version` says; `APB_PRODUCTS=burn` leaves them to Burn |
//! | CubeCL runtimes (wgpu, CUDA) otherwise, attention, head_dim a multiple of 8 up to 256 | the portable kernel: `portable_table` prints its tiles |
//! | CubeCL runtimes: norms, gate, rotation, scores, selection, gathering, the search for what is not finite | one kernel each |
//! | CubeCL runtimes: quantised weights | up to 8 rows: a kernel that reads codes once; more: dequantised, and the device's product; rows: a kernel |
//! | CubeCL runtimes, everything else, with or without fusion | plain backend operations, attention in tiles of rows |
//! | with autodiff | attention on the device's kernel, with a backward pass in tiles; the others by their references |
//! | any other backend | the references |
//!
//! On Flex, with AVX-512, AVX2 or portable code chosen at run time:
//!
//! | operation | case | code |
//! |---|---|---|
//! | attention | up to 8 rows x heads of a group | dot products; each key and value read once a group |
//! | attention | more | panels of rows x heads, transposed; key/value tiles shared by the group |
//! | attention | few tiles for the threads | as above, keys split over threads, parts merged |
//! | attention over eight bits | any | as above, 512 keys of a head at a time made floats before |
//! | linear | up to 8 rows, weight stored `[d_output, d_input]` | row dot products, weight read once |
//! | linear | more rows, weight stored `[d_output, d_input]` | packed panels of the weight |
//! | quantised linear | up to 8 rows | dot products of codes with `x` in eight bits, blocks read once |
//! | quantised linear | more rows | packed panels of what the codes stand for |
//! | linear | weight stored otherwise | Burn's matrix product |
//!
//! f16 and bf16 are widened to f32 tile by tile, except where the processor multiplies bf16 (AMX, AVX-512); sums are always f32. The work is shared by rayon's
//! threads; [`on_workers`] lets a whole forward pass start them once.

mod add;
mod attention;
mod autodiff;
mod cpu;
#[cfg(feature = "cube")]
#[doc(hidden)]
pub mod cube;
#[cfg(feature = "cuda")]
mod cublaslt;
mod error;
mod extension;
mod first_rows;
#[cfg(feature = "cube")]
#[doc(hidden)]
pub mod fused;
mod gather_rows;
mod linear;
mod merge;
mod not_finite;
mod plain;
#[cfg(feature = "cube")]
#[doc(hidden)]
pub mod portable;
pub(crate) mod quantized;
mod quantized_attention;
mod quantized_linear;
mod query_scores;
#[doc(hidden)]
pub mod reference;
mod regions;
mod rms_norm;
mod rotate;
mod select_rows;
mod silu_mul;
mod silu_scores;
#[cfg(feature = "cube")]
#[doc(hidden)]
pub mod tensor_core;
mod workers;

pub(crate) use add::add;
pub use attention::{AttentionOutput, attention};
pub use cpu::simd_name;
#[cfg(feature = "cuda")]
pub use cublaslt::version as cublaslt_version;
pub use error::KernelError;
pub(crate) use extension::{has_kernels, is_cpu, is_cuda};
pub use first_rows::first_rows;
pub(crate) use first_rows::some_rows;
pub use gather_rows::gather_rows;
pub use linear::linear;
pub use merge::merge;
#[doc(hidden)]
pub use not_finite::not_finite;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub use portable::table::describe as portable_table;
pub use quantized::BlockFormat;
pub(crate) use quantized::grouped as blocks;
pub(crate) use quantized::q8_0;
pub use quantized_attention::{quantize_rows, quantized_attention};
pub(crate) use quantized_linear::check_quantized;
pub use quantized_linear::{dequantize, quantized_linear, quantized_rows};
pub(crate) use query_scores::{mean_rows, query_scores};
pub use regions::Regions;
pub use rms_norm::{add_rms_norm, rms_norm};
pub use rotate::rotate;
pub use select_rows::{RowChoice, select_rows};
pub use silu_mul::silu_mul;
pub use silu_scores::silu_scores;
#[cfg(feature = "cuda")]
pub use tensor_core::table::describe as tensor_core_table;
pub use workers::on_workers;
