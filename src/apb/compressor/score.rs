//! The interface of a compressor.

use std::fmt;
use std::ops::Range;

use burn::tensor::Tensor;

use crate::kernels::KernelError;
use crate::model::Projections;

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
