//! Full attention: one rank, every row sees all before it.

use burn::tensor::Tensor;

use super::{AnchorHeads, RankClock, RankHeads, Strategy};
use crate::apb::error::SessionError;
use crate::kernels::{Regions, attention};
use crate::model::Attention;
use crate::ranks::RankGroup;

#[derive(Default)]
pub(super) struct Full {
    clock: RankClock,
}

impl Strategy for Full {
    fn attend(
        &mut self,
        ranks: &[RankHeads<'_>],
        _anchor: Option<AnchorHeads>,
        _group: &mut RankGroup,
    ) -> Result<Vec<Tensor<3>>, SessionError> {
        ranks
            .iter()
            .map(|rank| {
                let (query, key) = (rank.query.clone(), rank.key.clone());
                let attended = attention(query, key, rank.value.clone(), Regions::causal())?;
                let joined = Attention::join_heads(attended.out);
                self.clock.attended()?;
                Ok(joined)
            })
            .collect()
    }

    fn clock(&mut self) -> Option<&mut RankClock> {
        Some(&mut self.clock)
    }
}
