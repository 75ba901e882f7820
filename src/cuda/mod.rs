//! CUDA's driver beside CubeCL: streams of our own, in order with all other work of a device.
//!
//! The driver and every other library of NVIDIA's are opened at run time.

mod order;

#[cfg(feature = "nccl-engine")]
pub(crate) use order::Event;
pub(crate) use order::Order;
#[cfg(feature = "cuda")]
pub(crate) use order::{Turn, driver_version};
