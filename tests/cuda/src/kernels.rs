//! The kernels' own sources, without the rest of the crate: they need CubeCL alone.

#[path = "../../../src/kernels/cube/mod.rs"]
pub mod cube;
#[path = "../../../src/kernels/fused/mod.rs"]
pub mod fused;
#[path = "../../../src/kernels/portable/mod.rs"]
pub mod portable;
#[path = "../../../src/kernels/regions.rs"]
mod regions;
#[path = "../../../src/kernels/tensor_core/mod.rs"]
pub mod tensor_core;

pub use regions::Regions;

/// What [`Regions::validate`] refuses with, in the form that it builds.
#[derive(Debug)]
pub enum KernelError {
    /// Regions longer than the keys or rows they divide.
    Regions {
        /// Passing keys.
        passing: usize,
        /// Anchor keys.
        anchor: usize,
        /// Query rows.
        seq_q: usize,
        /// All keys.
        seq_kv: usize,
        /// Which rule is broken.
        reason: &'static str,
    },
}
