//! Small operations as one CubeCL kernel each, for any runtime: no plane operations, no atomics, f32
//! arithmetic.
//!
//! | file | operation | why it is one kernel |
//! |---|---|---|
//! | [`rotate`] | half-split RoPE, and rows sorted by heads | one read and one write of the projection |
//! | [`rms_norm`] | root mean square norm, alone or with the residual added before it | no reduction to tune; the sum is not read again |
//! | [`silu_mul`] | `silu(gate) * up` | one launch |
//! | [`silu_scores`] | `silu` and the second product of a retaining head | `silu(hidden)` is never written |
//! | [`query_scores`] | scores of rows against a mean query | no reduction or product to tune |
//! | [`not_finite`] | whether all elements are finite | one pass, no reduction to tune |
//! | [`select_rows`] | max pooling; the highest rows of each head | scores stay on the device; ties are decided |
//! | [`few_rows`] | linear layer of up to 8 rows | each weight is read once, and no library's stream is waited for |
//! | [`gather_rows`] | chosen keys and values into the packed block | one launch, no expanded indices |
//! | [`quantized`] | products with, and rows of, weights that stay quantised | codes are read once, floats of them never written |
//! | [`add_shares`] | the end of products with few rows, of either kind of weight | |
//! | `launch` | all but the last two on a device's tensors | |

pub mod add_shares;
pub mod few_rows;
pub mod gather_rows;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(crate) mod launch;
pub mod not_finite;
pub mod quantized;
pub mod query_scores;
pub mod rms_norm;
pub mod rotate;
pub mod select_rows;
pub mod silu_mul;
pub mod silu_scores;
