//! Answering: the rows of a question, then one token after another.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use burn::tensor::Tensor;

use super::cancel::CancelToken;
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
#[derive(Debug, Clone, Copy, Default)]
pub struct AskOptions<'a> {
    /// Tokens that end it and are no part of it.
    pub stop_tokens: &'a [u32],
    /// Most tokens of the answer.
    pub max_tokens: usize,
    /// Log-probabilities of each token and of this many of the likeliest in its place.
    pub logprobs: Option<usize>,
    /// Ends the question with [`SessionError::Cancelled`], and the answer with [`StopReason::Cancelled`].
    pub cancel: Option<&'a CancelToken>,
    /// Leaves the rows of question and answer in the session. A later question that begins with the same tokens, as
    /// the next turn of a conversation does, has them computed already; another drops them.
    pub keep: bool,
}

impl Session {
    /// Answers a question: its rows, then each generated token, attend to the whole document and
    /// to themselves. `on_token` is called with every token of the answer and may end it.
    ///
    /// Of several processes the first chooses the tokens: its sampler and stop tokens count, and whether
    /// its `on_token` ends the answer.
    ///
    /// The cache is left as it was before, whether the answer ended or failed, unless [`AskOptions::keep`] is set.
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
            ..AskOptions::default()
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
        let mut on_token = on_token;
        let mut generation = Generation::new(self, question, options)?;
        let result = loop {
            match generation.step(self, sampler, &mut on_token) {
                Ok(None) => break Ok(generation.finish(self)),
                Ok(Some(_)) => {}
                Err(error) => break Err(error),
            }
        };
        if !options.keep || result.is_err() {
            self.rewind();
        }
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
    pub(super) fn last_logits(&self, rows: Tensor<3>) -> Result<Vec<f32>, SessionError> {
        let [batch, seq, hidden] = rows.dims();
        let last = rows.slice([0..batch, seq - 1..seq, 0..hidden]);
        host::values(self.model.logits(last)?)
    }
}

/// An answer that is computed token by token: first the question's rows, then one token a step.
#[derive(Debug)]
pub(super) struct Generation {
    question: Vec<u32>,
    /// Tokens that the question begins with and that the session holds the rows of.
    computed: usize,
    stop_tokens: Vec<u32>,
    max_tokens: usize,
    top: Option<usize>,
    cancel: CancelToken,
    /// Whether this process chooses the tokens.
    chooses: bool,
    state: State,
    tokens: Vec<u32>,
    logprobs: Vec<TokenLogprobs>,
    stop_token: Option<u32>,
    stop_reason: StopReason,
    asked: Instant,
    query_time: Option<Duration>,
    decoding: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Asked,
    /// The token's rows are to be computed next.
    Chosen(u32),
    Ended,
}

impl Generation {
    /// An answer of `session` to a question; drops what follows the document, unless the question begins with it.
    /// Nothing is computed yet.
    ///
    /// # Errors
    ///
    /// [`SessionError`] when there is no document or question, a token is beyond the vocabulary, or the
    /// session has no room for the question and the answer.
    pub(super) fn new(
        session: &mut Session,
        question: &[u32],
        options: AskOptions<'_>,
    ) -> Result<Self, SessionError> {
        let prefilled = session.prefilled.as_ref().ok_or(SessionError::NoDocument)?;
        let answer = options.max_tokens.saturating_sub(1);
        let rows = prefilled.plan.tokens + question.len();
        session.fits(rows.saturating_add(answer))?;
        session.check("question", question)?;
        let computed = session.rewind_to(question);
        Ok(Self {
            question: question.to_vec(),
            computed,
            stop_tokens: options.stop_tokens.to_vec(),
            max_tokens: options.max_tokens,
            top: options.logprobs,
            cancel: options.cancel.cloned().unwrap_or_default(),
            chooses: session.group.ranks().contains(0),
            state: State::Asked,
            tokens: Vec::new(),
            logprobs: Vec::new(),
            stop_token: None,
            stop_reason: StopReason::Length,
            asked: Instant::now(),
            query_time: None,
            decoding: Instant::now(),
        })
    }

    /// The next token of the answer, which `on_token` is given and may end the answer with; none when it
    /// has ended.
    pub(super) fn step(
        &mut self,
        session: &mut Session,
        sampler: &mut Sampler,
        on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Option<u32>, SessionError> {
        let rows = match self.state {
            State::Ended => return Ok(None),
            State::Asked => {
                sampler.observe(session.document());
                sampler.observe(&self.question);
                session.extend_until(&self.question[self.computed..], &self.cancel)?
            }
            State::Chosen(token) => match session.extend_until(&[token], &self.cancel) {
                Err(SessionError::Cancelled { .. }) => return Ok(self.end(StopReason::Cancelled)),
                rows => rows?,
            },
        };
        if self.max_tokens == 0 {
            return Ok(self.end(StopReason::Length));
        }
        let choice = self.choose(session, sampler, rows, on_token)?;
        if choice.ends == Some(StopReason::StopToken) {
            self.stop_token = Some(choice.token);
            return Ok(self.end(StopReason::StopToken));
        }
        self.tokens.push(choice.token);
        self.state = State::Chosen(choice.token);
        if let Some(reason) = choice.ends {
            self.end(reason);
        } else if self.tokens.len() == self.max_tokens {
            self.end(StopReason::Length);
        }
        Ok(Some(choice.token))
    }

    /// The token that process 0 chooses from the last of the rows.
    fn choose(
        &mut self,
        session: &mut Session,
        sampler: &mut Sampler,
        rows: Tensor<3>,
        on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Choice, SessionError> {
        let mut choice = Choice::default();
        if self.chooses {
            let mut logits = session.last_logits(rows)?;
            if self.query_time.is_none() {
                self.query_time = Some(self.asked.elapsed());
                self.decoding = Instant::now();
            }
            session.check_logits(&logits)?;
            // The sampler changes what it is given.
            let own = self.top.map(|_| logits.clone());
            choice.token = sampler.sample(&mut logits)?;
            choice.ends = match self.stop_tokens.contains(&choice.token) {
                true => Some(StopReason::StopToken),
                false if on_token(choice.token).is_break() => Some(StopReason::Cancelled),
                false => None,
            };
            if let (Some(own), Some(top)) = (own, self.top)
                && choice.ends != Some(StopReason::StopToken)
            {
                let logprobs = TokenLogprobs::new(&own, choice.token, top);
                self.logprobs.push(logprobs);
            }
        }
        let choice = choice.agreed(&mut session.group)?;
        if !self.chooses && choice.ends != Some(StopReason::StopToken) {
            // The first process has decided whether the answer ends here.
            let _ = on_token(choice.token);
        }
        Ok(choice)
    }

    fn end(&mut self, reason: StopReason) -> Option<u32> {
        self.state = State::Ended;
        self.stop_reason = reason;
        None
    }

    /// What has been answered.
    pub(super) fn finish(self, session: &Session) -> Completion {
        let following = (session.prefilled.as_ref()).map_or(0, |held| held.followed.len());
        Completion {
            query_time: self.query_time.unwrap_or_else(|| self.asked.elapsed()),
            decode_time: self.decoding.elapsed(),
            decode_steps: following.saturating_sub(self.question.len()),
            tokens: self.tokens,
            stop_reason: self.stop_reason,
            stop_token: self.stop_token,
            logprobs: self.logprobs,
        }
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
