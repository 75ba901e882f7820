//! Errors of training.

use std::fmt;

use crate::checkpoint::FileError;
use crate::kernels::KernelError;

/// Why a training run failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// An operation of the backbone failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A file of the run, or the file of the heads, cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(String),
    /// The loss is infinite or not a number.
    #[error(
        "the loss is {loss} at sample {sample}; try a lower learning rate, or f32 for the backbone"
    )]
    NotFinite {
        /// The loss.
        loss: f64,
        /// Position of the sample in the run, from 0.
        sample: usize,
    },
    /// A configuration, a folder or samples that cannot be used, or a failure of the learner.
    #[error("{0}")]
    Run(String),
}

impl TrainError {
    /// The device failed with `error`.
    pub(super) fn device(error: impl fmt::Display) -> Self {
        Self::Device(error.to_string())
    }
}
