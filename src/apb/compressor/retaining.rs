//! Scores learned beforehand, by retaining heads (Locret, <https://arxiv.org/abs/2410.01805>).

use std::ops::Range;

use burn::tensor::Tensor;

use super::{AnchorContext, Compressor, ScoreInput};
use crate::apb::heads::{RetainingHead, RetainingHeads};
use crate::apb::passing::POOL;
use crate::kernels::KernelError;
use crate::model::Projections;

impl RetainingHeads {
    fn layer(&self, layer: usize) -> Result<&RetainingHead, KernelError> {
        self.layers.get(layer).ok_or_else(|| KernelError::Shape {
            operation: "retaining head",
            argument: "layer",
            expected: format!("below {}", self.layers.len()),
            found: vec![layer],
        })
    }
}

impl RetainingHead {
    /// [`score`](RetainingHead::score) of projected rows.
    pub(crate) fn score_projections(&self, rows: &Projections) -> Result<Tensor<3>, KernelError> {
        let Projections {
            query_flat,
            key_flat,
            value_flat,
            ..
        } = rows.clone();
        self.score(query_flat, key_flat, value_flat)
    }

    /// Scores are pooled along `[anchor | local]`: of the anchor, only the last rows reach local ones.
    fn score_before(&self, anchor: &Projections) -> Result<AnchorContext, KernelError> {
        let rows = anchor.query_flat.dims()[1];
        let last = anchor.rows(rows.saturating_sub(POOL / 2)..rows)?;
        Ok(AnchorContext {
            before: Some(self.score_projections(&last)?),
            query: None,
        })
    }
}

/// The head of one layer, whichever layer is asked for.
impl Compressor for RetainingHead {
    fn name(&self) -> &'static str {
        "retaining"
    }

    fn read_anchor(
        &self,
        _layer: usize,
        anchor: &Projections,
        _query: Range<usize>,
    ) -> Result<AnchorContext, KernelError> {
        self.score_before(anchor)
    }

    fn score(&self, input: ScoreInput<'_>) -> Result<Tensor<3>, KernelError> {
        self.score_projections(input.projections)
    }
}

impl Compressor for RetainingHeads {
    fn name(&self) -> &'static str {
        "retaining"
    }

    fn read_anchor(
        &self,
        layer: usize,
        anchor: &Projections,
        _query: Range<usize>,
    ) -> Result<AnchorContext, KernelError> {
        self.layer(layer)?.score_before(anchor)
    }

    fn score(&self, input: ScoreInput<'_>) -> Result<Tensor<3>, KernelError> {
        self.layer(input.layer)?
            .score_projections(input.projections)
    }
}
