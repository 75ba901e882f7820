//! The compressor that a plan names.

use std::sync::Arc;

use burn::tensor::{Device, FloatDType};

use super::{Compressor, CompressorError, QueryAware, Random};
use crate::apb::config::{CompressorConfig, Method};
use crate::apb::heads::HeadsFile;
use crate::apb::plan::PrefillPlan;
use crate::checkpoint::ModelSource;
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
    /// A custom compressor.
    Custom(Arc<dyn Compressor>),
}

impl CompressorSource {
    /// Opens the compressor of a plan for a model. No weight is read.
    ///
    /// # Errors
    ///
    /// [`CompressorError`] when the file holds no retaining heads, or those of another model, or a
    /// custom compressor was not given.
    pub fn open(
        plan: &PrefillPlan,
        model: impl Into<AttentionShape>,
    ) -> Result<Self, CompressorError> {
        if plan.method != Method::Apb {
            return Ok(Self::None);
        }
        Ok(match &plan.compressor {
            CompressorConfig::Retaining { heads } => {
                Self::Retaining(HeadsFile::open(heads, model)?)
            }
            CompressorConfig::QueryAware => Self::QueryAware,
            CompressorConfig::Random { seed } => Self::Random { seed: *seed },
            CompressorConfig::Custom(custom) => match custom.compressor() {
                Some(compressor) => Self::Custom(compressor.clone()),
                None => {
                    let name = custom.name().into();
                    return Err(CompressorError::NotGiven { name });
                }
            },
        })
    }

    /// Refuses heads that name another model than the one in `source`.
    ///
    /// # Errors
    ///
    /// [`HeadsError::OtherModel`](crate::apb::heads::HeadsError::OtherModel), or
    /// [`HeadsError::Model`](crate::apb::heads::HeadsError::Model) when the model's files cannot be opened.
    pub fn check_model(&self, source: &ModelSource) -> Result<(), CompressorError> {
        match self {
            Self::Retaining(file) => Ok(file.check_model(source)?),
            _ => Ok(()),
        }
    }

    /// Loads it; none where the method has none.
    ///
    /// # Errors
    ///
    /// [`CompressorError::Heads`] when the weights cannot be read.
    pub fn load(
        &self,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<Option<Arc<dyn Compressor>>, CompressorError> {
        Ok(Some(match self {
            Self::None => return Ok(None),
            Self::Retaining(file) => Arc::new(file.load(dtype, device)?),
            Self::QueryAware => Arc::new(QueryAware),
            Self::Random { seed } => Arc::new(Random::new(*seed)),
            Self::Custom(compressor) => compressor.clone(),
        }))
    }
}

/// Opens and loads the compressor of a plan; none where its method has none.
///
/// # Errors
///
/// [`CompressorError`] when the retaining heads cannot be used, or a custom compressor was not given.
pub fn load(
    plan: &PrefillPlan,
    model: impl Into<AttentionShape>,
    dtype: FloatDType,
    device: &Device,
) -> Result<Option<Arc<dyn Compressor>>, CompressorError> {
    CompressorSource::open(plan, model)?.load(dtype, device)
}
