//! Full attention: one rank, every row attends to all before it.

use std::ops::Range;

use burn::tensor::Tensor;

use super::{AnchorHeads, LayerClock, MethodAttention, RankHeads};
use crate::apb::error::SessionError;
use crate::apb::layout::{AnchorSource, Layout, RankRows};
use crate::apb::observer::Part;
use crate::kernels::Regions;
use crate::model::join_heads;
use crate::ranks::RankGroup;

pub(super) struct Full;

/// Rows need nothing of later rows: `chunk` of them at a time go through all layers, so that only a
/// chunk's activations are held.
pub(super) fn passes(tokens: usize, chunk: usize) -> Vec<Layout> {
    let chunk = chunk.max(1);
    let pass = |start: usize| {
        let local: Range<usize> = start..start.saturating_add(chunk).min(tokens);
        Layout {
            tokens: local.len(),
            ranks: vec![RankRows {
                rank: 0,
                anchor: 0,
                sees_anchor: false,
                cached: 0..local.end,
                local: std::iter::once(local).collect(),
            }],
            anchor: AnchorSource::None,
        }
    };
    (0..tokens).step_by(chunk).map(pass).collect()
}

impl MethodAttention for Full {
    fn attend(
        &mut self,
        ranks: &[RankHeads<'_>],
        _anchor: Option<AnchorHeads>,
        _group: &mut RankGroup,
        clock: &mut LayerClock,
    ) -> Result<Vec<Tensor<3>>, SessionError> {
        let attended = ranks.iter().map(|rank| {
            let (query, cached) = (rank.query.clone(), rank.cached.clone());
            let attended = cached.attend(query, Regions::causal())?;
            clock.mark(Part::Attention, Some(rank.rows.rank))?;
            Ok(join_heads(attended.out))
        });
        attended.collect()
    }
}
