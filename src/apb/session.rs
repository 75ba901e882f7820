//! A document prefilled once, and questions asked of it.

use std::borrow::Cow;
use std::ops::{ControlFlow, Range};
use std::time::{Duration, Instant};

use burn::tensor::{DType, Device, FloatDType, Tensor};

use super::compressor::Compressor;
use super::config::{Document, PrefillConfig};
use super::error::SessionError;
use super::host;
use super::logprobs::TokenLogprobs;
use super::plan::PrefillPlan;
use super::prefill::{Prefill, PrefillObserver};
use super::share::{Assignment, DocumentShare};
use crate::kernels::{AttentionOutput, Regions, attention, merge};
use crate::model::{
    Attention, CacheFull, Decoder, DecoderConfig, ForwardError, KvCache, Projections, Rope,
    RopeScaling,
};
use crate::ranks::RankGroup;
use crate::text::sampler::Sampler;

/// Rows of a full-attention pass and of a tile of the MLP. Fewer leave the matrix products short, more
/// only add activations.
pub const DEFAULT_PREFILL_CHUNK: usize = 1024;

/// How a session is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionConfig {
    /// Tokens the session must have room for: document, question and answer together.
    pub capacity: usize,
    /// Rows of one pass of full attention, and of one tile of the MLP.
    pub chunk: usize,
    /// Dtype of the cache; the model's own.
    pub dtype: FloatDType,
    /// Tokens that the rotary frequencies are made for, where that is not the capacity.
    context: Option<usize>,
}

impl SessionConfig {
    /// Room for `capacity` tokens in f32, prefilled in chunks of [`DEFAULT_PREFILL_CHUNK`].
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            chunk: DEFAULT_PREFILL_CHUNK,
            dtype: FloatDType::F32,
            context: None,
        }
    }

    /// The same with rotary frequencies for `context` tokens in place of the capacity: those of
    /// document and question, as in transformers, so that no limit on the answer changes them. Only
    /// dynamic scaling looks at it; rows beyond are rotated by frequencies for their own position. A
    /// session that goes on where another ended keeps the other's.
    pub fn with_context(mut self, context: usize) -> Self {
        self.context = Some(context);
        self
    }

    /// Tokens that the rotary frequencies are made for.
    pub fn context(&self) -> usize {
        self.context.unwrap_or(self.capacity)
    }

    /// The same with another dtype.
    pub fn with_dtype(mut self, dtype: FloatDType) -> Self {
        self.dtype = dtype;
        self
    }

    /// The same with passes of `chunk` rows; at least one.
    pub fn with_chunk(mut self, chunk: usize) -> Self {
        self.chunk = chunk.max(1);
        self
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// The model produced one of its stop tokens.
    StopToken,
    /// The answer came to one of the texts that end it.
    StopText,
    /// As many tokens as were asked for.
    Length,
    /// The observer asked to stop.
    Cancelled,
}

impl StopReason {
    /// The name used in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::StopToken => "stop_token",
            Self::StopText => "stop_text",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The tokens of an answer and the time they took.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Generated tokens, without the stop token.
    pub tokens: Vec<u32>,
    /// Why the answer ended.
    pub stop_reason: StopReason,
    /// The stop token that ended it.
    pub stop_token: Option<u32>,
    /// Log-probabilities of each token, where they were asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// From the first row of the question to the first token.
    pub query_time: Duration,
    /// From the first token to the last.
    pub decode_time: Duration,
    /// Decoding passes, each of one token.
    pub decode_steps: usize,
}

impl Completion {
    /// Tokens decoded a second; none where no pass was needed.
    pub fn decode_tokens_per_second(&self) -> Option<f64> {
        (self.decode_steps > 0).then(|| self.decode_steps as f64 / self.decode_time.as_secs_f64())
    }
}

/// What limits and accompanies an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AskOptions<'a> {
    /// Tokens that end it and are no part of it.
    pub stop_tokens: &'a [u32],
    /// Most tokens of the answer.
    pub max_tokens: usize,
    /// Log-probabilities of each token and of this many of the likeliest in its place.
    pub logprobs: Option<usize>,
}

/// A document's keys and values, ready for questions.
///
/// The document is prefilled once, by [`prefill`](Self::prefill) with full attention on one rank or by
/// [`prefill_with`](Self::prefill_with) with any strategy; every [`ask`](Self::ask) attends to all of
/// it exactly and leaves the session as it was.
///
/// A process holds the keys and values of the ranks that it drives in one cache, rank after rank. A
/// question's rows, and each generated token, attend to what every process holds, and the partial
/// results are merged; the process that drives the last rank, the owner, appends the new rows to its
/// cache and alone masks causally.
#[derive(Debug)]
pub struct Session<'m> {
    decoder: &'m Decoder,
    config: DecoderConfig,
    settings: SessionConfig,
    device: Device,
    rope: Rope,
    group: RankGroup,
    /// Whether the group was given; else every plan gets one of its own in this process.
    given: bool,
    held: Option<Held>,
}

/// What a session holds once a document is prefilled.
#[derive(Debug)]
pub(super) struct Held {
    /// The whole document's tokens; none where another process has them.
    pub document: Vec<u32>,
    pub plan: PrefillPlan,
    pub cache: KvCache,
    /// Document rows in this process's cache.
    pub local: usize,
    /// Rows that follow the document now.
    pub following: usize,
}

impl<'m> Session<'m> {
    /// A session on the decoder's device, all ranks in this process. Its cache is allocated when a
    /// document is prefilled.
    pub fn new(
        decoder: &'m Decoder,
        config: &DecoderConfig,
        session: SessionConfig,
        device: &Device,
    ) -> Self {
        Self {
            decoder,
            config: config.clone(),
            settings: session,
            device: device.clone(),
            rope: config.rope.init(config.head_dim, session.context()),
            group: RankGroup::local(1),
            given: false,
            held: None,
        }
    }

    /// The same with ranks that other processes drive, too. Every process makes the same calls with
    /// the same tokens.
    pub fn with_group(mut self, group: RankGroup) -> Self {
        self.group = group;
        self.given = true;
        self
    }

    /// Prefills the document with full attention, in chunks; `progress` hears the tokens done and in
    /// all after each, and may stop the prefill.
    ///
    /// A session has one document: prefilling again replaces it.
    ///
    /// # Errors
    ///
    /// As [`Self::prefill_with`].
    pub fn prefill(
        &mut self,
        document: &[u32],
        mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<(), SessionError> {
        self.check("document", document)?;
        let document = Document::new(document);
        let plan = PrefillConfig::default().plan(&document, &self.config)?;
        self.prefill_with(&document, &plan, None, &mut progress)
    }

    /// Prefills the document as planned; `compressor` is needed by APB alone.
    ///
    /// A session has one document: prefilling again replaces it.
    ///
    /// # Errors
    ///
    /// [`SessionError`] when the document is empty, holds a token beyond the vocabulary, does not
    /// fit, is not the plan's, or the prefill was stopped; the session then holds no document.
    pub fn prefill_with(
        &mut self,
        document: &Document,
        plan: &PrefillPlan,
        compressor: Option<&dyn Compressor>,
        observer: &mut dyn PrefillObserver,
    ) -> Result<(), SessionError> {
        self.held = None;
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
        self.arrange(plan)?;
        let share = DocumentShare::new(document, plan, self.group.ranks());
        self.compute(&share, plan, compressor, observer)?;
        if let Some(held) = &mut self.held {
            held.document.clone_from(&document.tokens);
        }
        Ok(())
    }

    /// Prefills this process's part of a document that another process has read.
    ///
    /// # Errors
    ///
    /// As [`Self::prefill_with`].
    pub fn prefill_part(
        &mut self,
        part: &Assignment,
        compressor: Option<&dyn Compressor>,
        observer: &mut dyn PrefillObserver,
    ) -> Result<(), SessionError> {
        self.held = None;
        for (what, tokens) in part.share.parts() {
            self.check(what, tokens)?;
        }
        self.fits(part.plan.tokens)?;
        self.arrange(&part.plan)?;
        let owned = self.group.ranks().map(|rank| part.plan.owned_len(rank));
        same("tokens of these ranks", owned.sum(), part.share.len())?;
        self.compute(&part.share, &part.plan, compressor, observer)
    }

    /// The group that a plan is for.
    fn arrange(&mut self, plan: &PrefillPlan) -> Result<(), SessionError> {
        if self.given {
            return same("ranks", plan.ranks, self.group.world_size());
        }
        self.group = RankGroup::local(plan.ranks);
        Ok(())
    }

    fn compute(
        &mut self,
        document: &DocumentShare,
        plan: &PrefillPlan,
        compressor: Option<&dyn Compressor>,
        observer: &mut dyn PrefillObserver,
    ) -> Result<(), SessionError> {
        let local = Prefill::layout(plan, &self.group, compressor).local_len();
        let following = match self.group.owns_last() {
            true => self.settings.capacity - plan.tokens,
            false => 0,
        };
        let dtype = self.settings.dtype.into();
        let capacity = local + following;
        let mut cache = KvCache::new(&self.config, 1, capacity, dtype, &self.device);
        Prefill {
            decoder: self.decoder,
            rope: &self.rope,
            chunk: self.settings.chunk,
            plan,
            document,
            compressor,
            group: &mut self.group,
            cache: &mut cache,
            device: &self.device,
        }
        .run(observer)?;
        self.held = Some(Held {
            document: Vec::new(),
            plan: plan.clone(),
            cache,
            local,
            following: 0,
        });
        Ok(())
    }

    /// The same with a document that is prefilled already, by ranks of this process.
    pub(super) fn holding(mut self, held: Held) -> Self {
        self.group = RankGroup::local(held.plan.ranks);
        self.held = Some(held);
        self
    }

    pub(super) fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    pub(super) fn ranks(&self) -> Range<usize> {
        self.group.ranks()
    }

    pub(super) fn settings(&self) -> SessionConfig {
        self.settings
    }

    pub(super) fn decoder_config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Tokens of the prefilled document; none before a prefill, nor where another process read it.
    pub fn document(&self) -> &[u32] {
        self.held.as_ref().map_or(&[], |held| &held.document)
    }

    /// How the document was prefilled.
    pub fn plan(&self) -> Option<&PrefillPlan> {
        self.held.as_ref().map(|held| &held.plan)
    }

    /// Runs tokens that follow the document and what was [`extend`](Self::extend)ed before: their rows
    /// attend to all of it and causally to themselves. Returns the final norm's output
    /// `[1, seq, hidden]`; [`rewind`](Self::rewind) forgets the rows.
    ///
    /// # Errors
    ///
    /// [`SessionError`] when there is no document or token, or no room.
    pub fn extend(&mut self, tokens: &[u32]) -> Result<Tensor<3>, SessionError> {
        self.check("question", tokens)?;
        let held = self.held.as_ref().ok_or(SessionError::NoDocument)?;
        self.fits(held.plan.tokens + held.following + tokens.len())?;
        let end = held.plan.tokens + held.following + tokens.len();
        let mut rows = Vec::new();
        for chunk in tokens.chunks(self.settings.chunk) {
            rows.push(self.follow(chunk, end)?);
        }
        Ok(match rows.len() {
            1 => rows.remove(0),
            _ => Tensor::cat(rows, 1),
        })
    }

    /// Process 0's tokens, as many on every process: what follows must be the same everywhere.
    ///
    /// # Errors
    ///
    /// [`SessionError::Rank`] when the exchange fails.
    pub fn agreed_tokens(&mut self, tokens: &[u32]) -> Result<Vec<u32>, SessionError> {
        let bytes = tokens
            .iter()
            .flat_map(|token| token.to_le_bytes())
            .collect();
        let bytes = self.group.broadcast(bytes)?;
        let (tokens, _) = bytes.as_chunks();
        Ok(tokens
            .iter()
            .map(|bytes| u32::from_le_bytes(*bytes))
            .collect())
    }

    /// Brings the whole document's tokens to every process, which [`save`](Self::save) writes to each
    /// rank's file.
    ///
    /// # Errors
    ///
    /// [`SessionError`] when nothing is prefilled or the exchange fails.
    pub fn share_document(&mut self) -> Result<(), SessionError> {
        let held = self.held.as_ref().ok_or(SessionError::NoDocument)?;
        let mut tokens = held.document.clone();
        tokens.resize(held.plan.tokens, 0);
        let tokens = self.agreed_tokens(&tokens)?;
        if let Some(held) = &mut self.held {
            held.document = tokens;
        }
        Ok(())
    }

    /// The ranks, for exchanges of another kind.
    pub fn into_group(self) -> RankGroup {
        self.group
    }

    /// The ranks, and what their exchanges have moved so far.
    pub fn group(&self) -> &RankGroup {
        &self.group
    }

    /// Forgets what follows the document.
    pub fn rewind(&mut self) {
        if let Some(held) = &mut self.held {
            held.cache.truncate(held.local);
            held.following = 0;
        }
    }

    /// The rotary frequencies of rows up to position `end`. Dynamic scaling grows with them, while
    /// the keys before stay as they are, as in transformers.
    fn rope_to(&self, end: usize) -> Cow<'_, Rope> {
        let config = &self.config;
        match config.rope.scaling {
            RopeScaling::Dynamic { .. } if end > self.settings.context() => {
                Cow::Owned(config.rope.init(config.head_dim, end))
            }
            _ => Cow::Borrowed(&self.rope),
        }
    }

    /// One pass of rows that follow: the final norm's rows `[1, seq, hidden]`. The last row of the
    /// passes it belongs to is before position `end`.
    fn follow(&mut self, tokens: &[u32], end: usize) -> Result<Tensor<3>, SessionError> {
        let held = self.held.as_ref().ok_or(SessionError::NoDocument)?;
        let start = held.plan.tokens + held.following;
        let (decoder, device) = (self.decoder, &self.device);
        let rope = self
            .rope_to(end)
            .tables(start..start + tokens.len(), device);
        let held = self.held.as_mut().ok_or(SessionError::NoDocument)?;
        let mut hidden = decoder.embed_ids(tokens);
        let Held { cache, local, .. } = held;
        let normed = self.group.compute(device, |group| {
            for (layer, block) in decoder.layers.iter().enumerate() {
                group.at_layer(Some(layer));
                let projections = block.project(hidden.clone(), &rope)?;
                let attended = attend(group, cache, *local, layer, projections)?;
                hidden = block.finish(hidden, Attention::join_heads(attended.out))?;
            }
            Ok::<_, SessionError>(decoder.final_norm(hidden)?)
        });
        self.group.at_layer(None);
        let normed = normed?;
        held.following += tokens.len();
        Ok(normed)
    }

    /// Answers a question: its rows, then each generated token, attend to the whole document and
    /// to themselves. `on_token` hears every token that belongs to the answer and may stop it.
    ///
    /// Of several processes the first chooses: its sampler, stop tokens and `on_token` count.
    ///
    /// The cache is left as it was before, whether the answer ended or failed.
    ///
    /// # Errors
    ///
    /// [`SessionError`] when there is no document or question, a token is beyond the vocabulary,
    /// the session has no room for the question and `max_tokens`, or sampling fails.
    pub fn ask(
        &mut self,
        question: &[u32],
        sampler: &mut Sampler,
        stop_tokens: &[u32],
        max_tokens: usize,
        on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Completion, SessionError> {
        let options = AskOptions {
            stop_tokens,
            max_tokens,
            logprobs: None,
        };
        self.ask_with(question, sampler, options, on_token)
    }

    /// [`ask`](Self::ask) with further options.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub fn ask_with(
        &mut self,
        question: &[u32],
        sampler: &mut Sampler,
        options: AskOptions<'_>,
        on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Completion, SessionError> {
        let held = self.held.as_ref().ok_or(SessionError::NoDocument)?;
        self.fits(held.plan.tokens + question.len() + options.max_tokens.saturating_sub(1))?;
        self.check("question", question)?;
        self.rewind();
        let result = self.complete(question, sampler, options, on_token);
        self.rewind();
        result
    }

    /// Logits of the last of the rows, on the host.
    fn last_logits(&self, rows: Tensor<3>) -> Result<Vec<f32>, SessionError> {
        let [batch, seq, hidden] = rows.dims();
        let last = rows.slice([0..batch, seq - 1..seq, 0..hidden]);
        host::values(self.decoder.logits(last).map_err(ForwardError::from)?)
    }

    fn complete(
        &mut self,
        question: &[u32],
        sampler: &mut Sampler,
        options: AskOptions<'_>,
        mut on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Completion, SessionError> {
        let asked = Instant::now();
        let chooses = self.group.ranks().start == 0;
        sampler.observe(self.document());
        sampler.observe(question);
        let mut rows = self.extend(question)?;
        let mut query_time = None;
        let mut decoding = Instant::now();
        let AskOptions {
            stop_tokens,
            max_tokens,
            logprobs: top,
        } = options;
        let mut logprobs = Vec::new();
        let mut stop_token = None;
        let mut tokens = Vec::new();
        let stop_reason = loop {
            if tokens.len() == max_tokens {
                break StopReason::Length;
            }
            let mut choice = Choice::default();
            if chooses {
                let mut logits = self.last_logits(rows)?;
                if query_time.is_none() {
                    query_time = Some(asked.elapsed());
                    decoding = Instant::now();
                }
                // The sampler changes what it is given.
                let own = top.map(|_| logits.clone());
                choice.token = sampler.sample(&mut logits)?;
                sampler.observe(&[choice.token]);
                choice.ends = match stop_tokens.contains(&choice.token) {
                    true => Some(StopReason::StopToken),
                    false if on_token(choice.token).is_break() => Some(StopReason::Cancelled),
                    false => None,
                };
                if let (Some(own), Some(top)) = (own, top)
                    && choice.ends != Some(StopReason::StopToken)
                {
                    logprobs.push(TokenLogprobs::new(&own, choice.token, top));
                }
            }
            let choice = choice.agreed(&mut self.group)?;
            if choice.ends == Some(StopReason::StopToken) {
                stop_token = Some(choice.token);
                break StopReason::StopToken;
            }
            tokens.push(choice.token);
            if let Some(reason) = choice.ends {
                break reason;
            }
            if tokens.len() == max_tokens {
                break StopReason::Length;
            }
            rows = self.extend(&[choice.token])?;
        };
        let query_time = query_time.unwrap_or_else(|| asked.elapsed());
        let following = self.held.as_ref().map_or(0, |held| held.following);
        let decode_steps = following.saturating_sub(question.len());
        Ok(Completion {
            tokens,
            stop_reason,
            stop_token,
            logprobs,
            query_time,
            decode_time: decoding.elapsed(),
            decode_steps,
        })
    }

    fn fits(&self, needed: usize) -> Result<(), SessionError> {
        let capacity = self.settings.capacity;
        match needed <= capacity {
            true => Ok(()),
            false => Err(CacheFull { capacity, needed }.into()),
        }
    }

    fn check(&self, what: &'static str, tokens: &[u32]) -> Result<(), SessionError> {
        if tokens.is_empty() {
            return Err(SessionError::Empty { what });
        }
        match tokens
            .iter()
            .position(|id| usize::try_from(*id).is_ok_and(|id| id >= self.config.vocab_size))
        {
            None => Ok(()),
            Some(position) => Err(SessionError::TokenOutOfRange {
                what,
                id: tokens[position],
                position,
                vocab_size: self.config.vocab_size,
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

/// A token that process 0 chose, and whether the answer ends with it.
#[derive(Default)]
struct Choice {
    token: u32,
    ends: Option<StopReason>,
}

impl Choice {
    /// Process 0's choice, on every process.
    fn agreed(self, group: &mut RankGroup) -> Result<Self, SessionError> {
        let ends = match self.ends {
            None => 0,
            Some(StopReason::StopToken) => 1,
            Some(_) => 2,
        };
        let mut bytes = self.token.to_le_bytes().to_vec();
        bytes.push(ends);
        let bytes = group.broadcast(bytes)?;
        let (token, ends) = bytes.split_first_chunk().unwrap_or((&[0; 4], &[]));
        Ok(Self {
            token: u32::from_le_bytes(*token),
            ends: match ends {
                [0] => None,
                [1] => Some(StopReason::StopToken),
                _ => Some(StopReason::Cancelled),
            },
        })
    }
}

/// Attention of rows that follow the document, over what all processes hold; `local` document rows
/// are this process's.
fn attend(
    group: &mut RankGroup,
    cache: &mut KvCache,
    local: usize,
    layer: usize,
    projections: Projections,
) -> Result<AttentionOutput, SessionError> {
    let Projections {
        query, key, value, ..
    } = projections;
    let mine = if group.owns_last() {
        let (keys, values) = cache
            .append(layer, key, value)
            .map_err(ForwardError::from)?;
        attention(query, keys, values, Regions::causal())?
    } else {
        let (keys, values) = cache.rows(layer, 0..local);
        attention(query, keys, values, Regions::full())?
    };
    if group.processes() == 1 {
        return Ok(mine);
    }
    let dtype = mine.out.dtype();
    let parts = group.gather_processes(pack_partial(mine))?;
    let merged = merge(parts.into_iter().map(unpack_partial)).ok_or(SessionError::NoDocument)?;
    Ok(AttentionOutput {
        out: merged.out.cast(dtype),
        lse: merged.lse,
    })
}
/// A partial result as one f32 tensor `[batch, heads, seq, head_dim + 1]`, its lse last.
fn pack_partial(part: AttentionOutput) -> Tensor<4> {
    let lse = part.lse.cast(DType::F32).unsqueeze_dim(3);
    Tensor::cat(vec![part.out.cast(DType::F32), lse], 3)
}

fn unpack_partial(packed: Tensor<4>) -> AttentionOutput {
    let [batch, heads, seq, width] = packed.dims();
    let part = |range| packed.clone().slice([0..batch, 0..heads, 0..seq, range]);
    AttentionOutput {
        out: part(0..width - 1),
        lse: part(width - 1..width).squeeze_dim(3),
    }
}
