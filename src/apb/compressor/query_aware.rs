//! Scores from the anchor's query, without training (after Spava, arXiv 2601.21444).

use std::ops::Range;

use burn::tensor::Tensor;

use super::{AnchorContext, Compressor, ScoreInput};
use crate::kernels::{KernelError, mean_rows, query_scores};
use crate::model::Projections;

/// `score[t] = mean over the query's rows and the group's heads of q . k_t / sqrt(head_dim)`, after
/// RoPE: what the mean row of the anchor's query would pay to row `t` before the softmax.
///
/// The anchor stands at the document's start wherever the rank stands, so that the query's rows are
/// the same on all ranks.
#[derive(Debug, Clone, Copy, Default)]
pub struct QueryAware;

impl Compressor for QueryAware {
    fn name(&self) -> &'static str {
        "query-aware"
    }

    fn reads_anchor_everywhere(&self) -> bool {
        true
    }

    fn read_anchor(
        &self,
        _layer: usize,
        anchor: &Projections,
        query: Range<usize>,
    ) -> Result<AnchorContext, KernelError> {
        let [batch, heads, _, head_dim] = anchor.query.dims();
        let kv_heads = anchor.key.dims()[1];
        let rows = query.len();
        // The heads of a group lie together, so that a group's rows are one run of rows.
        let query = anchor
            .query
            .clone()
            .slice([0..batch, 0..heads, query, 0..head_dim])
            .reshape([batch, kv_heads, heads / kv_heads * rows, head_dim]);
        Ok(AnchorContext {
            before: None,
            query: Some(mean_rows(query)?),
        })
    }

    fn score(&self, input: ScoreInput<'_>) -> Result<Tensor<3>, KernelError> {
        let key = input.projections.key.clone();
        let [batch, kv_heads, _, head_dim] = key.dims();
        let mean = input.anchor.and_then(|anchor| anchor.query.clone());
        let mean = mean.ok_or_else(|| KernelError::Shape {
            operation: "query-aware score",
            argument: "anchor query",
            expected: format!("[{batch}, {kv_heads}, {head_dim}], read from the anchor's rows"),
            found: Vec::new(),
        })?;
        query_scores(key, mean, 1.0 / (head_dim as f64).sqrt())
    }
}
