//! The compressor that a plan names.

use burn::tensor::{Device, FloatDType};

use super::{Compressor, QueryAware, Random};
use crate::apb::config::{CompressorConfig, Method};
use crate::apb::heads::{HeadsError, HeadsFile};
use crate::apb::plan::PrefillPlan;
use crate::checkpoint::source::ModelSource;
use crate::model::AttentionShape;

/// The compressor that a plan names, without weights. Cloning is cheap.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum CompressorSource {
    /// The plan's method has none.
    None,
    /// A file of retaining heads that fit the model, opened once.
    Retaining(HeadsFile),
    /// [`QueryAware`].
    QueryAware,
    /// [`Random`].
    Random {
        /// Seed of the scores.
        seed: u64,
    },
}

impl CompressorSource {
    /// Opens the compressor of a plan for a model. No weight is read.
    ///
    /// # Errors
    ///
    /// [`HeadsError`] when the file holds no retaining heads, or those of another model.
    pub fn open(plan: &PrefillPlan, model: impl Into<AttentionShape>) -> Result<Self, HeadsError> {
        if plan.method != Method::Apb {
            return Ok(Self::None);
        }
        Ok(match &plan.compressor {
            CompressorConfig::Retaining { heads } => {
                Self::Retaining(HeadsFile::open(heads, model)?)
            }
            CompressorConfig::QueryAware => Self::QueryAware,
            CompressorConfig::Random { seed } => Self::Random { seed: *seed },
        })
    }

    /// Refuses heads that name another model than the one in `source`.
    ///
    /// # Errors
    ///
    /// [`HeadsError::OtherModel`], or [`HeadsError::Model`] when the model's files cannot be opened.
    pub fn check_model(&self, source: &ModelSource) -> Result<(), HeadsError> {
        match self {
            Self::Retaining(file) => file.check_model(source),
            _ => Ok(()),
        }
    }

    /// Loads it; none where the method has none.
    ///
    /// # Errors
    ///
    /// [`HeadsError`] when the weights cannot be read.
    pub fn load(
        &self,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<Option<Box<dyn Compressor>>, HeadsError> {
        Ok(match self {
            Self::None => None,
            Self::Retaining(file) => Some(Box::new(file.load(dtype, device)?)),
            Self::QueryAware => Some(Box::new(QueryAware)),
            Self::Random { seed } => Some(Box::new(Random::new(*seed))),
        })
    }
}

/// Opens and loads the compressor of a plan; none where its method has none.
///
/// # Errors
///
/// [`HeadsError`] when the retaining heads cannot be used.
pub fn load(
    plan: &PrefillPlan,
    model: impl Into<AttentionShape>,
    dtype: FloatDType,
    device: &Device,
) -> Result<Option<Box<dyn Compressor>>, HeadsError> {
    CompressorSource::open(plan, model)?.load(dtype, device)
}
