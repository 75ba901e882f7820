//! Ring attention (arXiv 2310.01889): blocks of keys and values go round the ranks, each rank merges
//! what its rows give with every block.

use burn::tensor::{DType, Tensor};

use super::{AnchorHeads, LayerClock, MethodAttention, RankHeads};
use crate::apb::error::SessionError;
use crate::apb::observer::Part;
use crate::apb::passing::{pack, unpack};
use crate::apb::plan::PrefillPlan;
use crate::kernels::{AttentionOutput, KernelError, Regions, attention, merge};
use crate::model::join_heads;
use crate::ranks::RankGroup;

pub(super) struct Ring<'a> {
    plan: &'a PrefillPlan,
}

impl<'a> Ring<'a> {
    pub(super) fn new(plan: &'a PrefillPlan) -> Self {
        Self { plan }
    }

    /// Merges what `rank`'s chunks see of the block that `owner` computed.
    fn attend_to(
        &self,
        rank: &RankHeads<'_>,
        owner: usize,
        block: Tensor<4>,
        merged: &mut [Option<AttentionOutput>],
    ) -> Result<(), KernelError> {
        let (keys, values) = unpack(block);
        let [batch, kv_heads, _, head_dim] = keys.dims();
        let heads = rank.query.dims()[1];
        let owned = self.plan.owned(owner);
        let mut start = 0;
        for (chunk, merged) in rank.rows.local.iter().zip(merged) {
            let end = start + chunk.len();
            // A block's chunks stand in the document's order, so that what is visible is its head:
            // all that ends before this chunk, and in the rank's own block the chunk itself.
            let own = owner == rank.rows.rank;
            let visible: usize = owned
                .iter()
                .filter(|seen| match own {
                    true => seen.start <= chunk.start,
                    false => seen.end <= chunk.start,
                })
                .map(ExactSizeIterator::len)
                .sum();
            if visible > 0 {
                let head = |tensor: &Tensor<4>| {
                    tensor
                        .clone()
                        .slice([0..batch, 0..kv_heads, 0..visible, 0..head_dim])
                };
                let query = rank
                    .query
                    .clone()
                    .slice([0..batch, 0..heads, start..end, 0..head_dim]);
                let regions = if own {
                    Regions::causal()
                } else {
                    Regions::full()
                };
                let part = attention(query, head(&keys), head(&values), regions)?;
                *merged = Some(match merged.take() {
                    Some(before) => merge([before, part])?,
                    // Sums stay f32 until the last block has been seen.
                    None => AttentionOutput {
                        out: part.out.cast(DType::F32),
                        lse: part.lse,
                    },
                });
            }
            start = end;
        }
        Ok(())
    }
}

impl MethodAttention for Ring<'_> {
    fn attend(
        &mut self,
        ranks: &[RankHeads<'_>],
        _anchor: Option<AnchorHeads>,
        group: &mut RankGroup,
        clock: &mut LayerClock,
    ) -> Result<Vec<Tensor<3>>, SessionError> {
        let world = self.plan.ranks;
        let owner_at = |rank: usize, step: usize| (rank + world - step) % world;
        let mut held = Vec::with_capacity(ranks.len());
        for rank in ranks {
            let (key, value) = rank.floats()?;
            held.push(pack(key, value));
            clock.mark(Part::Attention, Some(rank.rows.rank))?;
        }
        let mut merged: Vec<Vec<Option<AttentionOutput>>> = ranks
            .iter()
            .map(|rank| rank.rows.local.iter().map(|_| None).collect())
            .collect();
        for step in 0..world {
            // The next blocks travel while this one is attended to.
            let next = match step + 1 < world {
                true => {
                    let [both, kv_heads, _, head_dim] = held[0].dims();
                    let incoming = |rank: usize| {
                        let rows = self.plan.owned_len(owner_at(rank, step + 1));
                        [both, kv_heads, rows, head_dim]
                    };
                    Some(group.start_shift(held.clone(), incoming)?)
                }
                false => None,
            };
            for ((rank, block), merged) in ranks.iter().zip(held).zip(&mut merged) {
                clock.poll()?;
                self.attend_to(rank, owner_at(rank.rows.rank, step), block, merged)?;
                clock.mark(Part::Attention, Some(rank.rows.rank))?;
            }
            held = match next {
                Some(next) => group.finish_shift(next)?,
                None => Vec::new(),
            };
            clock.mark(Part::Exchange, None)?;
        }
        let joined = merged.into_iter().zip(ranks).map(|(chunks, rank)| {
            let dtype = rank.query.dtype();
            let chunks = chunks.into_iter().flatten();
            let joined = chunks.map(|chunk| join_heads(chunk.out.cast(dtype)));
            let joined = Tensor::cat(joined.collect(), 1);
            clock.mark(Part::Attention, Some(rank.rows.rank))?;
            Ok(joined)
        });
        joined.collect()
    }
}
