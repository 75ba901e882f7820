//! APB (arXiv 2502.12085): score, select, exchange, attend.

use burn::tensor::Tensor;

use super::regions::{Begun, attend_block, begin_block, finish_block};
use super::{AnchorHeads, LayerClock, MethodAttention, RankHeads};
use crate::apb::compressor::{AnchorContext, Compressor, ScoreInput, checked_scores};
use crate::apb::error::SessionError;
use crate::apb::layout::RankRows;
use crate::apb::observer::Part;
use crate::apb::passing::Selection;
use crate::apb::plan::PrefillPlan;
use crate::model::Projections;
use crate::ranks::{PendingGather, RankGroup};

pub(super) struct Apb<'a> {
    plan: &'a PrefillPlan,
    /// What the compressor read from the anchor's rows in this layer.
    anchor: Option<AnchorContext>,
    /// Packed passing blocks of this process's ranks in this layer.
    blocks: Vec<Tensor<4>>,
    pending: Option<PendingGather>,
}

impl<'a> Apb<'a> {
    pub(super) fn new(plan: &'a PrefillPlan) -> Self {
        Self {
            plan,
            anchor: None,
            blocks: Vec::new(),
            pending: None,
        }
    }

    /// Raw scores `[batch, kv_heads, rows]` of a rank's local rows, and those of the anchor's last rows,
    /// which are pooled with them.
    fn score(
        &mut self,
        layer: usize,
        rows: &RankRows,
        local: &Projections,
        compressor: &dyn Compressor,
    ) -> Result<(Tensor<3>, Option<Tensor<3>>), SessionError> {
        // Rank 0's rows follow no anchor: nothing is pooled with them from before.
        let anchor = self
            .anchor
            .as_ref()
            .filter(|_| rows.sees_anchor || compressor.reads_anchor_everywhere());
        let input = ScoreInput {
            layer,
            rank: rows.rank,
            projections: local,
            anchor,
        };
        let scores = checked_scores(compressor, input)?;
        Ok((scores, anchor.and_then(|anchor| anchor.before.clone())))
    }

    /// The last rank's block is not used; it sends zeros, so that all ranks send the same shape.
    fn empty_block(&self, projections: &Projections) -> Tensor<4> {
        let [batch, kv_heads, _, head_dim] = projections.key.dims();
        let shape = [2 * batch, kv_heads, self.plan.passing, head_dim];
        Tensor::zeros(shape, (&projections.key.device(), projections.key.dtype()))
    }
}

impl MethodAttention for Apb<'_> {
    fn select(
        &mut self,
        layer: usize,
        rows: &RankRows,
        projections: &Projections,
        compressor: Option<&dyn Compressor>,
    ) -> Result<Option<Selection>, SessionError> {
        if self.plan.passing == 0 {
            return Ok(None);
        }
        let compressor = compressor.ok_or(SessionError::NoCompressor)?;
        if rows.anchor > 0 {
            let anchor = projections.rows(0..rows.anchor)?;
            let query = self.plan.anchor_query.clone();
            self.anchor = Some(compressor.read_anchor(layer, &anchor, query)?);
        }
        let local = projections.rows(rows.anchor..rows.len())?;
        if rows.rank + 1 == self.plan.ranks {
            self.blocks.push(self.empty_block(&local));
            return Ok(None);
        }
        let (scores, before) = self.score(layer, rows, &local, compressor)?;
        let start = rows.rank * self.plan.block();
        let selectable = self.plan.selectable(rows.rank);
        let selectable = selectable.start - start..selectable.end - start;
        let selection = Selection::highest(scores, before, selectable, self.plan.passing)?;
        self.blocks.push(selection.gather(local.key, local.value)?);
        Ok(Some(selection))
    }

    fn exchange(&mut self, group: &mut RankGroup) -> Result<(), SessionError> {
        self.anchor = None;
        if self.plan.passing > 0 {
            let blocks = std::mem::take(&mut self.blocks);
            self.pending = Some(group.start_all_gather(blocks)?);
        }
        Ok(())
    }

    fn attend(
        &mut self,
        ranks: &[RankHeads<'_>],
        anchor: Option<AnchorHeads>,
        group: &mut RankGroup,
        clock: &mut LayerClock,
    ) -> Result<Vec<Tensor<3>>, SessionError> {
        let pending = self.pending.take();
        let mut begun: Vec<Option<Begun>> = ranks.iter().map(|_| None).collect();
        // Passing blocks travel while anchor and local keys are attended to. Where nothing travels, one attention costs
        // less than two.
        if pending.is_some() && group.processes() > 1 {
            for (rank, begun) in ranks.iter().zip(&mut begun) {
                *begun = Some(begin_block(rank, anchor.as_ref())?);
                clock.mark(Part::Attention, Some(rank.rows.rank))?;
            }
        }
        let blocks = match pending {
            Some(pending) => group.finish_all_gather(pending)?,
            None => Vec::new(),
        };
        clock.mark(Part::Exchange, None)?;
        let attended = ranks.iter().zip(begun).map(|(rank, begun)| {
            let earlier = &blocks[..rank.rows.rank.min(blocks.len())];
            let attended = match begun {
                Some(begun) => finish_block(rank, begun, earlier)?,
                None => attend_block(rank, anchor.as_ref(), earlier)?,
            };
            clock.mark(Part::Attention, Some(rank.rows.rank))?;
            Ok(attended)
        });
        attended.collect()
    }
}
