//! CUDA's driver and cuBLASLt beside CubeCL: a stream of our own, in order with all other work of a device, and products
//! on it.
//!
//! The driver and every other library of NVIDIA's are opened at run time. All of it is compiled without CubeCL too, and is
//! public, though hidden from the documentation, for `tests/nccl`.
//!
//! | file | holds |
//! |---|---|
//! | `order` | the stream, and the events that order it |
//! | [`products`] | cuBLASLt's handle, its plans, and the product of two matrices in memory of the device |

mod order;
pub mod products;

pub use order::{Event, Order, Turn, driver_version};
