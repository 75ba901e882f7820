//! A question that is about to be asked, and its answer.

use std::fmt;
use std::ops::ControlFlow;

use burn::tensor::Tensor;

use super::DocumentSession;
use crate::apb::answer::{Answering, Reply, sampler};
use crate::apb::cancel::CancelToken;
use crate::apb::error::{AnswerError, SessionError};
use crate::apb::request::AnswerOptions;
use crate::apb::session::Session;
use crate::text::sampler::{LogitsProcessor, Sampler, SamplerConfig};

/// A question that is about to be asked; [`DocumentSession::ask`] makes one.
#[must_use = "nothing is computed before `run`, `stream`, `logits` or `hidden`"]
pub struct Ask<'d> {
    pub(super) document: &'d mut DocumentSession,
    pub(super) question: String,
    pub(super) options: AnswerOptions,
    pub(super) sampler: Option<Sampler>,
    pub(super) processors: Vec<Box<dyn LogitsProcessor>>,
    pub(super) cancel: CancelToken,
}

impl fmt::Debug for Ask<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask")
            .field("question", &self.question)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl<'d> Ask<'d> {
    /// A question with the document's options.
    pub(super) fn new(document: &'d mut DocumentSession, question: String) -> Self {
        Self {
            options: document.options.clone(),
            document,
            question,
            sampler: None,
            processors: Vec::new(),
            cancel: CancelToken::new(),
        }
    }

    /// Most tokens of the answer.
    pub fn max_tokens(mut self, tokens: usize) -> Self {
        self.options.max_tokens = tokens;
        self
    }

    /// How tokens are chosen, in place of what the model's files say.
    pub fn sampling(mut self, config: SamplerConfig) -> Self {
        self.options.sampler = Some(config);
        self
    }

    /// A sampler, such as one of another random generator, in place of a configuration.
    pub fn sampler(mut self, sampler: Sampler) -> Self {
        self.sampler = Some(sampler);
        self
    }

    /// Changes the logits before each choice: constrained output, penalties, bans. Processors run in the order
    /// they are given, before temperature, top-k and the like.
    pub fn processor(mut self, processor: impl LogitsProcessor + 'static) -> Self {
        self.processors.push(Box::new(processor));
        self
    }

    /// A text that ends the answer, which then ends before it.
    pub fn stop_text(mut self, text: impl Into<String>) -> Self {
        self.options.stop_texts.push(text.into());
        self
    }

    /// A token that ends the answer, beside the model's own.
    pub fn stop_token(mut self, token: u32) -> Self {
        self.options.stop_tokens.push(token);
        self
    }

    /// Log-probabilities of each token of the answer and of the `top` likeliest in its place.
    pub fn logprobs(mut self, top: usize) -> Self {
        self.options.logprobs = Some(top);
        self
    }

    /// The text that the answer begins with; it is not part of what is returned.
    pub fn answer_prefix(mut self, text: impl Into<String>) -> Self {
        self.options.prompt.answer_prefix = text.into();
        self
    }

    /// Cancels the question, which then returns [`SessionError::Cancelled`],
    /// or the answer, which ends with what there is.
    pub fn cancel(mut self, token: &CancelToken) -> Self {
        self.cancel = token.clone();
        self
    }

    /// Answers.
    ///
    /// # Errors
    ///
    /// An [`AnswerError`] when the question is empty or too long, or sampling fails.
    pub fn run(self) -> Result<Reply, AnswerError> {
        let (session, answering) = self.answering()?;
        answering.run(session, &mut |_| ControlFlow::Continue(()))
    }

    /// Answers piece by piece, as they are asked for: an iterator of text, whole characters. Dropping it ends
    /// the answer.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run); what fails later is an item.
    pub fn stream(self) -> Result<AnswerStream<'d>, AnswerError> {
        let (session, answering) = self.answering()?;
        Ok(AnswerStream {
            session,
            answering: Some(answering),
            reply: None,
        })
    }

    /// An answer that nothing has been computed of.
    fn answering(self) -> Result<(&'d mut Session, Answering<'d>), AnswerError> {
        let query = self.query()?;
        let DocumentSession { model, session, .. } = self.document;
        let (text, options) = (&model.text, &self.options);
        let sampler = match self.sampler {
            Some(sampler) => sampler,
            None => sampler(text, options)?,
        };
        let sampler = sampler.with_processors(self.processors);
        let answering = Answering::new(text, session, &query, options, sampler, &self.cancel)?;
        Ok((session, answering))
    }

    /// The model's logits for the answer's first token, one for each entry of the vocabulary.
    ///
    /// # Errors
    ///
    /// An [`AnswerError`] when the question is empty or too long.
    pub fn logits(self) -> Result<Vec<f32>, AnswerError> {
        self.with_rows(Session::last_logits)
    }

    /// The final norm's output `[1, tokens, hidden]` of the question's rows, with the template's tail: features
    /// for a classifier.
    ///
    /// # Errors
    ///
    /// An [`AnswerError`] when the question is empty or too long.
    pub fn hidden(self) -> Result<Tensor<3>, AnswerError> {
        self.with_rows(|_, rows| Ok(rows))
    }

    /// Computes the question's rows, and what is read from them; no answer follows.
    fn with_rows<T>(
        mut self,
        read: impl FnOnce(&Session, Tensor<3>) -> Result<T, SessionError>,
    ) -> Result<T, AnswerError> {
        self.options.max_tokens = 0;
        let query = self.query()?;
        let session = &mut self.document.session;
        session.rewind();
        let rows = session.extend_until(&query, &self.cancel);
        let found = rows.and_then(|rows| read(session, rows));
        session.rewind();
        Ok(found?)
    }

    /// The question's tokens, with the template's tail, if they and the answer fit the model's context.
    pub(super) fn query(&self) -> Result<Vec<u32>, AnswerError> {
        let text = &self.document.model.text;
        let split = text.split_query(&self.question, &self.options.prompt)?;
        let query = [split.query, split.tail].concat();
        let document = self.document.tokens().len();
        self.options
            .check_context(&text.config, document, query.len())?;
        Ok(query)
    }
}

/// The pieces of an answer, computed as they are asked for. Dropping it ends the answer.
pub struct AnswerStream<'d> {
    session: &'d mut Session,
    answering: Option<Answering<'d>>,
    reply: Option<Reply>,
}

impl fmt::Debug for AnswerStream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerStream")
            .field("reply", &self.reply)
            .finish_non_exhaustive()
    }
}

impl AnswerStream<'_> {
    /// The whole answer, why it ended and the time it took; none before its last piece.
    pub fn reply(&self) -> Option<&Reply> {
        self.reply.as_ref()
    }
}

impl Iterator for AnswerStream<'_> {
    type Item = Result<String, AnswerError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut text = String::new();
        while let Some(answering) = &mut self.answering {
            let mut sink = |piece: &str| {
                text.push_str(piece);
                ControlFlow::Continue(())
            };
            match answering.step(self.session, &mut sink) {
                Ok(true) => {}
                Ok(false) => {
                    let ended = self.answering.take()?.finish(self.session, &mut sink);
                    match ended {
                        Ok(reply) => self.reply = Some(reply),
                        Err(error) => return Some(Err(error)),
                    }
                }
                Err(error) => {
                    self.answering = None;
                    return Some(Err(error));
                }
            }
            if !text.is_empty() {
                return Some(Ok(text));
            }
        }
        None
    }
}

impl Drop for AnswerStream<'_> {
    fn drop(&mut self) {
        self.session.rewind();
    }
}
