//! What a compressor is asked, and which one a plan means.

use std::fmt;
use std::ops::Range;

use burn::tensor::{Device, FloatDType, Tensor};

use super::{HeadsError, QueryAware, Random, RetainingHeads};
use crate::apb::config::{CompressorConfig, Method};
use crate::apb::plan::PrefillPlan;
use crate::kernels::KernelError;
use crate::model::source::ModelSource;
use crate::model::{DecoderConfig, Projections};

/// What the anchor's rows contribute to the scores of every rank in one layer.
#[derive(Debug, Clone)]
pub struct AnchorContext {
    /// Raw scores `[batch, kv_heads, rows]`, f32, of the anchor's last rows, which stand just before
    /// a rank's own and are pooled with them; none: the local rows are pooled alone.
    pub before: Option<Tensor<3>>,
    /// What the compressor itself remembers of the anchor, `[batch, kv_heads, head_dim]`.
    pub query: Option<Tensor<3>>,
}

/// The rows to be scored.
#[derive(Debug, Clone, Copy)]
pub struct ScoreInput<'a> {
    /// The layer, from 0.
    pub layer: usize,
    /// The rank whose rows they are.
    pub rank: usize,
    /// Their projections.
    pub projections: &'a Projections,
    /// What the anchor contributes; none on a rank without one.
    pub anchor: Option<&'a AnchorContext>,
}

/// Gives one score per row and KV head.
pub trait Compressor: fmt::Debug + Send + Sync {
    /// The name used on the command line and in results.
    fn name(&self) -> &'static str;

    /// Whether scores depend on the anchor's rows on every rank, rank 0 included, whose own rows do
    /// not attend to them.
    fn reads_anchor_everywhere(&self) -> bool {
        false
    }

    /// Reads the anchor's rows of a layer, `query` being those that hold the anchor's query.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the projections do not fit the compressor.
    fn read_anchor(
        &self,
        layer: usize,
        anchor: &Projections,
        query: Range<usize>,
    ) -> Result<AnchorContext, KernelError>;

    /// Raw scores `[batch, kv_heads, rows]`, f32; higher is kept.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the projections do not fit the compressor.
    fn score(&self, input: ScoreInput<'_>) -> Result<Tensor<3>, KernelError>;
}

/// Checks the compressor of a plan against a model, without reading weights.
///
/// # Errors
///
/// [`HeadsError`] when the retaining heads are another model's, or no heads at all.
pub fn inspect(plan: &PrefillPlan, model: &DecoderConfig) -> Result<(), HeadsError> {
    match (&plan.method, &plan.compressor) {
        (Method::Apb, CompressorConfig::Retaining { heads }) => {
            RetainingHeads::inspect(heads, model).map(|_| ())
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
            RetainingHeads::inspect(heads, model)?.check_model(heads, source)
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
