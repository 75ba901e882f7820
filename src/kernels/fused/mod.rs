//! Small operations as one CubeCL kernel each, for any runtime: no plane operations, no atomics, f32
//! arithmetic.
//!
//! | file | operation | why it is one kernel |
//! |---|---|---|
//! | [`rotate`] | half-split RoPE, and rows sorted by heads | one read and one write of the projection |
//! | [`score`] | `silu` and the second product of a retaining head | `silu(hidden)` is never written |
//! | [`select`] | max pooling; the highest rows of each head | scores stay on the device; ties are decided |
//! | [`gather`] | chosen keys and values into the packed block | one launch, no expanded indices |
//! | `launch` | all of these on a device's tensors | |

pub mod gather;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub mod launch;
pub mod rotate;
pub mod score;
pub mod select;
