//! A prefill: the passes of a plan over the layers, and what an observer is given of them.

use burn::tensor::Device;

use super::attention::{PrefillPass, passes};
use super::cancel::CancelToken;
use super::compressor::Compressor;
use super::config::{Document, Method};
use super::error::SessionError;
use super::layout::{Layout, RankRows, anchor_tokens};
use super::observer::Observer;
use super::plan::PrefillPlan;
use crate::kernels::KernelError;
use crate::model::{CausalLm, HiddenRows, KvCache, Rope, forward_layers};
use crate::ranks::RankGroup;

/// A prefill about to be run.
pub(super) struct Prefill<'a> {
    pub model: &'a dyn CausalLm,
    pub rope: &'a Rope,
    pub plan: &'a PrefillPlan,
    pub document: &'a Document,
    pub compressor: Option<&'a dyn Compressor>,
    /// Rows of a pass of full attention, and of a tile of the MLP.
    pub chunk: usize,
    /// Whether every rank computes the anchor's rows.
    pub own_anchors: bool,
    pub group: &'a mut RankGroup,
    pub cache: &'a mut KvCache,
}

impl Prefill<'_> {
    /// Fills the cache with the keys and values of the document rows that this process owns.
    pub(super) fn run(mut self, observer: &mut dyn Observer) -> Result<(), SessionError> {
        if self.plan.method == Method::Apb && self.plan.passing > 0 {
            let compressor = self.compressor.ok_or(SessionError::NoCompressor)?;
            self.plan.compressor.check_name(compressor)?;
        }
        let ranks = self.group.ranks();
        let mut done = 0;
        let cancel = observer.cancel_token();
        for mut layout in passes(self.plan, ranks, self.compressor, self.chunk) {
            if self.own_anchors {
                layout = layout.with_own_anchors(self.plan);
            }
            self.pass(&layout, done, &cancel, observer)?;
            done += layout.tokens;
        }
        Ok(())
    }

    /// Takes the rows of a layout through all layers; `before` document rows are done.
    fn pass(
        &mut self,
        layout: &Layout,
        before: usize,
        cancel: &CancelToken,
        observer: &mut dyn Observer,
    ) -> Result<(), SessionError> {
        let Self { model, plan, .. } = *self;
        let (layers, total, device) = (model.shape().layers, plan.tokens, model.device());
        let mut rows: Vec<HiddenRows> = layout
            .ranks
            .iter()
            .map(|rows| self.embed(rows, &device))
            .collect::<Result<_, _>>()?;
        let mut pass = PrefillPass::new(plan, layout, self.compressor, self.group, self.cache)
            .with_tile(self.chunk)
            .with_cancel(cancel.clone());
        if !observer.wants_rows() {
            pass = pass.ended_at(layers.saturating_sub(1));
        }
        if observer.wants_times() {
            pass = pass.timed(&device);
        }
        let mut done = before;
        let passed = forward_layers(model, &mut rows, &mut pass, |pass, layer, _| {
            report(plan, layout, layer, pass, observer)?;
            done = before + layout.tokens * (layer + 1) / layers;
            match observer.progress(done, total).is_break() && done < total {
                true => Err(SessionError::Cancelled { done, total }),
                false => Ok(()),
            }
        });
        passed.map_err(|error| match error {
            SessionError::Cancelled { .. } => SessionError::Cancelled { done, total },
            error => error,
        })?;
        if observer.wants_rows() {
            for (ranks, rows) in layout.ranks.iter().zip(rows) {
                let [batch, count, width] = rows.hidden.dims();
                let local = rows.hidden.slice([0..batch, ranks.anchor..count, 0..width]);
                observer.hidden(ranks.rank, model.final_norm(local)?);
            }
        }
        Ok(())
    }

    /// The embedded `[anchor | local]` rows of a rank.
    fn embed(&self, rows: &RankRows, device: &Device) -> Result<HiddenRows, KernelError> {
        let mut tokens = match rows.anchor {
            0 => Vec::new(),
            _ => anchor_tokens(self.plan, self.document),
        };
        for range in &rows.local {
            tokens.extend_from_slice(&self.document.tokens[range.clone()]);
        }
        let positions = rows.positions().into_iter().flatten();
        Ok(HiddenRows {
            hidden: self.model.embed_ids(&tokens)?,
            rope: self.rope.tables(positions, device),
        })
    }
}

/// Gives the observer a layer's results.
fn report(
    plan: &PrefillPlan,
    layout: &Layout,
    layer: usize,
    pass: &mut PrefillPass<'_>,
    observer: &mut dyn Observer,
) -> Result<(), SessionError> {
    let results = pass.take_results();
    if observer.wants_selections() {
        for (rank, selection) in results.selected {
            let start = rank * plan.block();
            let mut positions = selection.indices()?;
            for row in positions.iter_mut().flatten().flatten() {
                *row += start;
            }
            observer.selected(layer, rank, &positions);
        }
    }
    if observer.wants_rows() {
        for (rows, attended) in layout.ranks.iter().zip(results.attended) {
            let [batch, count, width] = attended.dims();
            let local = attended.slice([0..batch, rows.anchor..count, 0..width]);
            observer.attention(rows.rank, local);
        }
    }
    for (part, rank, time) in results.times {
        observer.part(part, rank, time);
    }
    Ok(())
}
