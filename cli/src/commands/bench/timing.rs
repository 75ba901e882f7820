//! Times of single operations, and the peak rates of the machine.

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor};
use burn_apb::kernels;

use super::median;
use crate::error::CliError;

/// Seconds for which an operation is repeated, at least [`LEAST`] times.
const SECONDS: f64 = 1.0;
const LEAST: usize = 5;
/// The most calls queued on a GPU before it is synchronised: that takes as long as a small kernel.
const BATCH: usize = 16;
/// How long a batch should take at least, in seconds.
const BATCH_SECONDS: f64 = 0.02;
/// Sides of the matrix product that rates are compared with.
const GEMM_CPU: usize = 2048;
const GEMM_GPU: usize = 8192;
/// Bytes that are read to measure memory: more than any cache holds.
const READ_BYTES: usize = 256 << 20;
/// Elements (f32) that a GPU reads and writes for the same purpose.
const COPY_ELEMENTS: usize = 256 << 20;

/// Where operations are timed.
pub struct Bench<'d> {
    pub device: &'d Device,
    /// Whether calls return before their work is done.
    pub queued: bool,
}

impl Bench<'_> {
    /// The result of a call and its seconds, with the compilation of its kernels.
    pub fn once<T>(&self, run: impl FnOnce() -> Result<T, CliError>) -> Result<(T, f64), CliError> {
        let started = Instant::now();
        let result = run()?;
        self.device.sync().map_err(CliError::failed)?;
        Ok((result, started.elapsed().as_secs_f64()))
    }

    /// Median seconds of `run`, after one call that is not counted; a slow one on a CPU counts alone.
    pub fn time<T>(&self, mut run: impl FnMut() -> Result<T, CliError>) -> Result<f64, CliError> {
        let mut once = |calls: usize| {
            let started = Instant::now();
            // Kept until they are computed: a dropped result may never be.
            let results = (0..calls).map(|_| run()).collect::<Result<Vec<T>, _>>()?;
            self.device.sync().map_err(CliError::failed)?;
            let seconds = started.elapsed().as_secs_f64() / calls as f64;
            drop(results);
            Ok::<f64, CliError>(seconds)
        };
        let first = once(1)?;
        if first > SECONDS && !self.queued {
            return Ok(first);
        }
        let batch = match self.queued {
            false => 1,
            true => (BATCH_SECONDS / once(1)?.max(1e-9)).clamp(1.0, BATCH as f64) as usize,
        };
        let began = Instant::now();
        let mut times = Vec::new();
        while times.len() < LEAST || began.elapsed().as_secs_f64() < SECONDS {
            times.push(once(batch)?);
        }
        Ok(median(&times).unwrap_or(first))
    }

    /// GFLOP/s of a matrix product: Burn's on a CPU, that of linear layers on a GPU.
    pub fn gemm_gflops(&self, dtype: DType) -> Result<f64, CliError> {
        let side = if self.queued { GEMM_GPU } else { GEMM_CPU };
        let random = || {
            let normal = Distribution::Normal(0.0, 1.0);
            Tensor::<2>::random([side, side], normal, self.device).cast(dtype)
        };
        let (a, b) = (random(), random());
        let seconds = self.time(|| match self.queued {
            true => {
                kernels::linear(a.clone(), b.clone().transpose(), None).map_err(CliError::failed)
            }
            false => Ok(a.clone().matmul(b.clone())),
        })?;
        Ok(2.0 * (side as f64).powi(3) / seconds / 1e9)
    }

    /// Gigabytes a second: what a CPU's threads together read, or what a GPU reads and writes.
    pub fn memory_gigabytes(&self) -> Result<f64, CliError> {
        if !self.queued {
            return Ok(read_gigabytes());
        }
        let source = Tensor::<1>::ones([COPY_ELEMENTS], self.device);
        let seconds = self.time(|| Ok(source.clone().add_scalar(1.0)))?;
        Ok((2 * COPY_ELEMENTS * 4) as f64 / seconds / 1e9)
    }
}

/// Gigabytes a second that the CPU's threads together read from memory.
fn read_gigabytes() -> f64 {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let data = vec![1u64; READ_BYTES / 8];
    let read = || {
        std::thread::scope(|scope| {
            for part in data.chunks(data.len().div_ceil(threads)) {
                scope.spawn(move || {
                    let mut sums = [0u64; 32];
                    for line in part.chunks_exact(32) {
                        for (sum, x) in sums.iter_mut().zip(line) {
                            *sum = sum.wrapping_add(*x);
                        }
                    }
                    std::hint::black_box(sums);
                });
            }
        });
    };
    let times: Vec<f64> = (0..7)
        .map(|_| {
            let started = Instant::now();
            read();
            started.elapsed().as_secs_f64()
        })
        .collect();
    READ_BYTES as f64 / median(&times).unwrap_or(f64::NAN) / 1e9
}
