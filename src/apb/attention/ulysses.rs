//! DeepSpeed-Ulysses (arXiv 2309.14509): from a share of the rows and all heads to all rows and a
//! share of the heads, and back.

use burn::tensor::{DType, Int, Tensor, TensorData};

use super::{AnchorHeads, LayerClock, MethodAttention, RankHeads};
use crate::apb::error::SessionError;
use crate::apb::observer::Part;
use crate::apb::plan::PrefillPlan;
use crate::kernels::{KernelError, Regions, attention};
use crate::model::join_heads;
use crate::ranks::RankGroup;

pub(super) struct Ulysses<'a> {
    plan: &'a PrefillPlan,
}

/// The heads that one rank attends for.
struct HeadShare {
    /// Query heads of each rank.
    heads: usize,
    /// KV heads of each rank, some of them perhaps the same head.
    kv_heads: usize,
    group: usize,
}

impl HeadShare {
    fn new(heads: usize, kv_heads: usize, ranks: usize) -> Self {
        let group = heads / kv_heads;
        let heads = heads / ranks;
        let kv_heads = if heads.is_multiple_of(group) {
            heads / group
        } else if group.is_multiple_of(heads) {
            1
        } else {
            // A share that begins or ends inside a group: each query head brings its own KV head.
            heads
        };
        Self {
            heads,
            kv_heads,
            group,
        }
    }

    /// The KV head behind each of the rank's own.
    fn kv_heads_of(&self, rank: usize) -> impl Iterator<Item = usize> + '_ {
        let first = rank * self.heads;
        let step = self.heads / self.kv_heads;
        (0..self.kv_heads).map(move |i| (first + i * step) / self.group)
    }
}

/// Query heads and KV heads that each of `ranks` ranks attends for.
pub(crate) fn ulysses_share(heads: usize, kv_heads: usize, ranks: usize) -> (usize, usize) {
    let share = HeadShare::new(heads.max(1), kv_heads.clamp(1, heads.max(1)), ranks.max(1));
    (share.heads, share.kv_heads)
}

impl<'a> Ulysses<'a> {
    pub(super) fn new(plan: &'a PrefillPlan) -> Self {
        Self { plan }
    }

    /// What a rank sends to each rank: its rows of that rank's heads, `[batch, q + k + v, rows, head_dim]`.
    fn outgoing(
        &self,
        rank: &RankHeads<'_>,
        share: &HeadShare,
    ) -> Result<Vec<Tensor<4>>, KernelError> {
        let (keys, values) = rank.floats()?;
        let select = |tensor: &Tensor<4>, heads: Vec<usize>| {
            let heads: Vec<i32> = heads.into_iter().map(|head| head as i32).collect();
            let count = heads.len();
            let heads = Tensor::<1, Int>::from_data(
                TensorData::new(heads, [count]),
                (&tensor.device(), DType::I32),
            );
            tensor.clone().select(1, heads)
        };
        let blocks = (0..self.plan.ranks)
            .map(|to| {
                let [batch, _, rows, head_dim] = rank.query.dims();
                let heads = to * share.heads..(to + 1) * share.heads;
                let query = rank
                    .query
                    .clone()
                    .slice([0..batch, heads, 0..rows, 0..head_dim]);
                let kv_heads: Vec<usize> = share.kv_heads_of(to).collect();
                // In one tensor with the queries, whose dtype rows of a cache need not have.
                let dtype = query.dtype();
                let key = select(&keys, kv_heads.clone()).cast(dtype);
                let value = select(&values, kv_heads).cast(dtype);
                Tensor::cat(vec![query, key, value], 1)
            })
            .collect();
        Ok(blocks)
    }
}

impl MethodAttention for Ulysses<'_> {
    fn attend(
        &mut self,
        ranks: &[RankHeads<'_>],
        _anchor: Option<AnchorHeads>,
        group: &mut RankGroup,
        clock: &mut LayerClock,
    ) -> Result<Vec<Tensor<3>>, SessionError> {
        let Some(first) = ranks.first() else {
            return Ok(Vec::new());
        };
        let [batch, heads, _, head_dim] = first.query.dims();
        let share = HeadShare::new(heads, first.cached.kv_heads(), self.plan.ranks);
        let width = share.heads + 2 * share.kv_heads;

        let mut by_rows = Vec::with_capacity(ranks.len());
        for rank in ranks {
            by_rows.push(self.outgoing(rank, &share)?);
            clock.mark(Part::Attention, Some(rank.rows.rank))?;
        }
        let by_heads = group.all_to_all(by_rows, |from, _| {
            [batch, width, self.plan.owned_len(from), head_dim]
        })?;

        clock.mark(Part::Exchange, None)?;

        let mut attended = Vec::with_capacity(ranks.len());
        for (rank, blocks) in ranks.iter().zip(by_heads) {
            clock.poll()?;
            let all = Tensor::cat(blocks, 2);
            let tokens = all.dims()[2];
            let part = |from: usize, heads: usize| {
                all.clone()
                    .slice([0..batch, from..from + heads, 0..tokens, 0..head_dim])
            };
            let key = part(share.heads, share.kv_heads);
            let value = part(share.heads + share.kv_heads, share.kv_heads);
            let out = attention(part(0, share.heads), key, value, Regions::causal())?.out;
            let pieces = (0..self.plan.ranks).map(|to| {
                let rows = self.plan.owned(to).remove(0);
                out.clone()
                    .slice([0..batch, 0..share.heads, rows, 0..head_dim])
            });
            attended.push(pieces.collect());
            clock.mark(Part::Attention, Some(rank.rows.rank))?;
        }
        let back = group.all_to_all(attended, |_, to| {
            [batch, share.heads, self.plan.owned_len(to), head_dim]
        })?;
        clock.mark(Part::Exchange, None)?;
        let joined = ranks.iter().zip(back).map(|(rank, heads)| {
            let joined = join_heads(Tensor::cat(heads, 1));
            clock.mark(Part::Attention, Some(rank.rows.rank))?;
            Ok(joined)
        });
        joined.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_query_head_meets_its_own_kv_head() {
        for (heads, kv_heads) in [(9, 3), (12, 6), (8, 8), (16, 1), (12, 4), (32, 8)] {
            for ranks in (1..=heads).filter(|ranks| heads % ranks == 0) {
                let share = HeadShare::new(heads, kv_heads, ranks);
                for rank in 0..ranks {
                    let kv: Vec<usize> = share.kv_heads_of(rank).collect();
                    let group = share.heads / share.kv_heads;
                    for i in 0..share.heads {
                        let head = rank * share.heads + i;
                        assert_eq!(kv[i / group], head / (heads / kv_heads), "{ranks} {head}");
                    }
                }
            }
        }
    }
}
