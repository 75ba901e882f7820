//! A document prefilled once, and the rows that follow it.

use std::ops::Range;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::attention::QueryPass;
use super::compressor::Compressor;
use super::config::{Document, PrefillConfig};
use super::error::SessionError;
use super::observer::Observer;
use super::plan::PrefillPlan;
use super::prefill::Prefill;
use crate::model::{CacheFull, CausalLm, HiddenRows, KvCache, LayerAttention, forward_layers};
use crate::ranks::RankGroup;

/// Rows of a full-attention pass and of a tile of the MLP. Fewer leave the matrix products short, more
/// only add activations.
pub const DEFAULT_PREFILL_CHUNK: usize = 1024;

/// The sizes of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionConfig {
    /// Tokens the session must have room for: document, question and answer together.
    pub capacity: usize,
    /// Rows of one pass of full attention, and of one tile of the MLP.
    pub chunk: usize,
    /// Tokens that the rotary frequencies are made for, where that is not the capacity.
    context: Option<usize>,
}

impl SessionConfig {
    /// Room for `capacity` tokens, prefilled in chunks of [`DEFAULT_PREFILL_CHUNK`].
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            chunk: DEFAULT_PREFILL_CHUNK,
            context: None,
        }
    }

    /// The same with rotary frequencies for `context` tokens in place of the capacity: those of
    /// document and question, as in transformers, so that no limit on the answer changes them. Only
    /// dynamic scaling depends on it; rows beyond are rotated by frequencies for their own position. A
    /// restored session keeps the context it was saved with.
    pub fn with_context(mut self, context: usize) -> Self {
        self.context = Some(context);
        self
    }

    /// Tokens that the rotary frequencies are made for.
    pub fn context(&self) -> usize {
        self.context.unwrap_or(self.capacity)
    }

    /// The same with passes of `chunk` rows; at least one.
    pub fn with_chunk(mut self, chunk: usize) -> Self {
        self.chunk = chunk.max(1);
        self
    }
}

/// A document's keys and values, ready for questions.
///
/// The document is prefilled once, by [`prefill`](Self::prefill) with full attention on one rank or by
/// [`prefill_with`](Self::prefill_with) with any method; every [`ask`](Self::ask) attends to all of
/// it exactly and leaves the session as it was.
///
/// A process holds the keys and values of the ranks that it drives in one cache, rank after rank. A
/// question's rows, and each generated token, attend to what every process holds, and the partial
/// results are merged; the process that drives the last rank, the owner, appends the new rows to its
/// cache and alone masks causally.
pub struct Session<'m> {
    pub(super) model: &'m dyn CausalLm,
    pub(super) settings: SessionConfig,
    pub(super) group: RankGroup,
    /// Whether the group was given; else every plan gets one of its own in this process.
    given: bool,
    pub(super) prefilled: Option<Prefilled>,
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("settings", &self.settings)
            .field("plan", &self.plan())
            .finish_non_exhaustive()
    }
}

/// A prefilled document.
#[derive(Debug)]
pub(super) struct Prefilled {
    /// Its tokens.
    pub document: Vec<u32>,
    pub plan: PrefillPlan,
    pub cache: KvCache,
    /// Document rows in this process's cache.
    pub local: usize,
    /// Rows that follow the document now.
    pub following: usize,
}

impl<'m> Session<'m> {
    /// A session of a model, all ranks in this process. Its cache is allocated when a document is
    /// prefilled.
    pub fn new(model: &'m dyn CausalLm, settings: SessionConfig) -> Self {
        Self {
            model,
            settings,
            group: RankGroup::local(1),
            given: false,
            prefilled: None,
        }
    }

    /// A session of a document that was prefilled before, by ranks of this process.
    pub(super) fn restored(
        model: &'m dyn CausalLm,
        settings: SessionConfig,
        prefilled: Prefilled,
    ) -> Self {
        let mut session = Self::new(model, settings);
        session.group = RankGroup::local(prefilled.plan.ranks);
        session.prefilled = Some(prefilled);
        session
    }

    /// The same with ranks that other processes drive, too. Every process makes the same calls with
    /// the same tokens.
    pub fn with_group(mut self, group: RankGroup) -> Self {
        self.group = group;
        self.given = true;
        self
    }

    /// Prefills the document with full attention.
    ///
    /// A session has one document: prefilling again replaces it.
    ///
    /// # Errors
    ///
    /// As [`Self::prefill_with`].
    pub fn prefill(
        &mut self,
        document: &[u32],
        mut observer: impl Observer,
    ) -> Result<(), SessionError> {
        self.check("document", document)?;
        let document = Document::new(document);
        let plan = PrefillConfig::default().plan(&document, self.model.shape())?;
        self.prefill_with(&document, &plan, None, &mut observer)
    }

    /// Prefills the document as planned; `compressor` is needed by APB alone.
    ///
    /// A session has one document: prefilling again replaces it.
    ///
    /// # Errors
    ///
    /// [`SessionError`] when the document is empty, holds a token beyond the vocabulary, does not
    /// fit, is not the plan's, or the prefill was cancelled; the session then holds no document.
    pub fn prefill_with(
        &mut self,
        document: &Document,
        plan: &PrefillPlan,
        compressor: Option<&dyn Compressor>,
        observer: &mut dyn Observer,
    ) -> Result<(), SessionError> {
        self.prefilled = None;
        self.check("document", &document.tokens)?;
        if !document.anchor_query.is_empty() {
            self.check("anchor query", &document.anchor_query)?;
        }
        let tokens = document.tokens.len();
        self.fits(tokens)?;
        same("tokens", plan.tokens, tokens)?;
        same(
            "tokens in the anchor's query",
            plan.anchor_query.len(),
            document.anchor_query.len().min(plan.anchor_query.len()),
        )?;
        match self.given {
            true => same("ranks", plan.ranks, self.group.world_size())?,
            false => self.group = RankGroup::local(plan.ranks),
        }
        let local = self.group.ranks().map(|rank| plan.owned_len(rank)).sum();
        let following = match self.group.owns_last() {
            true => self.settings.capacity - tokens,
            false => 0,
        };
        let (model, dtype) = (self.model, self.model.dtype().into());
        let capacity = local + following;
        let mut cache = KvCache::new(model.shape(), 1, capacity, dtype, &model.device());
        Prefill {
            model,
            rope: &model.rope(self.settings.context()),
            plan,
            document,
            compressor,
            chunk: self.settings.chunk,
            group: &mut self.group,
            cache: &mut cache,
        }
        .run(observer)?;
        self.prefilled = Some(Prefilled {
            document: document.tokens.clone(),
            plan: plan.clone(),
            cache,
            local,
            following: 0,
        });
        Ok(())
    }

    /// The ranks that this process drives.
    pub(super) fn ranks(&self) -> Range<usize> {
        self.group.ranks()
    }

    /// Tokens of the prefilled document; empty before a prefill.
    pub fn document(&self) -> &[u32] {
        self.prefilled
            .as_ref()
            .map_or(&[], |prefilled| &prefilled.document)
    }

    /// How the document was prefilled.
    pub fn plan(&self) -> Option<&PrefillPlan> {
        self.prefilled.as_ref().map(|prefilled| &prefilled.plan)
    }

    /// Runs tokens that follow the document and what was [`extend`](Self::extend)ed before: their rows
    /// attend to all of it and causally to themselves. Returns the final norm's output
    /// `[1, seq, hidden]`; [`rewind`](Self::rewind) drops the rows again.
    ///
    /// # Errors
    ///
    /// [`SessionError`] when there is no document or token, or no room.
    pub fn extend(&mut self, tokens: &[u32]) -> Result<Tensor<3>, SessionError> {
        self.check("question", tokens)?;
        let prefilled = self.prefilled.as_ref().ok_or(SessionError::NoDocument)?;
        let end = prefilled.plan.tokens + prefilled.following + tokens.len();
        self.fits(end)?;
        let mut rows = Vec::new();
        for chunk in tokens.chunks(self.settings.chunk) {
            rows.push(self.extend_chunk(chunk, end)?);
        }
        Ok(match rows.len() {
            1 => rows.remove(0),
            _ => Tensor::cat(rows, 1),
        })
    }

    /// One pass of rows that follow: the final norm's rows `[1, seq, hidden]`. Rotary frequencies are
    /// those for position `end`: dynamic scaling grows with the rows, while earlier keys stay as they
    /// are, as in transformers.
    fn extend_chunk(&mut self, tokens: &[u32], end: usize) -> Result<Tensor<3>, SessionError> {
        let model = self.model;
        let device = model.device();
        let prefilled = self.prefilled.as_mut().ok_or(SessionError::NoDocument)?;
        let start = prefilled.plan.tokens + prefilled.following;
        let rope = model.rope(end.max(self.settings.context()));
        let mut rows = [HiddenRows {
            hidden: model.embed_ids(tokens),
            rope: rope.tables(start..start + tokens.len(), &device),
        }];
        let mut pass = QueryPass::new(&mut self.group, &mut prefilled.cache, prefilled.local);
        let normed = pass.compute(&device, |pass| {
            forward_layers(model, &mut rows, pass, |_, _, _| Ok(()))?;
            let [HiddenRows { hidden, .. }] = rows;
            Ok::<_, SessionError>(model.final_norm(hidden)?)
        })?;
        drop(pass);
        prefilled.following += tokens.len();
        Ok(normed)
    }

    /// Process 0's tokens, as many on every process: what follows must be the same everywhere.
    ///
    /// # Errors
    ///
    /// [`SessionError::Rank`] when the exchange fails.
    pub fn broadcast_tokens(&mut self, tokens: &[u32]) -> Result<Vec<u32>, SessionError> {
        let bytes = tokens.iter().flat_map(|token| token.to_le_bytes());
        let bytes = self.group.broadcast(bytes.collect())?;
        let (tokens, _) = bytes.as_chunks();
        Ok(tokens.iter().map(|b| u32::from_le_bytes(*b)).collect())
    }

    /// The ranks, for exchanges of another kind.
    pub fn into_group(self) -> RankGroup {
        self.group
    }

    /// The ranks, and what their exchanges have moved so far.
    pub fn group(&self) -> &RankGroup {
        &self.group
    }

    /// Drops the rows that follow the document.
    pub fn rewind(&mut self) {
        if let Some(prefilled) = &mut self.prefilled {
            prefilled.cache.truncate(prefilled.local);
            prefilled.following = 0;
        }
    }

    pub(super) fn fits(&self, needed: usize) -> Result<(), SessionError> {
        let capacity = self.settings.capacity;
        match needed <= capacity {
            true => Ok(()),
            false => Err(CacheFull { capacity, needed }.into()),
        }
    }

    pub(super) fn check(&self, what: &'static str, tokens: &[u32]) -> Result<(), SessionError> {
        if tokens.is_empty() {
            return Err(SessionError::Empty { what });
        }
        let vocab_size = self.model.vocab_size();
        let beyond = |id: &u32| usize::try_from(*id).is_ok_and(|id| id >= vocab_size);
        match tokens.iter().position(beyond) {
            None => Ok(()),
            Some(position) => Err(SessionError::TokenOutOfRange {
                what,
                id: tokens[position],
                position,
                vocab_size,
            }),
        }
    }
}

/// A plan and what it is used for must be of the same sizes.
fn same(what: &'static str, planned: usize, found: usize) -> Result<(), SessionError> {
    match planned == found {
        true => Ok(()),
        false => Err(SessionError::OtherPlan {
            what,
            planned,
            found,
        }),
    }
}
