//! CUDA's driver beside CubeCL: streams of our own, in order with all other work of a device.
//!
//! The driver and every other library of NVIDIA's are opened at run time.

#![cfg_attr(
    not(all(feature = "cuda", feature = "nccl-engine")),
    allow(
        dead_code,
        unused_imports,
        reason = "some functions serve products alone, some NCCL alone"
    )
)]

mod order;

pub(crate) use order::{Event, Order, Turn, driver_version};
