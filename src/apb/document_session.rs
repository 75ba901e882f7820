//! A prefilled document that is asked in text.

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use burn::tensor::Tensor;

use super::answer::{Answering, Reply, sampler};
use super::cancel::CancelToken;
use super::config::PrefillConfig;
use super::error::{AnswerError, SessionError};
use super::observer::Observer;
use super::plan::PrefillPlan;
use super::request::{AnchorQuery, AnswerOptions, Request};
use super::saved::{SaveOptions, SavedSession};
use super::session::Session;
use crate::ranks::RankGroup;
use crate::text::prompt::PromptOptions;
use crate::text::sampler::{LogitsProcessor, Sampler, SamplerConfig};
use crate::{LanguageModel, ModelError};

/// How far a prefill is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrefillProgress {
    /// Tokens prefilled.
    pub done: usize,
    /// Tokens of the document, with what stands before it.
    pub total: usize,
    /// Since the prefill began.
    pub elapsed: Duration,
}

impl PrefillProgress {
    /// The time left, if what is left takes as long as what is done; none before anything is done.
    pub fn remaining(&self) -> Option<Duration> {
        let left = self.total.saturating_sub(self.done) as f64;
        (self.done > 0).then(|| self.elapsed.mul_f64(left / self.done as f64))
    }
}

impl LanguageModel {
    /// Prepares to prefill a document, by full attention unless stated otherwise.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use burn_apb::LanguageModel;
    /// use burn_apb::apb::{Method, PrefillConfig};
    ///
    /// let model = LanguageModel::load("SmolLM2-135M-Instruct", &burn::tensor::Device::flex())?;
    /// let text = std::fs::read_to_string("report.txt")?;
    /// let mut report = model
    ///     .prefill(&text)
    ///     .method(PrefillConfig::new(Method::Apb, 4))
    ///     .hint("decisions and their reasons")
    ///     .progress(|p| eprintln!("{} of {} tokens", p.done, p.total))
    ///     .run()?;
    /// println!("{}", report.ask("What was decided?").max_tokens(64).run()?.text);
    /// for piece in report.ask("By whom?").stream()? {
    ///     print!("{}", piece?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn prefill<'a>(&self, document: &'a str) -> PrefillBuilder<'a> {
        PrefillBuilder {
            model: self.clone(),
            document,
            options: AnswerOptions::default(),
            limit: None,
            cancel: CancelToken::new(),
            progress: Box::new(|_| {}),
        }
    }

    /// A document that was prefilled before and [saved](DocumentSession::save).
    ///
    /// # Errors
    ///
    /// [`AnswerError::Saved`] when there is no session in the folder, it is damaged, or of another model.
    pub fn open_session(&self, folder: impl AsRef<Path>) -> Result<DocumentSession, AnswerError> {
        let saved = SavedSession::open(folder)?;
        let fingerprint = self.source.fingerprint().map_err(ModelError::from)?;
        saved.check_model(&fingerprint)?;
        let limit = self.limit().max(saved.plan().tokens);
        let session = saved.restore(self.decoder.clone(), 0)?;
        Ok(DocumentSession {
            model: self.clone(),
            session: session.with_limit(limit),
            options: AnswerOptions::default(),
            prefill_time: Duration::ZERO,
        })
    }

    /// Tokens that the model was made for.
    fn limit(&self) -> usize {
        let config = &self.text.config;
        config
            .context()
            .min(config.attention_window.unwrap_or(usize::MAX))
    }
}

/// A prefill that is about to be run; [`LanguageModel::prefill`] makes one.
#[must_use = "nothing is computed before `run`"]
pub struct PrefillBuilder<'a> {
    model: LanguageModel,
    document: &'a str,
    options: AnswerOptions,
    limit: Option<usize>,
    cancel: CancelToken,
    progress: Box<dyn FnMut(PrefillProgress) + 'a>,
}

impl fmt::Debug for PrefillBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrefillBuilder")
            .field("options", &self.options)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl<'a> PrefillBuilder<'a> {
    /// Method, ranks, lengths and compressor.
    pub fn method(mut self, config: PrefillConfig) -> Self {
        self.options.prefill = config;
        self
    }

    /// What will be asked: every rank sees it in its anchor (APB only).
    pub fn hint(mut self, text: impl Into<String>) -> Self {
        self.options.anchor_query = AnchorQuery::Text(text.into());
        self
    }

    /// System prompt, chat template and its variables, for the document and its questions.
    pub fn prompt(mut self, options: PromptOptions) -> Self {
        self.options.prompt = options;
        self
    }

    /// Rows of one pass of full attention, and of one tile of the MLP.
    pub fn chunk(mut self, rows: usize) -> Self {
        self.options.chunk = rows;
        self
    }

    /// Tokens that document, question and answer may have together, in place of the model's context.
    /// Beyond the context most models answer badly.
    pub fn limit(mut self, tokens: usize) -> Self {
        self.limit = Some(tokens);
        self.options.allow_long = true;
        self
    }

    /// Cancels the prefill, which then returns [`SessionError::Cancelled`].
    pub fn cancel(mut self, token: &CancelToken) -> Self {
        self.cancel = token.clone();
        self
    }

    /// Called after every layer of every chunk.
    pub fn progress(mut self, call: impl FnMut(PrefillProgress) + 'a) -> Self {
        self.progress = Box::new(call);
        self
    }

    /// Prefills the document.
    ///
    /// # Errors
    ///
    /// An [`AnswerError`] when the prompt cannot be built, is longer than the model's context, the
    /// method's lengths or heads do not fit, or the prefill was cancelled.
    pub fn run(self) -> Result<DocumentSession, AnswerError> {
        let Self {
            model,
            document,
            options,
            limit,
            cancel,
            progress,
        } = self;
        let mut request = Request::of_document(&model.text, document, &options)?;
        request.check_heads(&model.text.config, &model.source)?;
        let limit = limit.unwrap_or_else(|| model.limit());
        request.session = request.session.with_limit(limit);
        let mut observer = PrefillObserver {
            cancel,
            progress,
            started: Instant::now(),
        };
        let group = RankGroup::local(request.plan.ranks);
        let (session, seconds) = request.prefill(model.decoder.clone(), group, &mut observer)?;
        Ok(DocumentSession {
            model,
            session,
            options,
            prefill_time: Duration::from_secs_f64(seconds),
        })
    }
}

struct PrefillObserver<'a> {
    cancel: CancelToken,
    progress: Box<dyn FnMut(PrefillProgress) + 'a>,
    started: Instant,
}

impl Observer for PrefillObserver<'_> {
    fn progress(&mut self, done: usize, total: usize) -> ControlFlow<()> {
        (self.progress)(PrefillProgress {
            done,
            total,
            elapsed: self.started.elapsed(),
        });
        ControlFlow::Continue(())
    }

    fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }
}

/// A prefilled document that is asked in text.
///
/// It owns all that it needs, so it can be sent to another thread and sit in an application's state. Every
/// question is asked of the document alone; answers leave it as it was. Memory grows with the longest
/// question and answer, up to the model's context.
#[derive(Debug)]
pub struct DocumentSession {
    model: LanguageModel,
    session: Session,
    options: AnswerOptions,
    prefill_time: Duration,
}

impl DocumentSession {
    /// Prepares a question.
    pub fn ask(&mut self, question: impl Into<String>) -> Ask<'_> {
        Ask {
            options: self.options.clone(),
            document: self,
            question: question.into(),
            sampler: None,
            processors: Vec::new(),
            cancel: CancelToken::new(),
        }
    }

    /// A second session of the same document. The document's keys and values are shared; each session has
    /// room of its own for questions and answers.
    ///
    /// # Errors
    ///
    /// An [`AnswerError`] when the cache cannot be read.
    pub fn fork(&mut self) -> Result<Self, AnswerError> {
        Ok(Self {
            model: self.model.clone(),
            session: self.session.fork()?,
            options: self.options.clone(),
            prefill_time: self.prefill_time,
        })
    }

    /// Saves the prefilled document into a folder; [`LanguageModel::open_session`] reads it. Returns the
    /// bytes written.
    ///
    /// # Errors
    ///
    /// [`AnswerError::Saved`] when a session is there already, or a file cannot be written.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<u64, AnswerError> {
        self.save_with(folder.as_ref(), SaveOptions::default())
    }

    /// [`save`](Self::save) in place of the session that the folder holds, which is replaced whole.
    ///
    /// # Errors
    ///
    /// [`AnswerError::Saved`] when a file cannot be written.
    pub fn save_over(&self, folder: impl AsRef<Path>) -> Result<u64, AnswerError> {
        self.save_with(folder.as_ref(), SaveOptions::default().with_replace(true))
    }

    fn save_with(&self, folder: &Path, options: SaveOptions) -> Result<u64, AnswerError> {
        let fingerprint = self.model.source.fingerprint();
        let fingerprint = fingerprint.map_err(ModelError::from)?;
        Ok(self.session.save(folder, &fingerprint, options)?)
    }

    /// The prompt's options for its questions; those it was prefilled with, unless it was saved.
    pub fn set_prompt(&mut self, options: PromptOptions) {
        self.options.prompt = options;
    }

    /// The model.
    pub fn model(&self) -> &LanguageModel {
        &self.model
    }

    /// The document's tokens, with what stands before it.
    pub fn tokens(&self) -> &[u32] {
        self.session.document()
    }

    /// How it was prefilled.
    pub fn plan(&self) -> Option<&PrefillPlan> {
        self.session.plan()
    }

    /// The time that took; zero of a saved session.
    pub fn prefill_time(&self) -> Duration {
        self.prefill_time
    }
}

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
    /// Most tokens of the answer.
    pub fn max_tokens(mut self, tokens: usize) -> Self {
        self.options.max_tokens = tokens;
        self
    }

    /// How tokens are chosen, in place of what the model's files say.
    pub fn sampler(mut self, config: SamplerConfig) -> Self {
        self.options.sampler = Some(config);
        self
    }

    /// A sampler of one's own, such as one of another random generator, in place of any configuration.
    pub fn own_sampler(mut self, sampler: Sampler) -> Self {
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
        let mut stream = self.stream()?;
        loop {
            match stream.next() {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        // A stream that ended without an error has a reply.
        stream.reply.take().ok_or(SessionError::NoDocument.into())
    }

    /// Answers piece by piece, as they are asked for: an iterator of text, whole characters. Dropping it ends
    /// the answer.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run); what fails later is an item.
    pub fn stream(self) -> Result<AnswerStream<'d>, AnswerError> {
        let query = self.query()?;
        let DocumentSession { model, session, .. } = self.document;
        let (text, options) = (&model.text, &self.options);
        let sampler = match self.sampler {
            Some(sampler) => sampler,
            None => sampler(text, options)?,
        };
        let sampler = sampler.with_processors(self.processors);
        let answering = Answering::new(text, session, &query, options, sampler, &self.cancel)?;
        Ok(AnswerStream {
            session,
            answering: Some(answering),
            reply: None,
        })
    }

    /// The model's logits for the answer's first token, one for each entry of the vocabulary.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn logits(self) -> Result<Vec<f32>, AnswerError> {
        let query = self.query()?;
        let session = &mut self.document.session;
        session.rewind();
        let rows = session.extend_until(&query, &self.cancel)?;
        let logits = session.last_logits(rows);
        session.rewind();
        Ok(logits?)
    }

    /// The final norm's output `[1, tokens, hidden]` of the question's rows, with the template's tail: features
    /// for a classifier.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn hidden(self) -> Result<Tensor<3>, AnswerError> {
        let query = self.query()?;
        let session = &mut self.document.session;
        session.rewind();
        let rows = session.extend_until(&query, &self.cancel);
        session.rewind();
        Ok(rows?)
    }

    /// The question's tokens, with the template's tail.
    pub(super) fn query(&self) -> Result<Vec<u32>, AnswerError> {
        let text = &self.document.model.text;
        let split = text.split_query(&self.question, &self.options.prompt)?;
        Ok([split.query, split.tail].concat())
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
