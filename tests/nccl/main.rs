//! Ranks as processes over NCCL, without a GPU: NCCL, CUDA's driver, cuBLASLt and their faults are those of
//! `tests/stand_in`, whose streams run out of order unless events order them. `scripts/test-nccl` builds them and runs
//! this.

mod aligned;
#[path = "../../cli/tests/ranks/faults.rs"]
mod faults;
mod launcher;
mod methods;
#[path = "../common/noise.rs"]
mod noise;
mod overlap;
mod products;
#[path = "../../cli/tests/ranks/suite.rs"]
mod suite;
mod transport;
