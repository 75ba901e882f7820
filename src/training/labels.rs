//! Labels of the rows of a document: the attention that the answer's rows pay to them.

use std::ops::Range;

use burn::tensor::activation::softmax;
use burn::tensor::{DType, Int, Tensor};

use crate::model::Projections;

/// Rows of the answer whose logits exist at once.
const ANSWER_TILE: usize = 32;

/// Labels of the rows of a document in one layer, from the attention of an answer's rows.
#[derive(Debug, Clone)]
pub struct Labels {
    /// The highest attention logit of a row over the answer's rows and the query heads of the group:
    /// `max q . k / sqrt(head_dim)`, after RoPE. `[batch, kv_heads, scored]`, f32.
    pub logits: Tensor<3>,
    /// The attention weight of a row after the softmax over all visible rows, mean over the answer's
    /// rows and the group's heads. `[batch, kv_heads, scored]`, f32.
    pub mass: Tensor<3>,
}

impl Labels {
    /// Computes the labels from one layer's projections of a whole sample.
    ///
    /// `answer` ends where the sample ends. Logits exist for a tile of the answer's rows at a time,
    /// never for all rows against all.
    ///
    /// # Shapes
    ///
    /// [`Projections`] of `[batch, rows, ..]` with `scored.end <= answer.start`.
    pub(super) fn new(
        projections: &Projections,
        scored: &Range<usize>,
        answer: &Range<usize>,
    ) -> Self {
        let [batch, heads, _, head_dim] = projections.query.dims();
        let [_, kv_heads, rows, _] = projections.key.dims();
        let group = heads / kv_heads;
        let device = projections.key.device();
        let keys = projections.key.clone().cast(DType::F32).swap_dims(2, 3);
        let positions = Tensor::<1, Int>::arange(0..rows as i64, &device).reshape([1, 1, 1, rows]);
        let mut logits: Option<Tensor<3>> = None;
        let mut mass: Option<Tensor<3>> = None;
        let mut start = answer.start;
        while start < answer.end {
            let end = (start + ANSWER_TILE).min(answer.end);
            let tile = end - start;
            // The heads of a group lie together.
            let queries = projections
                .query
                .clone()
                .narrow(2, start, tile)
                .cast(DType::F32)
                .reshape([batch, kv_heads, group * tile, head_dim]);
            let scores = queries.matmul(keys.clone()) / (head_dim as f64).sqrt();
            let highest = scores
                .clone()
                .narrow(3, scored.start, scored.len())
                .max_dim(2)
                .reshape([batch, kv_heads, scored.len()]);
            logits = Some(match logits {
                Some(so_far) => so_far.max_pair(highest),
                None => highest,
            });
            let own = Tensor::<1, Int>::arange(start as i64..end as i64, &device)
                .reshape([1, 1, tile, 1]);
            let later = positions.clone().greater(own);
            let visible = scores
                .reshape([batch * kv_heads, group, tile, rows])
                .mask_fill(
                    later.expand([batch * kv_heads, group, tile, rows]),
                    f32::NEG_INFINITY,
                );
            let weights = softmax(visible, 3)
                .narrow(3, scored.start, scored.len())
                .sum_dim(2)
                .sum_dim(1)
                .reshape([batch, kv_heads, scored.len()]);
            mass = Some(match mass {
                Some(so_far) => so_far + weights,
                None => weights,
            });
            start = end;
        }
        let zeros = || Tensor::zeros([batch, kv_heads, scored.len()], &device);
        let count = (group * answer.len()).max(1) as f64;
        Self {
            logits: logits.unwrap_or_else(zeros),
            mass: mass.unwrap_or_else(zeros) / count,
        }
    }
}
