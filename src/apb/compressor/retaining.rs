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
        // Scores are pooled along [anchor | local]: only the anchor's last rows reach the local ones.
        let rows = anchor.query_flat.dims()[1];
        let last = anchor.rows(rows.saturating_sub(POOL / 2)..rows);
        let (query, key, value) = (last.query_flat, last.key_flat, last.value_flat);
        Ok(AnchorContext {
            before: Some(self.layer(layer)?.score(query, key, value)?),
            query: None,
        })
    }

    fn score(&self, input: ScoreInput<'_>) -> Result<Tensor<3>, KernelError> {
        let rows = input.projections;
        self.layer(input.layer)?.score(
            rows.query_flat.clone(),
            rows.key_flat.clone(),
            rows.value_flat.clone(),
        )
    }
}
