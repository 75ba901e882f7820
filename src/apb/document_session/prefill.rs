//! A document that is about to be prefilled.

use std::fmt;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::DocumentSession;
use crate::LanguageModel;
use crate::apb::cancel::CancelToken;
use crate::apb::config::{Method, PrefillConfig};
use crate::apb::error::AnswerError;
use crate::apb::observer::Observer;
use crate::apb::request::{AnchorQuery, AnswerOptions, Request};
use crate::ranks::RankGroup;
use crate::text::prompt::PromptOptions;

/// How far a prefill is. Displayed as `apb prefill: 1024 of 4096 tokens, 3.1 s left`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrefillProgress {
    /// What is computed.
    pub method: Method,
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

impl fmt::Display for PrefillProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            method,
            done,
            total,
            ..
        } = self;
        write!(f, "{method} prefill: {done} of {total} tokens")?;
        match self.remaining() {
            Some(left) => write!(f, ", {:.1} s left", left.as_secs_f64()),
            None => Ok(()),
        }
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
    ///     .progress(|progress| eprintln!("{progress}"))
    ///     .run()?;
    /// println!("{}", report.ask("What was decided?").max_tokens(64).run()?.text);
    /// for piece in report.ask("When will it begin?").stream()? {
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

    /// Tokens that the model was made for.
    pub(super) fn limit(&self) -> usize {
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
        self.options.chunk = Some(rows);
        self
    }

    /// Tokens that document, question and answer may have together, in place of the model's context.
    /// Beyond the context most models answer badly.
    pub fn limit(mut self, tokens: usize) -> Self {
        self.limit = Some(tokens);
        self.options.allow_long = true;
        self
    }

    /// Cancels the prefill, which then returns [`SessionError::Cancelled`](crate::apb::SessionError::Cancelled).
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
            method: request.plan.method,
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
    method: Method,
    cancel: CancelToken,
    progress: Box<dyn FnMut(PrefillProgress) + 'a>,
    started: Instant,
}

impl Observer for PrefillObserver<'_> {
    fn progress(&mut self, done: usize, total: usize) -> ControlFlow<()> {
        (self.progress)(PrefillProgress {
            method: self.method,
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
