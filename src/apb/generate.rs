//! Answering: the rows of a question, then one token after another.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use burn::tensor::Tensor;

use super::error::SessionError;
use super::host;
use super::logprobs::TokenLogprobs;
use super::session::Session;
use crate::ranks::RankGroup;
use crate::text::sampler::{Sampler, SamplerConfig};

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

impl Session<'_> {
    /// Answers a question: its rows, then each generated token, attend to the whole document and
    /// to themselves. `on_token` is called with every token of the answer and may end it.
    ///
    /// Of several processes the first chooses the tokens: its sampler and stop tokens count, and whether
    /// its `on_token` ends the answer.
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
        let prefilled = self.prefilled.as_ref().ok_or(SessionError::NoDocument)?;
        self.fits(prefilled.plan.tokens + question.len() + options.max_tokens.saturating_sub(1))?;
        self.check("question", question)?;
        self.rewind();
        let result = self.complete(question, sampler, options, on_token);
        self.rewind();
        result
    }

    /// Computes this process's part of an answer that the first process chooses the tokens of: a question
    /// and at most `max_tokens` tokens.
    ///
    /// # Errors
    ///
    /// As [`ask`](Self::ask).
    pub fn follow(
        &mut self,
        question: &[u32],
        max_tokens: usize,
    ) -> Result<Completion, SessionError> {
        let mut unused = Sampler::new(SamplerConfig::default())?;
        let proceed = |_| ControlFlow::Continue(());
        self.ask(question, &mut unused, &[], max_tokens, proceed)
    }

    /// Logits of the last of the rows, on the host.
    fn last_logits(&self, rows: Tensor<3>) -> Result<Vec<f32>, SessionError> {
        let [batch, seq, hidden] = rows.dims();
        let last = rows.slice([0..batch, seq - 1..seq, 0..hidden]);
        host::values(self.model.logits(last)?)
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
            if !chooses && choice.ends != Some(StopReason::StopToken) {
                // The first process has decided whether the answer ends here.
                let _ = on_token(choice.token);
            }
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
        let following = self
            .prefilled
            .as_ref()
            .map_or(0, |prefilled| prefilled.following);
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
