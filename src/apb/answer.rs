//! From a document and a question to an answer in text.

use std::ops::ControlFlow;

use super::cancel::CancelToken;
use super::error::AnswerError;
use super::generate::{AskOptions, Completion, Generation, StopReason};
use super::observer::Observer;
use super::plan::PrefillPlan;
use super::request::{AnswerOptions, Request};
use super::session::Session;
use crate::ranks::RankGroup;
use crate::text::generation_config::GenerationConfigError;
use crate::text::sampler::{Sampler, SamplerConfig};
use crate::text::stop::{Stop, StopSource, StopTexts, StopToken};
use crate::text::text_stream::TextStream;
use crate::text::tokenizer::{Tokenizer, TokenizerError};
use crate::{LanguageModel, ModelError, ModelText};

/// An answer, with how it was computed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Answer {
    /// The answer.
    pub text: String,
    /// Its tokens, why it ended, and the time decoding took.
    pub completion: Completion,
    /// The token or text that ended it.
    pub stop: Option<Stop>,
    /// Prefilled tokens: what stands before the document, and the document.
    pub document_tokens: usize,
    /// The question's tokens, with the template's tail.
    pub query_tokens: usize,
    /// How the document was prefilled.
    pub plan: PrefillPlan,
    /// Seconds from the first document row to the last.
    pub prefill_seconds: f64,
    /// Whether the prompt's pieces have the tokens that the whole would have.
    pub exact_split: bool,
    /// Control tokens that document and question spell out, with their numbers.
    pub control_tokens: Vec<(u32, usize)>,
}

impl Answer {
    /// The answer to a request.
    pub fn new(request: &Request, reply: Reply, prefill_seconds: f64) -> Self {
        Self {
            text: reply.text,
            completion: reply.completion,
            stop: reply.stop,
            document_tokens: request.document.tokens.len(),
            query_tokens: request.query.len(),
            plan: request.plan.clone(),
            prefill_seconds,
            exact_split: request.exact_split,
            control_tokens: request.control_tokens.clone(),
        }
    }

    /// Document tokens prefilled a second.
    pub fn prefill_tokens_per_second(&self) -> f64 {
        self.document_tokens as f64 / self.prefill_seconds
    }
}

/// Answers a question about a document with the default options.
///
/// # Errors
///
/// An [`AnswerError`] when the prompt cannot be built or does not fit the model's context.
pub fn answer(
    model: &LanguageModel,
    document: &str,
    question: &str,
) -> Result<Answer, AnswerError> {
    answer_with(
        model,
        document,
        question,
        &AnswerOptions::default(),
        &mut (),
    )
}

/// Answers a question about a document, with an observer.
///
/// # Errors
///
/// As [`answer`]; [`SessionError::Cancelled`](super::SessionError::Cancelled) when the observer stopped the prefill. Stopping the
/// answer itself is no error: what was generated is returned.
pub fn answer_with(
    model: &LanguageModel,
    document: &str,
    question: &str,
    options: &AnswerOptions,
    observer: &mut dyn Observer,
) -> Result<Answer, AnswerError> {
    let request = Request::new(&model.text, document, question, options)?;
    answer_request(model, &request, options, observer)
}

/// Answers a request that has been checked already, with the options it was made with.
///
/// # Errors
///
/// As [`answer_with`].
pub fn answer_request(
    model: &LanguageModel,
    request: &Request,
    options: &AnswerOptions,
    observer: &mut dyn Observer,
) -> Result<Answer, AnswerError> {
    let group = RankGroup::local(request.plan.ranks);
    answer_over(group, model, request, options, observer)
}

/// [`answer_request`] over the ranks of a group. Every process of the group calls it with the same
/// request and gets the same answer; the first chooses the tokens.
///
/// # Errors
///
/// As [`answer_with`], and [`SessionError::Rank`](super::SessionError::Rank) when a rank is lost.
pub fn answer_over(
    group: RankGroup,
    model: &LanguageModel,
    request: &Request,
    options: &AnswerOptions,
    observer: &mut dyn Observer,
) -> Result<Answer, AnswerError> {
    request.check_heads(&model.text.config, &model.source)?;
    let (mut session, seconds) = request.prefill(model.decoder.clone(), group, observer)?;
    let reply = ask(&model.text, &mut session, &request.query, options, observer)?;
    Ok(Answer::new(request, reply, seconds))
}

/// What a session answered.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Reply {
    /// The answer, without the stop text or token.
    pub text: String,
    /// Its tokens, why it ended, and the time they took. Where a text ended it, the last tokens may
    /// hold that text.
    pub completion: Completion,
    /// The token or text that ended it.
    pub stop: Option<Stop>,
}

/// Asks a session, whose document is prefilled, and turns the answer into text. `query` are the
/// question's tokens with the template's tail.
///
/// # Errors
///
/// An [`AnswerError`] when the question does not fit the model's context or the session, or sampling
/// fails. Stopping the answer is no error: what was generated is returned.
pub fn ask(
    text: &ModelText,
    session: &mut Session,
    query: &[u32],
    options: &AnswerOptions,
    observer: &mut dyn Observer,
) -> Result<Reply, AnswerError> {
    let cancel = observer.cancel_token();
    let sampler = sampler(text, options)?;
    let answering = Answering::new(text, session, query, options, sampler, &cancel)?;
    answering.run(session, &mut |piece| observer.text(piece))
}

/// An answer in text, token by token.
pub(super) struct Answering<'t> {
    tokenizer: &'t Tokenizer,
    generation: Generation,
    sampler: Sampler,
    text: AnswerText<'t>,
    stops: Vec<StopToken>,
    /// Whether the session keeps the rows.
    keep: bool,
}

impl<'t> Answering<'t> {
    /// An answer to a question; nothing is computed yet. What follows the session's document is dropped.
    pub(super) fn new(
        text: &'t ModelText,
        session: &mut Session,
        query: &[u32],
        options: &AnswerOptions,
        sampler: Sampler,
        cancel: &CancelToken,
    ) -> Result<Self, AnswerError> {
        options.check_context(&text.config, session.document().len(), query.len())?;
        let tokenizer = &text.tokenizer;
        let mut stops = text.stop_tokens_of(&options.prompt)?;
        let own = |id| StopToken {
            id,
            source: StopSource::Request,
        };
        stops.extend(options.stop_tokens.iter().copied().map(own));
        let spelled = options.stop_texts.iter();
        stops.extend(spelled.filter_map(|text| tokenizer.token_id(text)).map(own));
        let stop_ids: Vec<u32> = stops.iter().map(|stop| stop.id).collect();
        let asked = AskOptions {
            stop_tokens: &stop_ids,
            max_tokens: options.max_tokens,
            logprobs: options.logprobs,
            cancel: Some(cancel),
            keep: options.keep,
        };
        Ok(Self {
            tokenizer,
            generation: Generation::new(session, query, asked)?,
            sampler,
            text: AnswerText {
                stream: TextStream::new(tokenizer, true),
                stops: StopTexts::new(&options.stop_texts),
                text: String::new(),
                ended_by: None,
            },
            stops,
            keep: options.keep,
        })
    }

    /// Answers to the end; the session is then as it was before the question, unless it is to keep the rows.
    pub(super) fn run(
        mut self,
        session: &mut Session,
        sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Reply, AnswerError> {
        let keep = self.keep;
        let reply = loop {
            match self.step(session, sink) {
                Ok(true) => {}
                Ok(false) => break self.finish(session, sink),
                Err(error) => break Err(error),
            }
        };
        if !keep || reply.is_err() {
            session.rewind();
        }
        reply
    }

    /// Computes the next token and gives `sink` the text that it completes; false when the answer has ended.
    pub(super) fn step(
        &mut self,
        session: &mut Session,
        sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<bool, AnswerError> {
        let (tokenizer, text) = (self.tokenizer, &mut self.text);
        let mut undecodable = None;
        let mut on_token = |token| {
            // Models have embeddings beyond their tokenizer's vocabulary; such a token has no text.
            if tokenizer.token(token).is_none() {
                return ControlFlow::Continue(());
            }
            text.push(token, sink).unwrap_or_else(|error| {
                undecodable = Some(error);
                ControlFlow::Break(())
            })
        };
        let token = self
            .generation
            .step(session, &mut self.sampler, &mut on_token)?;
        match undecodable {
            Some(error) => Err(error.into()),
            None => Ok(token.is_some()),
        }
    }

    /// The whole answer; `sink` gets the text that was held back.
    pub(super) fn finish(
        self,
        session: &Session,
        sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Reply, AnswerError> {
        let mut completion = self.generation.finish(session);
        let (text, ended_by) = self.text.finish(sink)?;
        let stop = match (ended_by, completion.stop_token) {
            (Some(text), _) => {
                completion.stop_reason = StopReason::StopText;
                Some(Stop::Text(text))
            }
            (None, Some(id)) => {
                let token = self.stops.into_iter().find(|stop| stop.id == id);
                token.map(|token| Stop::Token {
                    token,
                    text: self.tokenizer.token(id).unwrap_or_default(),
                })
            }
            (None, None) => None,
        };
        Ok(Reply {
            text,
            completion,
            stop,
        })
    }
}

/// An answer's text while its tokens come.
struct AnswerText<'t> {
    stream: TextStream<'t>,
    stops: StopTexts,
    text: String,
    /// The stop text that ended it.
    ended_by: Option<String>,
}

impl AnswerText<'_> {
    fn push(
        &mut self,
        token: u32,
        sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, TokenizerError> {
        let piece = self.stream.push(token)?;
        Ok(self.give(&piece, sink))
    }

    fn give(
        &mut self,
        piece: &str,
        sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (piece, stop) = self.stops.push(piece);
        self.ended_by = stop.map(str::to_owned);
        self.text.push_str(&piece);
        let goes_on = match piece.is_empty() {
            true => ControlFlow::Continue(()),
            false => sink(&piece),
        };
        match self.ended_by {
            Some(_) => ControlFlow::Break(()),
            None => goes_on,
        }
    }

    /// The whole text, and the stop text that ended it.
    fn finish(
        mut self,
        sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<(String, Option<String>), TokenizerError> {
        if self.ended_by.is_none() {
            // The answer is over, so that nothing is left to stop; a stop text may be completed.
            let rest = self.stream.finish()?;
            let _ = self.give(&rest, sink);
        }
        if self.ended_by.is_none() {
            let rest = self.stops.finish();
            if !rest.is_empty() {
                self.text.push_str(&rest);
                let _ = sink(&rest);
            }
        }
        Ok((self.text, self.ended_by))
    }
}

/// The sampler that the options, or the model's files, ask for.
pub(super) fn sampler(model: &ModelText, options: &AnswerOptions) -> Result<Sampler, AnswerError> {
    Ok(Sampler::new(sampling(model, options)?)?)
}

/// How tokens are chosen: as asked for, or as the model's files say, whose values are then needed.
fn sampling(model: &ModelText, options: &AnswerOptions) -> Result<SamplerConfig, AnswerError> {
    if let Some(config) = &options.sampler {
        return Ok(config.clone());
    }
    match model.generation.unusable_but(&[]).0.first() {
        None => Ok(SamplerConfig::from(&model.generation)),
        Some(&unusable) => {
            let error = GenerationConfigError::from(unusable.clone());
            Err(ModelError::from(error).into())
        }
    }
}
