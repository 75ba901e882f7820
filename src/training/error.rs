//! Errors of training.

use std::fmt;
use std::path::PathBuf;

use super::sample::SampleError;
use crate::apb::heads::{HeadsShape, LabelScaleFault};
use crate::checkpoint::FileError;
use crate::kernels::KernelError;
use crate::quoted::{QuotePath, Quoted, cut};

/// Characters of what is wrong with a file that a message shows.
const SHOWN: usize = 400;

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
    /// There is no sample to learn from.
    #[error("there are no samples to learn from")]
    NoSamples,
    /// A sample that cannot be used.
    #[error("{set} {index}: {source}")]
    Sample {
        /// `sample` or `held-out sample`.
        set: &'static str,
        /// Its position among those, from 0.
        index: usize,
        /// The error.
        source: SampleError,
    },
    /// Heads to start from that do not fit the model, or of layers that differ.
    #[error(
        "the heads to start from have {found}, width {}; expected {expected}, width {}; give heads of this model",
        found.width, expected.width
    )]
    StartShape {
        /// The shape of heads for the model, with the width of the first layer's head.
        expected: HeadsShape,
        /// The shape of the first head that differs.
        found: HeadsShape,
    },
    /// Heads to start from whose scale of labels is not one for them.
    #[error("the label_scale of the heads to start from: {}", cut(.0, SHOWN))]
    StartScale(LabelScaleFault),
    /// A run whose scale of labels and inputs, without which its checkpoints mean nothing, is lost or broken.
    #[error(
        "{}: expected the scale of the run's labels and inputs, as it was measured when the run began, \
         found {}; remove the run's folder and train again",
        path.quoted(),
        cut(found, SHOWN)
    )]
    Scale {
        /// The file.
        path: PathBuf,
        /// What is there in its place.
        found: String,
    },
    /// A run of another model cannot be resumed with this one.
    #[error(
        "{}: expected the run's model, with fingerprint {}, found one with fingerprint {found}; \
         resume with the model that the run began with, or train this one in another folder",
        folder.quoted(),
        Quoted(expected)
    )]
    OtherModel {
        /// The run's folder.
        folder: PathBuf,
        /// The fingerprint of the model that the run began with.
        expected: String,
        /// The fingerprint of this model.
        found: String,
    },
    /// A run whose folder does not name its model, written before fingerprints were kept.
    #[error(
        "{}: expected the fingerprint of the run's model, found none, as earlier versions wrote it; if \
         the run began with this model, add \"model\": \"{found}\" to the file, otherwise remove the folder",
        path.quoted()
    )]
    UnknownModel {
        /// The file with the run's settings.
        path: PathBuf,
        /// The fingerprint of this model.
        found: String,
    },
    /// A file or folder of the run that cannot be used.
    #[error("{}: {problem}", path.quoted())]
    Path {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The caller stopped before there was a result: in training, before the end of the first round.
    #[error("stopped before there was a result")]
    Stopped,
    /// A configuration that cannot be used, or a failure of the learner.
    #[error("{0}")]
    Run(String),
}

impl TrainError {
    /// The device failed with `error`.
    pub(super) fn device(error: impl fmt::Display) -> Self {
        Self::Device(error.to_string())
    }
}
