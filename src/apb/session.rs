//! A document prefilled once, and questions asked of it.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use burn::tensor::{DType, Device, FloatDType, Tensor};

use crate::model::sampler::{Sampler, SamplerError};
use crate::model::{CacheFull, Decoder, DecoderConfig, ForwardError, KvCache, Rope};

/// Rows of a prefill pass. Fewer leave the matrix products short, more only add activations.
pub const DEFAULT_PREFILL_CHUNK: usize = 1024;

/// How a session is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionConfig {
    /// Tokens the session must have room for: document, question and answer together.
    pub capacity: usize,
    /// Rows of one prefill pass.
    pub chunk: usize,
    /// Dtype of the cache; the model's own.
    pub dtype: FloatDType,
}

impl SessionConfig {
    /// Room for `capacity` tokens in f32, prefilled in chunks of [`DEFAULT_PREFILL_CHUNK`].
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            chunk: DEFAULT_PREFILL_CHUNK,
            dtype: FloatDType::F32,
        }
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

/// Why a session could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// There is nothing to prefill or to ask.
    #[error("the {what} has no tokens")]
    Empty {
        /// Document or question.
        what: &'static str,
    },
    /// A token that the model has no embedding for.
    #[error(
        "token {id} at position {position} of the {what} is beyond the model's vocabulary of \
         {vocab_size}; is the tokenizer this model's own?"
    )]
    TokenOutOfRange {
        /// Document or question.
        what: &'static str,
        /// The token.
        id: u32,
        /// Where it stands.
        position: usize,
        /// Entries of the vocabulary.
        vocab_size: usize,
    },
    /// The session was made for fewer tokens.
    #[error(transparent)]
    Full(#[from] CacheFull),
    /// The decoder refused its rows.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The observer asked to stop.
    #[error("cancelled after {done} of {total} tokens")]
    Cancelled {
        /// Tokens prefilled.
        done: usize,
        /// Tokens there are.
        total: usize,
    },
    /// A question before the document.
    #[error("no document has been prefilled in this session")]
    NoDocument,
    /// The device could not give back its results.
    #[error("the device failed: {reason}")]
    Device {
        /// What the backend said.
        reason: String,
    },
    /// The logits cannot be sampled from.
    #[error(transparent)]
    Sample(#[from] SamplerError),
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// The model produced one of its stop tokens.
    StopToken,
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

/// A document's keys and values, ready for questions.
///
/// The document is prefilled once by [`prefill`](Self::prefill); every
/// [`ask`](Self::ask) attends to all of it exactly and leaves the session as it was.
#[derive(Debug)]
pub struct Session<'m> {
    decoder: &'m Decoder,
    rope: Rope,
    cache: KvCache,
    chunk: usize,
    vocab_size: usize,
    document: Vec<u32>,
}

impl<'m> Session<'m> {
    /// Allocates the cache of a session on the decoder's device.
    pub fn new(
        decoder: &'m Decoder,
        config: &DecoderConfig,
        session: SessionConfig,
        device: &Device,
    ) -> Self {
        Self {
            decoder,
            rope: config.rope.init(config.head_dim, session.capacity),
            cache: KvCache::new(config, 1, session.capacity, session.dtype.into(), device),
            chunk: session.chunk,
            vocab_size: config.vocab_size,
            document: Vec::new(),
        }
    }

    /// Prefills the document in chunks; `progress` hears the tokens done and in all after each, and
    /// may stop the prefill.
    ///
    /// A session has one document: prefilling again replaces it.
    ///
    /// # Errors
    ///
    /// [`SessionError`] when the document is empty, holds a token beyond the vocabulary, does not
    /// fit, or the prefill was stopped; the session then holds no document.
    pub fn prefill(
        &mut self,
        document: &[u32],
        mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<(), SessionError> {
        self.check("document", document)?;
        self.document.clear();
        self.cache.truncate(0);
        let fits = document.len() <= self.cache.capacity();
        if !fits {
            return Err(CacheFull {
                capacity: self.cache.capacity(),
                needed: document.len(),
            }
            .into());
        }
        let mut done = 0;
        for chunk in document.chunks(self.chunk) {
            let hidden = self.decoder.embed_ids(chunk);
            self.decoder
                .forward_embedded(hidden, &self.rope, &mut self.cache)?;
            done += chunk.len();
            if progress(done, document.len()).is_break() && done < document.len() {
                self.cache.truncate(0);
                return Err(SessionError::Cancelled {
                    done,
                    total: document.len(),
                });
            }
        }
        self.document.extend_from_slice(document);
        Ok(())
    }

    /// Tokens of the prefilled document.
    pub fn document(&self) -> &[u32] {
        &self.document
    }

    /// Answers a question: its rows, then each generated token, attend to the whole document and
    /// to themselves. `on_token` hears every token that belongs to the answer and may stop it.
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
        if self.document.is_empty() {
            return Err(SessionError::NoDocument);
        }
        self.check("question", question)?;
        let needed = self.document.len() + question.len() + max_tokens.saturating_sub(1);
        if needed > self.cache.capacity() {
            return Err(CacheFull {
                capacity: self.cache.capacity(),
                needed,
            }
            .into());
        }
        let result = self.complete(question, sampler, stop_tokens, max_tokens, on_token);
        self.cache.truncate(self.document.len());
        result
    }

    /// Runs tokens that follow what the session holds: the final norm's rows `[1, seq, hidden]`.
    fn run(&mut self, tokens: &[u32]) -> Result<Tensor<3>, SessionError> {
        let mut last = None;
        for chunk in tokens.chunks(self.chunk) {
            let hidden = self.decoder.embed_ids(chunk);
            last = Some(
                self.decoder
                    .forward_embedded(hidden, &self.rope, &mut self.cache)?,
            );
        }
        last.ok_or(SessionError::Empty { what: "question" })
    }

    /// Logits of the last of the rows, on the host.
    fn last_logits(&self, rows: Tensor<3>) -> Result<Vec<f32>, SessionError> {
        let [batch, seq, hidden] = rows.dims();
        let last = rows.slice([0..batch, seq - 1..seq, 0..hidden]);
        let failed = |reason: String| SessionError::Device { reason };
        self.decoder
            .logits(last)
            .map_err(ForwardError::from)?
            .cast(DType::F32)
            .try_into_data()
            .map_err(|e| failed(e.to_string()))?
            .try_to_vec::<f32>()
            .map_err(|e| failed(e.to_string()))
    }

    fn complete(
        &mut self,
        question: &[u32],
        sampler: &mut Sampler,
        stop_tokens: &[u32],
        max_tokens: usize,
        mut on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Completion, SessionError> {
        let asked = Instant::now();
        sampler.observe(&self.document);
        sampler.observe(question);
        let mut rows = self.run(question)?;
        let mut logits = self.last_logits(rows)?;
        let query_time = asked.elapsed();

        let decoding = Instant::now();
        let mut tokens = Vec::new();
        let stop_reason = loop {
            if tokens.len() == max_tokens {
                break StopReason::Length;
            }
            let token = sampler.sample(&mut logits)?;
            if stop_tokens.contains(&token) {
                break StopReason::StopToken;
            }
            tokens.push(token);
            sampler.observe(&[token]);
            if on_token(token).is_break() {
                break StopReason::Cancelled;
            }
            if tokens.len() == max_tokens {
                break StopReason::Length;
            }
            rows = self.run(&[token])?;
            logits = self.last_logits(rows)?;
        };
        let decode_steps = self.cache.len() - self.document.len() - question.len();
        Ok(Completion {
            tokens,
            stop_reason,
            query_time,
            decode_time: decoding.elapsed(),
            decode_steps,
        })
    }

    fn check(&self, what: &'static str, tokens: &[u32]) -> Result<(), SessionError> {
        if tokens.is_empty() {
            return Err(SessionError::Empty { what });
        }
        match tokens
            .iter()
            .position(|id| usize::try_from(*id).is_ok_and(|id| id >= self.vocab_size))
        {
            None => Ok(()),
            Some(position) => Err(SessionError::TokenOutOfRange {
                what,
                id: tokens[position],
                position,
                vocab_size: self.vocab_size,
            }),
        }
    }
}
