//! Full attention: one rank, every row sees all before it.

use burn::tensor::Tensor;

use super::{AnchorHeads, RankHeads, Strategy};
use crate::apb::error::SessionError;
use crate::kernels::{Regions, attention};
use crate::model::Attention;
use crate::ranks::RankGroup;

pub(super) struct Full;

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
                Ok(Attention::join_heads(attended.out))
            })
            .collect()
    }
}
