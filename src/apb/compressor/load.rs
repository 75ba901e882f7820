//! The compressor that a plan names.

use burn::tensor::{Device, FloatDType};

use super::{Compressor, QueryAware, Random};
use crate::apb::config::{CompressorConfig, Method};
use crate::apb::heads::{HeadsError, HeadsFile, RetainingHeads};
use crate::apb::plan::PrefillPlan;
use crate::checkpoint::source::ModelSource;
use crate::model::DecoderConfig;

/// Checks the compressor of a plan against a model, without reading weights.
///
/// # Errors
///
/// [`HeadsError`] when the retaining heads are another model's, or no heads at all.
pub fn inspect(plan: &PrefillPlan, model: &DecoderConfig) -> Result<(), HeadsError> {
    match (&plan.method, &plan.compressor) {
        (Method::Apb, CompressorConfig::Retaining { heads }) => {
            HeadsFile::open(heads, model).map(|_| ())
        }
        _ => Ok(()),
    }
}

/// [`inspect`], and refuses heads that name another model than the one in `source`.
///
/// # Errors
///
/// [`HeadsError`] as [`inspect`], or when the heads name another model.
pub fn check_model(
    plan: &PrefillPlan,
    model: &DecoderConfig,
    source: &ModelSource,
) -> Result<(), HeadsError> {
    match (&plan.method, &plan.compressor) {
        (Method::Apb, CompressorConfig::Retaining { heads }) => {
            HeadsFile::open(heads, model)?.check_model(source)
        }
        _ => Ok(()),
    }
}

/// The compressor of a plan; none where its method has none.
///
/// # Errors
///
/// [`HeadsError`] when the retaining heads cannot be used.
pub fn load(
    plan: &PrefillPlan,
    model: &DecoderConfig,
    dtype: FloatDType,
    device: &Device,
) -> Result<Option<Box<dyn Compressor>>, HeadsError> {
    if plan.method != Method::Apb {
        return Ok(None);
    }
    Ok(Some(match &plan.compressor {
        CompressorConfig::Retaining { heads } => {
            Box::new(RetainingHeads::load(heads, model, dtype, device)?)
        }
        CompressorConfig::QueryAware => Box::new(QueryAware),
        CompressorConfig::Random { seed } => Box::new(Random::new(*seed)),
    }))
}
