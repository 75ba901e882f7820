//! The prefill: layer by layer over the ranks that this process drives.
//!
//! Each layer projects and scores the rows of every rank, starts the exchange, writes the keys and
//! values of local rows to the cache, attends, and finishes with output projection and MLP. What a
//! layer holds beyond that is one layer's queries, its exchange and one tile of the MLP.

use std::ops::{ControlFlow, Range};
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};

use super::compressor::Compressor;
use super::config::Method;
use super::error::SessionError;
use super::layout::{AnchorSource, Layout, RankRows};
use super::passing::Selection;
use super::plan::PrefillPlan;
use super::share::DocumentShare;
use super::strategy::{AnchorHeads, RankHeads, Strategy, strategy};
use crate::model::{Decoder, KvCache, Rope, RopeTables};
use crate::ranks::RankGroup;

/// A part of a layer's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Part {
    /// Norm, query, key and value projections, RoPE.
    Projections,
    /// Scores, selection and gathering of the passing block.
    Selection,
    /// Waiting for other ranks.
    Exchange,
    /// Writing the cache, and attention.
    Attention,
    /// Output projection, norm and MLP.
    Mlp,
}

impl Part {
    /// All parts, in the order of a layer.
    pub const ALL: [Self; 5] = [
        Self::Projections,
        Self::Selection,
        Self::Exchange,
        Self::Attention,
        Self::Mlp,
    ];

    /// The name used in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Projections => "projections",
            Self::Selection => "selection",
            Self::Exchange => "exchange",
            Self::Attention => "attention",
            Self::Mlp => "mlp",
        }
    }
}

/// Hears how a prefill comes along, may look at what it computes, and may stop it.
pub trait PrefillObserver {
    /// `done` of `total` document tokens are prefilled. Strategies that go layer by layer count a
    /// layer as its share of all tokens.
    fn progress(&mut self, done: usize, total: usize) -> ControlFlow<()> {
        let _ = (done, total);
        ControlFlow::Continue(())
    }

    /// Whether [`attention`](Self::attention) and [`hidden`](Self::hidden) are to be called, and the
    /// last layer therefore to be finished: what follows its keys and values serves nothing else.
    fn wants_rows(&self) -> bool {
        false
    }

    /// Whether [`selected`](Self::selected) is to be called; on a GPU that waits for each layer.
    fn wants_selections(&self) -> bool {
        false
    }

    /// A rank passes on these document positions, ascending, for each KV head of each sequence.
    fn selected(&mut self, layer: usize, rank: usize, positions: &[Vec<Vec<usize>>]) {
        let _ = (layer, rank, positions);
    }

    /// The joined heads `[batch, rows, heads * head_dim]` of a rank's local rows in the first layer.
    fn attention(&mut self, rank: usize, rows: Tensor<3>) {
        let _ = (rank, rows);
    }

    /// The final norm's output `[batch, rows, hidden]` of a rank's local rows.
    fn hidden(&mut self, rank: usize, rows: Tensor<3>) {
        let _ = (rank, rows);
    }

    /// Whether [`part`](Self::part) is to be called; on a GPU that waits for each part.
    fn wants_times(&self) -> bool {
        false
    }

    /// A part of a layer took so long; `rank` is none where ranks were computed together.
    fn part(&mut self, part: Part, rank: Option<usize>, time: Duration) {
        let _ = (part, rank, time);
    }
}

/// Hears nothing.
impl PrefillObserver for () {}

/// Hears only the progress.
impl<F: FnMut(usize, usize) -> ControlFlow<()>> PrefillObserver for F {
    fn progress(&mut self, done: usize, total: usize) -> ControlFlow<()> {
        self(done, total)
    }
}

/// A prefill about to be run.
pub(crate) struct Prefill<'a> {
    pub decoder: &'a Decoder,
    pub rope: &'a Rope,
    /// Rows of a full-attention pass, and of a tile of the MLP.
    pub chunk: usize,
    pub plan: &'a PrefillPlan,
    pub document: &'a DocumentShare,
    pub compressor: Option<&'a dyn Compressor>,
    pub group: &'a mut RankGroup,
    pub cache: &'a mut KvCache,
    pub device: &'a Device,
}

/// The rows of one rank on their way through the layers.
struct RankState {
    rows: RankRows,
    /// `[batch, rows, hidden]`.
    hidden: Tensor<3>,
    rope: RopeTables,
    /// Its local rows in this process's cache; full attention: all rows so far.
    cached: Range<usize>,
}

/// What a layer tells the observer.
#[derive(Default)]
struct LayerReport {
    selected: Vec<(usize, Selection)>,
    attended: Vec<Tensor<3>>,
    times: Vec<(Part, Option<usize>, Duration)>,
}

impl Prefill<'_> {
    /// The rows that this process will compute.
    pub(crate) fn layout(
        plan: &PrefillPlan,
        group: &RankGroup,
        compressor: Option<&dyn Compressor>,
    ) -> Layout {
        let everywhere = compressor.is_some_and(Compressor::reads_anchor_everywhere);
        Layout::new(plan, group.ranks(), everywhere && plan.passing > 0)
    }

    /// Fills the cache with the keys and values of the document rows that this process owns.
    pub(crate) fn run(mut self, observer: &mut dyn PrefillObserver) -> Result<(), SessionError> {
        let layout = Self::layout(self.plan, self.group, self.compressor);
        let mut strategy = strategy(self.plan, self.compressor)?;
        if self.plan.method != Method::Full {
            return self.pass(&layout, strategy.as_mut(), 0, observer);
        }
        // One rank's rows need nothing of later rows: they go through all layers chunk by chunk, so
        // that only a chunk's activations are held.
        let mut start = 0;
        while start < self.plan.tokens {
            let end = (start + self.chunk).min(self.plan.tokens);
            let chunk = Layout {
                ranks: vec![RankRows {
                    rank: 0,
                    anchor: 0,
                    sees_anchor: false,
                    local: std::iter::once(start..end).collect(),
                }],
                anchor: AnchorSource::None,
            };
            self.pass(&chunk, strategy.as_mut(), start, observer)?;
            start = end;
        }
        Ok(())
    }

    /// Takes the rows of a layout through all layers; `done` document rows went before.
    fn pass(
        &mut self,
        layout: &Layout,
        strategy: &mut dyn Strategy,
        done: usize,
        observer: &mut dyn PrefillObserver,
    ) -> Result<(), SessionError> {
        let total = self.plan.tokens;
        let rows = match self.plan.method {
            Method::Full => layout.local_len(),
            // Other processes keep pace, so that this one's layers stand for all.
            _ => total,
        };
        let mut states = self.embed(layout);
        let layers = self.decoder.layers.len();
        for layer in 0..layers {
            let finish = layer + 1 < layers || observer.wants_rows();
            let timed = observer.wants_times();
            let work = LayerWork {
                layer,
                anchor: layout.anchor,
                finish,
                timed,
            };
            let mut ranks = Driven {
                decoder: self.decoder,
                device: self.device,
                chunk: self.chunk,
                cache: &mut *self.cache,
                states: &mut states,
            };
            self.group.at_layer(Some(layer));
            let report = self
                .group
                .compute(self.device, |group| work.run(&mut ranks, group, strategy));
            self.group.at_layer(None);
            let report = report?;
            self.tell(layer, &states, report, observer)?;
            let done = done + rows * (layer + 1) / layers;
            let told = self.plan.method != Method::Full || layer + 1 == layers;
            if told && observer.progress(done, total).is_break() && done < total {
                return Err(SessionError::Cancelled { done, total });
            }
        }
        if observer.wants_rows() {
            for state in states {
                let [batch, rows, hidden] = state.hidden.dims();
                let local = [0..batch, state.rows.anchor..rows, 0..hidden];
                let normed = self.decoder.final_norm(state.hidden.slice(local))?;
                observer.hidden(state.rows.rank, normed);
            }
        }
        Ok(())
    }

    fn embed(&self, layout: &Layout) -> Vec<RankState> {
        let mut next = 0;
        layout
            .ranks
            .iter()
            .map(|rows| {
                let mut tokens = match rows.anchor {
                    0 => Vec::new(),
                    _ => self.document.anchor().to_vec(),
                };
                for range in &rows.local {
                    tokens.extend_from_slice(self.document.tokens(range));
                }
                let cached = match self.plan.method {
                    Method::Full => 0..rows.local[0].end,
                    _ => next..next + rows.local_len(),
                };
                next = cached.end;
                let positions = rows.positions().into_iter().flatten();
                RankState {
                    rows: rows.clone(),
                    hidden: self.decoder.embed_ids(&tokens),
                    rope: self.rope.tables(positions, self.device),
                    cached,
                }
            })
            .collect()
    }

    fn tell(
        &self,
        layer: usize,
        states: &[RankState],
        report: LayerReport,
        observer: &mut dyn PrefillObserver,
    ) -> Result<(), SessionError> {
        if observer.wants_selections() {
            for (rank, selection) in report.selected {
                let start = rank * self.plan.block();
                let mut positions = selection.indices()?;
                for row in positions.iter_mut().flatten().flatten() {
                    *row += start;
                }
                observer.selected(layer, rank, &positions);
            }
        }
        if observer.wants_rows() {
            for (state, attended) in states.iter().zip(report.attended) {
                let [batch, rows, width] = attended.dims();
                let local = attended.slice([0..batch, state.rows.anchor..rows, 0..width]);
                observer.attention(state.rows.rank, local);
            }
        }
        for (part, rank, time) in report.times {
            observer.part(part, rank, time);
        }
        Ok(())
    }
}

/// One layer of a pass.
#[derive(Clone, Copy)]
struct LayerWork {
    layer: usize,
    anchor: AnchorSource,
    /// Whether anything after the layer's keys and values is needed.
    finish: bool,
    timed: bool,
}

/// What a process computes with.
struct Driven<'a> {
    decoder: &'a Decoder,
    device: &'a Device,
    chunk: usize,
    cache: &'a mut KvCache,
    states: &'a mut [RankState],
}

impl LayerWork {
    fn run(
        self,
        ranks: &mut Driven<'_>,
        group: &mut RankGroup,
        strategy: &mut dyn Strategy,
    ) -> Result<LayerReport, SessionError> {
        let Self {
            layer,
            anchor: source,
            finish,
            timed,
        } = self;
        let Driven {
            decoder,
            device,
            chunk,
            cache,
            states,
        } = ranks;
        let mut clock = Clock::new(device, timed);
        let mut report = LayerReport::default();
        let block = &decoder.layers[layer];
        let mut queries = Vec::with_capacity(states.len());
        let mut anchor = None;
        for (index, state) in states.iter().enumerate() {
            let rank = state.rows.rank;
            let projections = block.project(state.hidden.clone(), &state.rope)?;
            clock.stop(Part::Projections, Some(rank), &mut report)?;
            if finish {
                let selection = strategy.observe(layer, &state.rows, &projections)?;
                report.selected.extend(selection.map(|it| (rank, it)));
                clock.stop(Part::Selection, Some(rank), &mut report)?;
            }
            let split = state.rows.anchor;
            let local = projections.rows(split..state.rows.len());
            cache.append(layer, local.key, local.value)?;
            if source == AnchorSource::Rows(index) {
                let rows = projections.rows(0..split);
                anchor = Some(AnchorHeads {
                    key: rows.key,
                    value: rows.value,
                });
            }
            queries.push(projections.query);
            clock.stop(Part::Attention, Some(rank), &mut report)?;
        }
        if !finish {
            return Ok(report);
        }
        strategy.start(group)?;
        clock.stop(Part::Exchange, None, &mut report)?;
        // Views of the cache exist only now, when nothing is written to the layer any more.
        let heads: Vec<RankHeads<'_>> = states
            .iter()
            .zip(queries)
            .map(|(state, query)| {
                let (key, value) = cache.rows(layer, state.cached.clone());
                RankHeads {
                    rows: &state.rows,
                    query,
                    key,
                    value,
                }
            })
            .collect();
        if source == AnchorSource::FirstBlock {
            anchor = heads.first().map(|first| AnchorHeads {
                key: first.key.clone(),
                value: first.value.clone(),
            });
        }
        if timed && let Some(of_ranks) = strategy.clock() {
            of_ranks.start(device);
        }
        let attended = strategy.attend(&heads, anchor, group)?;
        drop(heads);
        match strategy.clock().filter(|_| timed) {
            Some(of_ranks) => {
                report.times.push((Part::Exchange, None, of_ranks.exchange));
                for (state, time) in states.iter().zip(&of_ranks.ranks) {
                    let rank = Some(state.rows.rank);
                    report.times.push((Part::Attention, rank, *time));
                }
                clock.restart();
            }
            None => clock.stop(Part::Attention, None, &mut report)?,
        }
        if layer == 0 {
            report.attended = attended.clone();
        }
        for (state, attended) in states.iter_mut().zip(attended) {
            state.hidden = block.finish_in_tiles(&state.hidden, attended, *chunk)?;
            clock.stop(Part::Mlp, Some(state.rows.rank), &mut report)?;
        }
        Ok(report)
    }
}

/// Measures parts, where somebody wants to know.
struct Clock<'d> {
    device: &'d Device,
    started: Option<Instant>,
}

impl<'d> Clock<'d> {
    fn new(device: &'d Device, timed: bool) -> Self {
        Self {
            device,
            started: timed.then(Instant::now),
        }
    }

    /// Begins the next part, after some that were measured otherwise.
    fn restart(&mut self) {
        self.started = self.started.map(|_| Instant::now());
    }

    /// Ends a part; the next begins.
    fn stop(
        &mut self,
        part: Part,
        rank: Option<usize>,
        report: &mut LayerReport,
    ) -> Result<(), SessionError> {
        let Some(started) = self.started else {
            return Ok(());
        };
        self.device.sync().map_err(|e| SessionError::Device {
            reason: e.to_string(),
        })?;
        let now = Instant::now();
        report.times.push((part, rank, now - started));
        self.started = Some(now);
        Ok(())
    }
}
