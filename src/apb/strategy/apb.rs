//! APB (arXiv 2502.12085): score, select, exchange, attend.

use burn::tensor::Tensor;

use super::blocks::attend_block;
use super::{AnchorHeads, RankClock, RankHeads, Strategy};
use crate::apb::compressor::{AnchorContext, Compressor, ScoreInput};
use crate::apb::error::SessionError;
use crate::apb::layout::RankRows;
use crate::apb::passing::Selection;
use crate::apb::plan::PrefillPlan;
use crate::model::Projections;
use crate::ranks::{PendingGather, RankGroup};

pub(super) struct Apb<'a> {
    plan: &'a PrefillPlan,
    compressor: &'a dyn Compressor,
    /// What the anchor's rows said in this layer.
    anchor: Option<AnchorContext>,
    /// Packed passing blocks of this process's ranks in this layer.
    blocks: Vec<Tensor<4>>,
    pending: Option<PendingGather>,
    clock: RankClock,
}

impl<'a> Apb<'a> {
    pub(super) fn new(plan: &'a PrefillPlan, compressor: &'a dyn Compressor) -> Self {
        Self {
            plan,
            compressor,
            anchor: None,
            blocks: Vec::new(),
            pending: None,
            clock: RankClock::default(),
        }
    }

    /// The last rank's block is needed by nobody; it sends zeros, so that all send alike.
    fn nothing_to_pass(&self, projections: &Projections) -> Tensor<4> {
        let [batch, kv_heads, _, head_dim] = projections.key.dims();
        let shape = [2 * batch, kv_heads, self.plan.passing, head_dim];
        Tensor::zeros(shape, (&projections.key.device(), projections.key.dtype()))
    }
}

impl Strategy for Apb<'_> {
    fn observe(
        &mut self,
        layer: usize,
        rows: &RankRows,
        projections: &Projections,
    ) -> Result<Option<Selection>, SessionError> {
        if self.plan.passing == 0 {
            return Ok(None);
        }
        if rows.anchor > 0 {
            let anchor = projections.rows(0..rows.anchor);
            let query = self.plan.anchor_query.clone();
            self.anchor = Some(self.compressor.read_anchor(layer, &anchor, query)?);
        }
        let local = projections.rows(rows.anchor..rows.len());
        if rows.rank + 1 == self.plan.ranks {
            self.blocks.push(self.nothing_to_pass(&local));
            return Ok(None);
        }
        // Rank 0's rows follow no anchor: nothing is pooled with them from before.
        let anchor = self
            .anchor
            .as_ref()
            .filter(|_| rows.sees_anchor || self.compressor.reads_anchor_everywhere());
        let scores = self.compressor.score(ScoreInput {
            layer,
            rank: rows.rank,
            projections: &local,
            anchor,
        })?;
        let start = rows.rank * self.plan.block();
        let selectable = self.plan.selectable(rows.rank);
        let selection = Selection::highest(
            scores,
            anchor.and_then(|anchor| anchor.before.clone()),
            selectable.start - start..selectable.end - start,
            self.plan.passing,
        )?;
        self.blocks.push(selection.gather(local.key, local.value)?);
        Ok(Some(selection))
    }

    fn start(&mut self, group: &mut RankGroup) -> Result<(), SessionError> {
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
    ) -> Result<Vec<Tensor<3>>, SessionError> {
        let blocks = match self.pending.take() {
            Some(pending) => group.finish_all_gather(pending)?,
            None => Vec::new(),
        };
        self.clock.exchanged()?;
        ranks
            .iter()
            .map(|rank| {
                let earlier = &blocks[..rank.rows.rank.min(blocks.len())];
                let attended = attend_block(rank, anchor.as_ref(), earlier)?;
                self.clock.attended()?;
                Ok(attended)
            })
            .collect()
    }

    fn clock(&mut self) -> Option<&mut RankClock> {
        Some(&mut self.clock)
    }
}
