//! Star Attention (arXiv 2411.17116): every rank attends to the first block and its own.

use burn::tensor::Tensor;

use super::regions::attend_block;
use super::{AnchorHeads, LayerClock, MethodAttention, RankHeads};
use crate::apb::error::SessionError;
use crate::apb::observer::Part;
use crate::ranks::RankGroup;

pub(super) struct Star;

impl MethodAttention for Star {
    fn attend(
        &mut self,
        ranks: &[RankHeads<'_>],
        anchor: Option<AnchorHeads>,
        _group: &mut RankGroup,
        clock: &mut LayerClock,
    ) -> Result<Vec<Tensor<3>>, SessionError> {
        let attended = ranks.iter().map(|rank| {
            let attended = attend_block(rank, anchor.as_ref(), &[])?;
            clock.mark(Part::Attention, Some(rank.rows.rank))?;
            Ok(attended)
        });
        attended.collect()
    }
}
