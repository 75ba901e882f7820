//! A document prefilled once, and the rows that follow it.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::attention::QueryPass;
use super::cancel::CancelToken;
use super::compressor::Compressor;
use super::config::{Document, PrefillConfig};
use super::error::SessionError;
use super::observer::Observer;
use super::plan::PrefillPlan;
use super::prefill::Prefill;
use crate::kernels;
use crate::model::{
    CacheError, CacheFull, CachedRows, CausalLm, ForwardError, HiddenRows, KvCache, KvDType,
    LayerAttention, forward_layers,
};
use crate::ranks::{RankGroup, Ranks};

/// Rows of a full-attention pass and of a tile of the MLP, where none are asked for: 8,192 on CUDA, whose
/// multiprocessors fewer rows would leave idle, 1,024 elsewhere. More only add activations.
pub fn default_prefill_chunk(device: &Device) -> usize {
    match kernels::is_cuda(device) {
        true => 8192,
        false => 1024,
    }
}

/// Rows by which a full cache grows, at least; an eighth of what it holds, where that is more.
const GROWTH: usize = 256;

/// The sizes of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionConfig {
    /// Tokens that memory is allocated for when the document is prefilled: document, question and answer
    /// together.
    pub capacity: usize,
    /// Tokens that the session may grow to; more are refused.
    pub limit: usize,
    /// Rows of one pass of full attention, and of one tile of the MLP; none: [`default_prefill_chunk`].
    pub chunk: Option<usize>,
    /// The dtype of the cache; none: [`CausalLm::kv_dtype`].
    #[serde(default)]
    pub kv_dtype: Option<KvDType>,
    /// Whether every rank computes the anchor's rows, as ranks with a device of their own do; else a process computes
    /// them once for all ranks that it drives. The results are the same: it is for measuring a rank's time.
    #[serde(default)]
    pub own_anchors: bool,
    /// Tokens that the rotary frequencies are made for, where that is not the capacity.
    context: Option<usize>,
}

impl SessionConfig {
    /// Room for `capacity` tokens and no more, prefilled in chunks of [`default_prefill_chunk`].
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            limit: capacity,
            chunk: None,
            kv_dtype: None,
            own_anchors: false,
            context: None,
        }
    }

    /// The same, growing to `limit` tokens where it must.
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.limit = limit.max(self.capacity);
        self
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
        self.chunk = Some(chunk.max(1));
        self
    }

    /// The same with a cache of `dtype`.
    pub fn with_kv_dtype(mut self, dtype: KvDType) -> Self {
        self.kv_dtype = Some(dtype);
        self
    }

    /// The dtype of a cache for `model`.
    pub(super) fn kv_dtype_of(&self, model: &dyn CausalLm) -> KvDType {
        let usual = || KvDType::of(model.kv_dtype());
        self.kv_dtype.unwrap_or_else(usual)
    }

    /// Rows of a pass on `device`.
    pub fn chunk_on(&self, device: &Device) -> usize {
        self.chunk
            .unwrap_or_else(|| default_prefill_chunk(device))
            .max(1)
    }
}

/// A document's keys and values, ready for questions, in tokens; [`DocumentSession`](super::DocumentSession)
/// is one that is asked in text.
///
/// It owns all that it needs: it can be sent to another thread and kept in an application's state.
///
/// The document is prefilled once, by [`prefill`](Self::prefill) with full attention on one rank or by
/// [`prefill_with`](Self::prefill_with) with any method; every [`ask`](Self::ask) attends to all of
/// it exactly and leaves the session as it was.
///
/// A process holds the keys and values of the ranks that it drives in one cache, rank after rank. A
/// question's rows, and each generated token, attend to what every process holds, and the partial
/// results are merged; the process that drives the last rank, the owner, appends the new rows to its
/// cache and alone masks causally.
pub struct Session {
    pub(super) model: Arc<dyn CausalLm>,
    pub(super) settings: SessionConfig,
    pub(super) group: RankGroup,
    /// Whether the group was given; else every plan gets one of its own in this process.
    given: bool,
    pub(super) prefilled: Option<Prefilled>,
}

impl std::fmt::Debug for Session {
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
    /// The document's rows and those that follow; only those that follow, where the document is shared.
    pub cache: KvCache,
    /// The document's rows, once the session has been forked.
    pub shared: Option<Arc<KvCache>>,
    /// Document rows in this process's cache.
    pub local: usize,
    /// Tokens of the rows that follow the document now.
    pub followed: Vec<u32>,
}

impl Prefilled {
    /// Rows of `cache` that are the document's.
    pub fn base(&self) -> usize {
        match self.shared {
            Some(_) => 0,
            None => self.local,
        }
    }

    /// Keys and values of some of the document's rows in a layer.
    pub fn document_rows(
        &self,
        layer: usize,
        rows: Range<usize>,
    ) -> Result<CachedRows, CacheError> {
        self.shared
            .as_deref()
            .unwrap_or(&self.cache)
            .rows(layer, rows)
    }

    /// Makes room for `rows` more that follow, of at most `limit` in all.
    fn make_room(&mut self, rows: usize, limit: usize) -> Result<(), SessionError> {
        let needed = self.base() + self.followed.len() + rows;
        if needed > self.cache.capacity() {
            let most = self.base() + limit.saturating_sub(self.plan.tokens);
            let grown = needed + GROWTH.max(needed / 8);
            let reserved = self.cache.reserve(grown.min(most).max(needed));
            reserved.map_err(ForwardError::from)?;
        }
        Ok(())
    }

    /// Drops rows that follow, but for the first `following`.
    fn truncate(&mut self, following: usize) {
        self.cache.truncate(self.base() + following);
        self.followed.truncate(following);
    }

    /// Drops rows that follow, but for those that `tokens` begin with too; returns how many stay.
    fn keep_common(&mut self, tokens: &[u32]) -> usize {
        let pairs = self.followed.iter().zip(tokens);
        let common = pairs.take_while(|(held, asked)| held == asked).count();
        self.truncate(common);
        common
    }
}

impl Session {
    /// A session of a model, all ranks in this process. Its cache is allocated when a document is
    /// prefilled.
    pub fn new(model: Arc<dyn CausalLm>, settings: SessionConfig) -> Self {
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
        model: Arc<dyn CausalLm>,
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

    /// Lets it grow to `limit` tokens where it must.
    pub fn set_limit(&mut self, limit: usize) {
        self.settings = self.settings.with_limit(limit);
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
    /// fit, is not the plan's, the prefill was cancelled, or the model computes NaN or infinity; the session then holds
    /// no document.
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
        SessionError::same("tokens", plan.tokens, tokens)?;
        plan.check(self.model.shape().heads)?;
        let query = &plan.anchor_query;
        SessionError::same(
            "end of the anchor's query",
            query.end,
            query.end.max(query.start),
        )?;
        SessionError::same(
            "tokens in the anchor's query",
            plan.anchor_query.len(),
            document.anchor_query.len().min(plan.anchor_query.len()),
        )?;
        match self.given {
            true => SessionError::same("ranks", plan.ranks, self.group.world_size())?,
            false => self.group = RankGroup::local(plan.ranks),
        }
        let local = self.group.ranks().map(|rank| plan.owned_len(rank)).sum();
        let following = match self.group.owns_last() {
            true => self.settings.capacity.saturating_sub(tokens),
            false => 0,
        };
        let model = self.model.as_ref();
        let dtype = self.settings.kv_dtype_of(model);
        let capacity = local + following;
        let cache = KvCache::new(model.shape(), 1, capacity, dtype, &model.device());
        let mut cache = cache.map_err(ForwardError::from)?;
        Prefill {
            model,
            rope: &model.rope(self.settings.context()),
            plan,
            document,
            compressor,
            chunk: self.settings.chunk_on(&model.device()),
            own_anchors: self.settings.own_anchors,
            group: &mut self.group,
            cache: &mut cache,
        }
        .run(observer)?;
        self.prefilled = Some(Prefilled {
            document: document.tokens.clone(),
            plan: plan.clone(),
            cache,
            shared: None,
            local,
            followed: Vec::new(),
        });
        if let Err(broken) = self.check_prefilled() {
            self.prefilled = None;
            return Err(broken);
        }
        Ok(())
    }

    /// The dtype of keys and values in the cache.
    pub fn kv_dtype(&self) -> KvDType {
        self.settings.kv_dtype_of(self.model.as_ref())
    }

    /// The ranks that this process drives.
    pub(super) fn ranks(&self) -> Ranks {
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
        self.extend_until(tokens, &CancelToken::new())
    }

    /// [`extend`](Self::extend), ended with [`SessionError::Cancelled`] once `cancel` is cancelled; no row of
    /// the tokens is kept then.
    pub(super) fn extend_until(
        &mut self,
        tokens: &[u32],
        cancel: &CancelToken,
    ) -> Result<Tensor<3>, SessionError> {
        self.check("question", tokens)?;
        let prefilled = self.prefilled.as_ref().ok_or(SessionError::NoDocument)?;
        let before = prefilled.followed.len();
        let end = prefilled.plan.tokens + before + tokens.len();
        self.fits(end)?;
        let chunks = tokens.chunks(self.settings.chunk_on(&self.model.device()));
        let rows: Result<Vec<_>, _> = chunks
            .map(|chunk| self.extend_chunk(chunk, end, cancel))
            .collect();
        match rows {
            Ok(mut rows) if rows.len() == 1 => Ok(rows.remove(0)),
            Ok(rows) => Ok(Tensor::cat(rows, 1)),
            Err(error) => {
                // Some layers hold rows of a pass that failed.
                let prefilled = self.prefilled.as_mut().ok_or(SessionError::NoDocument)?;
                let done = prefilled.followed.len() - before;
                prefilled.truncate(before);
                Err(match error {
                    SessionError::Cancelled { .. } => SessionError::Cancelled {
                        done,
                        total: tokens.len(),
                    },
                    error => error,
                })
            }
        }
    }

    /// One pass of rows that follow: the final norm's rows `[1, seq, hidden]`. Rotary frequencies are
    /// those for position `end`: dynamic scaling grows with the rows, while earlier keys stay as they
    /// are, as in transformers.
    fn extend_chunk(
        &mut self,
        tokens: &[u32],
        end: usize,
        cancel: &CancelToken,
    ) -> Result<Tensor<3>, SessionError> {
        let model = self.model.as_ref();
        let device = model.device();
        let prefilled = self.prefilled.as_mut().ok_or(SessionError::NoDocument)?;
        if self.group.owns_last() {
            prefilled.make_room(tokens.len(), self.settings.limit)?;
        }
        let start = prefilled.plan.tokens + prefilled.followed.len();
        let rope = model.rope(end.max(self.settings.context()));
        let mut rows = [HiddenRows {
            hidden: model.embed_ids(tokens)?,
            rope: rope.tables(start..start + tokens.len(), &device),
        }];
        let mut pass = QueryPass::new(&mut self.group, &mut prefilled.cache, prefilled.local)
            .with_shared(prefilled.shared.as_deref())
            .with_cancel(cancel.clone());
        let normed = pass.compute(&device, |pass| {
            forward_layers(model, &mut rows, pass, |_, _, _| Ok(()))?;
            let [HiddenRows { hidden, .. }] = rows;
            Ok::<_, SessionError>(model.final_norm(hidden)?)
        })?;
        drop(pass);
        prefilled.followed.extend_from_slice(tokens);
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

    /// Drops the rows that follow the document, but for those of the tokens that `tokens` begin with; returns
    /// how many of `tokens` are computed already. At least the last is not.
    pub(super) fn rewind_to(&mut self, tokens: &[u32]) -> usize {
        let rest = tokens.len().saturating_sub(1);
        let held = self.prefilled.as_mut();
        held.map_or(0, |held| held.keep_common(&tokens[..rest]))
    }

    /// Drops the rows that follow the document.
    pub fn rewind(&mut self) {
        if let Some(prefilled) = &mut self.prefilled {
            prefilled.truncate(0);
        }
    }

    /// A second session of the same document, with nothing behind it yet. The document's keys and values
    /// are shared, not copied; questions to either no longer change the other, and each has room of its own.
    ///
    /// From then on both attend to the document and to what follows it in two steps that are merged, which
    /// is exact.
    ///
    /// # Errors
    ///
    /// [`SessionError::NoDocument`] before a prefill, [`SessionError::SeveralProcesses`] where other
    /// processes hold a part of the document.
    pub fn fork(&mut self) -> Result<Self, SessionError> {
        if self.group.processes() > 1 {
            return Err(SessionError::SeveralProcesses);
        }
        let model = self.model.clone();
        let dtype = self.settings.kv_dtype_of(model.as_ref());
        let prefilled = self.prefilled.as_mut().ok_or(SessionError::NoDocument)?;
        let tail = |rows: usize| {
            let tail = KvCache::new(model.shape(), 1, rows, dtype, &model.device());
            tail.map_err(ForwardError::from)
        };
        let document = match &prefilled.shared {
            Some(document) => document.clone(),
            None => {
                // What follows the document moves behind the shared part.
                let (local, following) = (prefilled.local, prefilled.followed.len());
                let mut own = tail(following + GROWTH)?;
                for layer in 0..own.layers() {
                    if following == 0 {
                        break;
                    }
                    let rows = prefilled.cache.rows(layer, local..local + following);
                    let appended = rows.and_then(|rows| own.append_rows(layer, rows));
                    appended.map_err(ForwardError::from)?;
                }
                let mut document = std::mem::replace(&mut prefilled.cache, own);
                document.truncate(local);
                let document = Arc::new(document);
                prefilled.shared = Some(document.clone());
                document
            }
        };
        let forked = Prefilled {
            document: prefilled.document.clone(),
            plan: prefilled.plan.clone(),
            cache: tail(GROWTH)?,
            shared: Some(document),
            local: prefilled.local,
            followed: Vec::new(),
        };
        Ok(Self::restored(model, self.settings, forked))
    }

    pub(super) fn fits(&self, needed: usize) -> Result<(), SessionError> {
        let capacity = self.settings.limit;
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
