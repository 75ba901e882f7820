//! The interface of a compressor.

use std::fmt;
use std::ops::Range;

use burn::tensor::Tensor;

use crate::kernels::KernelError;
use crate::model::Projections;

/// What the anchor's rows contribute to the scores of every rank in one layer.
#[derive(Debug, Clone, Default)]
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
///
/// A compressor of your own is given by
/// [`PrefillConfig::with_custom_compressor`](crate::apb::PrefillConfig::with_custom_compressor):
///
/// ```
/// use std::sync::Arc;
///
/// use burn::tensor::{DType, Tensor};
/// use burn_apb::apb::compressor::{Compressor, ScoreInput};
/// use burn_apb::apb::{Method, PrefillConfig};
/// use burn_apb::kernels::KernelError;
///
/// /// Keeps the rows with the longest keys.
/// #[derive(Debug)]
/// struct LongKeys;
///
/// impl Compressor for LongKeys {
///     fn name(&self) -> &str {
///         "long-keys"
///     }
///
///     fn score(&self, input: ScoreInput<'_>) -> Result<Tensor<3>, KernelError> {
///         let key = input.projections.key.clone().cast(DType::F32);
///         let [batch, kv_heads, rows, _] = key.dims();
///         Ok(key.powf_scalar(2.0).sum_dim(3).reshape([batch, kv_heads, rows]))
///     }
/// }
///
/// let config = PrefillConfig::new(Method::Apb, 4).with_custom_compressor(Arc::new(LongKeys));
/// assert_eq!(config.compressor.name(), "long-keys");
/// ```
pub trait Compressor: fmt::Debug + Send + Sync {
    /// The name used on the command line, in results, plans and saved sessions.
    fn name(&self) -> &str;

    /// Whether scores depend on the anchor's rows on every rank, rank 0 included, whose own rows do
    /// not attend to them.
    fn reads_anchor_everywhere(&self) -> bool {
        false
    }

    /// Reads the anchor's rows of a layer, `query` being those that hold the anchor's query. Reads
    /// nothing by default.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the projections do not fit the compressor.
    fn read_anchor(
        &self,
        _layer: usize,
        _anchor: &Projections,
        _query: Range<usize>,
    ) -> Result<AnchorContext, KernelError> {
        Ok(AnchorContext::default())
    }

    /// Raw scores `[batch, kv_heads, rows]`, f32; higher is kept.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the projections do not fit the compressor.
    fn score(&self, input: ScoreInput<'_>) -> Result<Tensor<3>, KernelError>;
}

/// The scores of a compressor, where there is one for each row and KV head.
pub(crate) fn checked_scores(
    compressor: &dyn Compressor,
    input: ScoreInput<'_>,
) -> Result<Tensor<3>, KernelError> {
    let [batch, kv_heads, rows, _] = input.projections.key.dims();
    let scores = compressor.score(input)?;
    if scores.dims() == [batch, kv_heads, rows] {
        return Ok(scores);
    }
    Err(KernelError::Shape {
        operation: "compressor",
        argument: "scores",
        expected: format!("[{batch}, {kv_heads}, {rows}] from `{}`", compressor.name()),
        found: scores.dims().to_vec(),
    })
}
