//! From a document and a question to text.

use std::ops::ControlFlow;
use std::time::Instant;

use super::compressor::{self, HeadsError};
use super::config::{Document, PrefillConfig};
use super::error::SessionError;
use super::plan::{PlanError, PrefillPlan};
use super::prefill::PrefillObserver;
use super::session::{Completion, DEFAULT_PREFILL_CHUNK, Session, SessionConfig};
use crate::model::sampler::{Sampler, SamplerConfig, SamplerError};
use crate::model::text_stream::TextStream;
use crate::model::tokenizer::TokenizerError;
use crate::model::{LanguageModel, ModelError, ModelText};

/// Which query every rank sees in its anchor (APB only).
///
/// The anchor's query is fixed when the document is prefilled: it steers what ranks pass on. Later
/// questions are still answered exactly over what the cache holds, but what was computed for the
/// document's rows was computed with this query in view. In the paper's ablation an anchor without a
/// query costs 4 points of 72.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AnchorQuery {
    /// The question that comes with the document.
    #[default]
    Question,
    /// A hint at what will be asked.
    Text(String),
    /// Nothing.
    None,
}

/// How a question is answered.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerOptions {
    /// System prompt, in place of the chat template's own.
    pub system: Option<String>,
    /// Most tokens of the answer.
    pub max_tokens: usize,
    /// How tokens are chosen; none: as the model's `generation_config.json` says.
    pub sampler: Option<SamplerConfig>,
    /// Rows of one pass of full attention, and of one tile of the MLP.
    pub chunk: usize,
    /// Go on when the prompt is longer than the context the model was made for.
    pub allow_long: bool,
    /// Strategy, ranks and lengths.
    pub prefill: PrefillConfig,
    /// The query in the anchor.
    pub anchor_query: AnchorQuery,
    /// Room for further questions and their answers, in tokens.
    pub headroom: usize,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self {
            system: None,
            max_tokens: 256,
            sampler: None,
            chunk: DEFAULT_PREFILL_CHUNK,
            allow_long: false,
            prefill: PrefillConfig::default(),
            anchor_query: AnchorQuery::default(),
            headroom: 0,
        }
    }
}

/// Hears how an answer comes along, and may stop it by returning [`ControlFlow::Break`].
pub trait Observer {
    /// `done` of `total` document tokens are prefilled.
    fn prefilled(&mut self, done: usize, total: usize) -> ControlFlow<()> {
        let _ = (done, total);
        ControlFlow::Continue(())
    }

    /// The answer goes on with `text`; never a part of a character.
    fn text(&mut self, text: &str) -> ControlFlow<()> {
        let _ = text;
        ControlFlow::Continue(())
    }
}

/// Hears nothing.
impl Observer for () {}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The prompt cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Prefill, question or decoding failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A generated token cannot be turned into text.
    #[error(transparent)]
    Text(#[from] TokenizerError),
    /// Ranks, lengths or method do not fit the document or the model.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The retaining heads cannot be used.
    #[error(transparent)]
    Heads(#[from] HeadsError),
    /// The sampling options are not usable.
    #[error(transparent)]
    Sample(#[from] SamplerError),
    /// The prompt is longer than the model was made for.
    #[error(
        "document ({document} tokens), question ({query}) and answer ({answer}) need {needed} \
         tokens, but the model's context is {context}; shorten the document, or go on regardless \
         with --allow-long"
    )]
    TooLong {
        /// Document tokens, with what stands before them.
        document: usize,
        /// Question tokens, with the template's tail.
        query: usize,
        /// Tokens of the answer at most.
        answer: usize,
        /// All three.
        needed: usize,
        /// The model's `max_position_embeddings`.
        context: usize,
    },
}

/// An answer and how it came about.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Answer {
    /// The answer.
    pub text: String,
    /// Its tokens, why it ended, and the time decoding took.
    pub completion: Completion,
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
}

impl Answer {
    /// The answer to a request.
    pub fn new(
        request: &Request,
        text: String,
        completion: Completion,
        prefill_seconds: f64,
    ) -> Self {
        Self {
            text,
            completion,
            document_tokens: request.document.tokens.len(),
            query_tokens: request.query.len(),
            plan: request.plan.clone(),
            prefill_seconds,
            exact_split: request.exact_split,
        }
    }

    /// Document tokens prefilled a second.
    pub fn prefill_tokens_per_second(&self) -> f64 {
        self.document_tokens as f64 / self.prefill_seconds
    }
}

/// A document and a question in tokens, with a plan that fits them: all that can be checked before a
/// weight is read.
#[derive(Debug, Clone)]
pub struct Request {
    /// What is prefilled.
    pub document: Document,
    /// The question's tokens, with the template's tail.
    pub query: Vec<u32>,
    /// How it is prefilled.
    pub plan: PrefillPlan,
    /// Whether the prompt's pieces have the tokens that the whole would have.
    pub exact_split: bool,
    /// Tokens that the session needs room for.
    pub capacity: usize,
}

impl Request {
    /// Puts document and question into the model's prompt and checks that everything fits.
    ///
    /// # Errors
    ///
    /// An [`AnswerError`] when the prompt cannot be built, is longer than the model's context, or the
    /// strategy's lengths or heads do not fit it.
    pub fn new(
        model: &ModelText,
        document: &str,
        question: &str,
        options: &AnswerOptions,
    ) -> Result<Self, AnswerError> {
        let system = options.system.as_deref();
        let split = model.split(document, question, system)?;
        let anchor_query = match &options.anchor_query {
            AnchorQuery::Question => split.query.clone(),
            AnchorQuery::Text(hint) => model.split_query(hint, system)?.query,
            AnchorQuery::None => Vec::new(),
        };
        let document = Document {
            prefix: split.prefix.len(),
            tokens: [split.prefix, split.document].concat(),
            anchor_query,
        };
        let query = [split.query, split.tail].concat();
        let needed = document.tokens.len() + query.len() + options.max_tokens;
        let context = model.config.max_position_embeddings;
        if needed > context && !options.allow_long {
            return Err(AnswerError::TooLong {
                document: document.tokens.len(),
                query: query.len(),
                answer: options.max_tokens,
                needed,
                context,
            });
        }
        let plan = options.prefill.plan(&document, &model.config)?;
        compressor::inspect(&plan, &model.config)?;
        Ok(Self {
            document,
            query,
            plan,
            exact_split: split.exact,
            capacity: needed + options.headroom,
        })
    }

    /// Prefills the document into a session of its own; also returns the seconds that took.
    ///
    /// # Errors
    ///
    /// An [`AnswerError`] when the heads cannot be loaded or the prefill fails or is stopped.
    pub fn prefill<'m>(
        &self,
        model: &'m LanguageModel,
        options: &AnswerOptions,
        observer: &mut dyn PrefillObserver,
    ) -> Result<(Session<'m>, f64), AnswerError> {
        let compressor =
            compressor::load(&self.plan, &model.text.config, model.dtype, &model.device)?;
        let config = SessionConfig::new(self.capacity)
            .with_dtype(model.dtype)
            .with_chunk(options.chunk);
        let mut session = Session::new(&model.decoder, &model.text.config, config, &model.device);
        let started = Instant::now();
        session.prefill_with(&self.document, &self.plan, compressor.as_deref(), observer)?;
        Ok((session, started.elapsed().as_secs_f64()))
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

/// Answers a question about a document, telling `observer` how it comes along.
///
/// # Errors
///
/// As [`answer`]; [`SessionError::Cancelled`] when the observer stopped the prefill. Stopping the
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
    let mut progress = |done: usize, total: usize| observer.prefilled(done, total);
    let (mut session, prefill_seconds) = request.prefill(model, options, &mut progress)?;
    let (text, completion) = reply(model, &mut session, &request.query, options, observer)?;
    Ok(Answer::new(request, text, completion, prefill_seconds))
}

/// Asks a session, whose document is prefilled, and turns the answer into text. `query` are the
/// question's tokens with the template's tail.
///
/// # Errors
///
/// An [`AnswerError`] when the question does not fit the session or sampling fails. Stopping the
/// answer is no error: what was generated is returned.
pub fn reply(
    model: &LanguageModel,
    session: &mut Session<'_>,
    query: &[u32],
    options: &AnswerOptions,
    observer: &mut dyn Observer,
) -> Result<(String, Completion), AnswerError> {
    let sampling = match &options.sampler {
        Some(config) => config.clone(),
        None => SamplerConfig::from(&model.text.generation),
    };
    let mut sampler = Sampler::new(sampling)?;
    let tokenizer = &model.text.tokenizer;
    let mut stream = TextStream::new(tokenizer, true);
    let mut text = String::new();
    let mut undecodable = None;
    let completion = session.ask(
        query,
        &mut sampler,
        &model.text.generation.eos_token_ids,
        options.max_tokens,
        // Models have embeddings beyond their tokenizer's vocabulary; such a token has no text.
        |token| match tokenizer.token(token) {
            None => ControlFlow::Continue(()),
            Some(_) => match stream.push(token) {
                Ok(piece) if piece.is_empty() => ControlFlow::Continue(()),
                Ok(piece) => {
                    text.push_str(&piece);
                    observer.text(&piece)
                }
                Err(error) => {
                    undecodable = Some(error);
                    ControlFlow::Break(())
                }
            },
        },
    )?;
    if let Some(error) = undecodable {
        return Err(error.into());
    }
    let rest = stream.finish()?;
    if !rest.is_empty() {
        text.push_str(&rest);
        // The answer is over: there is nothing left to stop.
        let _ = observer.text(&rest);
    }
    Ok((text, completion))
}
