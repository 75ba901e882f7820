//! Star Attention (arXiv 2411.17116): every rank sees the first block and its own.

use burn::tensor::Tensor;

use super::blocks::attend_block;
use super::{AnchorHeads, RankClock, RankHeads, Strategy};
use crate::apb::error::SessionError;
use crate::ranks::RankGroup;

#[derive(Default)]
pub(super) struct Star {
    clock: RankClock,
}

impl Strategy for Star {
    fn attend(
        &mut self,
        ranks: &[RankHeads<'_>],
        anchor: Option<AnchorHeads>,
        _group: &mut RankGroup,
    ) -> Result<Vec<Tensor<3>>, SessionError> {
        ranks
            .iter()
            .map(|rank| {
                let attended = attend_block(rank, anchor.as_ref(), &[])?;
                self.clock.attended()?;
                Ok(attended)
            })
            .collect()
    }

    fn clock(&mut self) -> Option<&mut RankClock> {
        Some(&mut self.clock)
    }
}
