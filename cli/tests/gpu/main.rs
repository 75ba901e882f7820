//! The kernels and a small model on a CUDA device, against references computed on the CPU.
//!
//! Without a CUDA device every test prints so and passes, unless `APB_REQUIRE_CUDA` is set.
//! `APB_TEST_DEVICE=cpu` runs the same checks on the CPU kernels, where they are known to hold;
//! `APB_TEST_SPOIL=1` makes every check see a wrong result and must fail them all. `scripts/gpu-check` runs
//! each test in a process of its own.

mod attention;
mod kernels_run;
#[cfg(feature = "nccl")]
mod nccl;
#[path = "../../../tests/common/noise.rs"]
mod noise;
mod operations;
mod problems;
mod selection;
mod setup;
#[cfg(feature = "nccl")]
#[path = "../ranks/suite.rs"]
mod suite;
mod traces;
mod vectors;
