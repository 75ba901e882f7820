//! One pass over the layers of a prefill.

use burn::tensor::{Device, Tensor};

use super::clock::{LayerClock, PartTime};
use super::{AnchorHeads, MethodAttention, RankHeads, method};
use crate::apb::cancel::CancelToken;
use crate::apb::compressor::Compressor;
use crate::apb::error::SessionError;
use crate::apb::layout::{AnchorSource, Layout};
use crate::apb::observer::Part;
use crate::apb::passing::Selection;
use crate::apb::plan::PrefillPlan;
use crate::kernels::on_workers;
use crate::model::{ForwardError, KvCache, LayerAttention, LayerStep, Projections};
use crate::ranks::RankGroup;

/// A pass of all rows of a [`Layout`] over the layers: the attention of the plan's method.
///
/// In each layer the projections of every rank are [`push`](Self::push)ed, ranks in order: rows are
/// scored and selected, local keys and values are appended to the cache, queries are held. Then
/// [`attend`](Self::attend) exchanges and attends. What a layer holds beyond that is its exchange.
pub struct PrefillPass<'a> {
    layout: &'a Layout,
    compressor: Option<&'a dyn Compressor>,
    method: Box<dyn MethodAttention + 'a>,
    /// Of the plan.
    ranks: usize,
    group: &'a mut RankGroup,
    cache: &'a mut KvCache,
    tile: usize,
    /// The layer after whose keys and values the pass ends.
    last: Option<usize>,
    clock: LayerClock,
    queries: Vec<Tensor<4>>,
    anchor: Option<AnchorHeads>,
    /// What ranks selected in this layer.
    selected: Vec<(usize, Selection)>,
    /// The joined heads of the first layer.
    attended: Vec<Tensor<3>>,
}

impl<'a> PrefillPass<'a> {
    /// A pass of `layout`, one of the [`passes`](super::passes) of `plan`. `compressor` scores the rows
    /// of APB, where the attention modules have no retaining heads of their own.
    pub fn new(
        plan: &'a PrefillPlan,
        layout: &'a Layout,
        compressor: Option<&'a dyn Compressor>,
        group: &'a mut RankGroup,
        cache: &'a mut KvCache,
    ) -> Self {
        Self {
            layout,
            compressor,
            method: method(plan),
            ranks: plan.ranks,
            group,
            cache,
            tile: usize::MAX,
            last: None,
            clock: LayerClock::default(),
            queries: Vec::new(),
            anchor: None,
            selected: Vec::new(),
            attended: Vec::new(),
        }
    }

    /// The same with the MLP in tiles of `rows` rows.
    pub fn with_tile(mut self, rows: usize) -> Self {
        self.tile = rows;
        self
    }

    /// The same, ended once `layer` has its keys and values: nothing else of the last layer is needed
    /// to answer questions.
    pub fn ended_at(mut self, layer: usize) -> Self {
        self.last = Some(layer);
        self
    }

    /// The same with times measured.
    pub(crate) fn timed(mut self, device: &Device) -> Self {
        self.clock.start(device);
        self
    }

    /// The same, ended with [`SessionError::Cancelled`] once `token` is cancelled.
    pub fn with_cancel(mut self, token: CancelToken) -> Self {
        self.clock.cancelled_by(token);
        self
    }

    /// What the observer is given of a layer that is done.
    pub(crate) fn take_results(&mut self) -> LayerResults {
        LayerResults {
            selected: std::mem::take(&mut self.selected),
            attended: std::mem::take(&mut self.attended),
            times: self.clock.take(),
        }
    }

    /// Refuses rows of more or fewer ranks than the layout has.
    fn same_ranks(&self, found: usize) -> Result<(), SessionError> {
        SessionError::same("ranks of this process", self.layout.ranks.len(), found)
    }

    /// [`push`](LayerAttention::push) with scores of another compressor.
    ///
    /// # Errors
    ///
    /// [`SessionError`] when scoring fails, APB has no compressor, or the rows do not fit the cache.
    pub fn push_scored(
        &mut self,
        layer: usize,
        index: usize,
        projections: Projections,
        compressor: Option<&dyn Compressor>,
    ) -> Result<(), SessionError> {
        self.group.at_layer(Some(layer));
        let Some(rows) = self.layout.ranks.get(index) else {
            return self.same_ranks(index.saturating_add(1));
        };
        if self.last != Some(layer) {
            let selection = self.method.select(layer, rows, &projections, compressor)?;
            self.selected
                .extend(selection.map(|selection| (rows.rank, selection)));
            self.clock.mark(Part::Selection, Some(rows.rank))?;
        }
        let local = projections.rows(rows.anchor..rows.len())?;
        let appended = self.cache.append(layer, local.key, local.value);
        appended.map_err(ForwardError::from)?;
        if self.layout.anchor == AnchorSource::Rows(index) {
            let rows = projections.rows(0..rows.anchor)?;
            self.anchor = Some(AnchorHeads {
                key: rows.key,
                value: rows.value,
            });
        }
        self.queries.push(projections.query);
        self.clock.mark(Part::Attention, Some(rows.rank))
    }
}

impl LayerAttention for PrefillPass<'_> {
    type Error = SessionError;

    fn push(
        &mut self,
        layer: usize,
        index: usize,
        projections: Projections,
    ) -> Result<(), SessionError> {
        self.push_scored(layer, index, projections, self.compressor)
    }

    fn attend(&mut self, layer: usize) -> Result<Option<Vec<Tensor<3>>>, SessionError> {
        let queries = std::mem::take(&mut self.queries);
        if self.last == Some(layer) {
            return Ok(None);
        }
        self.same_ranks(queries.len())?;
        SessionError::same("ranks", self.ranks, self.group.world_size())?;
        self.method.exchange(self.group)?;
        self.clock.mark(Part::Exchange, None)?;
        // Views of the cache exist only now: a layer that is written to must have no other reference.
        let ranks = self.layout.ranks.iter().zip(queries);
        let ranks: Vec<RankHeads<'_>> = ranks
            .map(|(rows, query)| {
                let rows_of = self.cache.rows(layer, rows.cached.clone());
                let cached = rows_of.map_err(ForwardError::from)?;
                Ok(RankHeads {
                    rows,
                    query,
                    cached,
                })
            })
            .collect::<Result<_, SessionError>>()?;
        let mut anchor = self.anchor.take();
        if self.layout.anchor == AnchorSource::FirstBlock
            && let Some(first) = ranks.first()
        {
            let (key, value) = first.floats()?;
            anchor = Some(AnchorHeads { key, value });
        }
        let attended = self
            .method
            .attend(&ranks, anchor, self.group, &mut self.clock)?;
        self.clock.mark(Part::Attention, None)?;
        if layer == 0 {
            self.attended.clone_from(&attended);
        }
        Ok(Some(attended))
    }

    fn tile(&self) -> usize {
        self.tile
    }

    fn poll(&self) -> Result<(), SessionError> {
        self.group.check()?;
        self.clock.poll()
    }

    fn step(&mut self, step: LayerStep) -> Result<(), SessionError> {
        let (part, index) = match step {
            LayerStep::Started => {
                self.clock.restart();
                return Ok(());
            }
            LayerStep::Projected(index) => (Part::Projections, index),
            LayerStep::Finished(index) => (Part::Mlp, index),
        };
        self.clock.mark(part, Some(self.layout.ranks[index].rank))
    }

    fn compute<T: Send>(&mut self, device: &Device, work: impl FnOnce(&mut Self) -> T + Send) -> T {
        match self.group.shares_workers() {
            true => work(self),
            false => on_workers(device, || work(self)),
        }
    }
}

impl Drop for PrefillPass<'_> {
    fn drop(&mut self) {
        self.group.at_layer(None);
    }
}

/// Intermediate results of one layer.
pub(crate) struct LayerResults {
    pub selected: Vec<(usize, Selection)>,
    pub attended: Vec<Tensor<3>>,
    pub times: Vec<PartTime>,
}
