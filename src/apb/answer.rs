//! From a document and a question to text.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Instant;

use super::compressor;
use super::config::{Document, PrefillConfig};
use super::error::SessionError;
use super::heads::HeadsError;
use super::plan::{PlanError, PrefillPlan};
use super::prefill::PrefillObserver;
use super::session::{
    AskOptions, Completion, DEFAULT_PREFILL_CHUNK, Session, SessionConfig, StopReason,
};
use crate::text::generation_config::GenerationConfigError;
use crate::text::prompt::PromptOptions;
use crate::text::sampler::{Sampler, SamplerConfig, SamplerError};
use crate::text::stop::{Stop, StopSource, StopTexts, StopToken};
use crate::text::text_stream::TextStream;
use crate::text::tokenizer::TokenizerError;
use crate::{LanguageModel, ModelError, ModelText};

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
///
/// ```
/// use burn_apb::apb::AnswerOptions;
///
/// let mut options = AnswerOptions {
///     stop_texts: vec!["\n\n".into()],
///     logprobs: Some(3),
///     ..AnswerOptions::default()
/// };
/// options.prompt.answer_prefix = "It was".into();
/// options.prompt.render.variables.insert("enable_thinking".into(), false.into());
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerOptions {
    /// How document and question become a prompt.
    pub prompt: PromptOptions,
    /// Most tokens of the answer.
    pub max_tokens: usize,
    /// Texts that end the answer, which then ends before them. One that is a token of its own, such
    /// as `<|im_end|>`, is a stop token.
    pub stop_texts: Vec<String>,
    /// Tokens that end the answer, beside the model's own.
    pub stop_tokens: Vec<u32>,
    /// Log-probabilities of each token of the answer and of this many of the likeliest in its place.
    pub logprobs: Option<usize>,
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
            prompt: PromptOptions::default(),
            max_tokens: 256,
            stop_texts: Vec::new(),
            stop_tokens: Vec::new(),
            logprobs: None,
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
        /// The model's context.
        context: usize,
    },
    /// The prompt is longer than the attention window of some layer.
    #[error(
        "document ({document} tokens), question ({query}) and answer ({answer}) need {needed} \
         tokens, but layers of this model attend to {window} at most, and sliding windows are not \
         computed; shorten the document"
    )]
    BeyondWindow {
        /// Document tokens, with what stands before them.
        document: usize,
        /// Question tokens, with the template's tail.
        query: usize,
        /// Tokens of the answer at most.
        answer: usize,
        /// All three.
        needed: usize,
        /// The window.
        window: usize,
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
    /// Control tokens that document and question spell out, with their numbers. They are text, unless
    /// [`PromptOptions::allow_control_tokens`] is set.
    pub control_tokens: Vec<(u32, usize)>,
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
        let split = model.split(document, question, &options.prompt)?;
        let anchor_query = match &options.anchor_query {
            AnchorQuery::Question => split.query.clone(),
            AnchorQuery::Text(hint) => model.split_query(hint, &options.prompt)?.query,
            AnchorQuery::None => Vec::new(),
        };
        let mut spelled = BTreeMap::new();
        for text in [document, question] {
            for (id, count) in model.tokenizer.control_tokens_in(text) {
                *spelled.entry(id).or_default() += count;
            }
        }
        let document = Document {
            prefix: split.prefix.len(),
            tokens: [split.prefix, split.document].concat(),
            anchor_query,
        };
        let query = [split.query, split.tail].concat();
        let needed = document.tokens.len() + query.len() + options.max_tokens;
        let context = model.config.context();
        if needed > context && !options.allow_long {
            return Err(AnswerError::TooLong {
                document: document.tokens.len(),
                query: query.len(),
                answer: options.max_tokens,
                needed,
                context,
            });
        }
        if let Some(window) = model.config.attention_window
            && needed > window
        {
            return Err(AnswerError::BeyondWindow {
                document: document.tokens.len(),
                query: query.len(),
                answer: options.max_tokens,
                needed,
                window,
            });
        }
        let plan = options.prefill.plan(&document, &model.config)?;
        compressor::inspect(&plan, &model.config)?;
        Ok(Self {
            document,
            query,
            plan,
            exact_split: split.exact,
            control_tokens: spelled.into_iter().collect(),
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
            .with_context(self.document.tokens.len() + self.query.len())
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
    let reply = reply(model, &mut session, &request.query, options, observer)?;
    Ok(Answer::new(request, reply, prefill_seconds))
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
/// An [`AnswerError`] when the question does not fit the session or sampling fails. Stopping the
/// answer is no error: what was generated is returned.
pub fn reply(
    model: &LanguageModel,
    session: &mut Session<'_>,
    query: &[u32],
    options: &AnswerOptions,
    observer: &mut dyn Observer,
) -> Result<Reply, AnswerError> {
    let mut sampler = Sampler::new(sampling(&model.text, options)?)?;
    let tokenizer = &model.text.tokenizer;
    let mut stops = model.text.stop_tokens_of(&options.prompt)?;
    let own = |id| StopToken {
        id,
        source: StopSource::Request,
    };
    stops.extend(options.stop_tokens.iter().copied().map(own));
    let spelled = options.stop_texts.iter();
    stops.extend(spelled.filter_map(|text| tokenizer.token_id(text)).map(own));
    let stop_ids: Vec<u32> = stops.iter().map(|stop| stop.id).collect();

    let mut answer = AnswerText {
        stream: TextStream::new(tokenizer, true),
        stops: StopTexts::new(&options.stop_texts),
        text: String::new(),
        ended_by: None,
        observer,
    };
    let mut undecodable = None;
    let asked = AskOptions {
        stop_tokens: &stop_ids,
        max_tokens: options.max_tokens,
        logprobs: options.logprobs,
    };
    let mut completion = session.ask_with(query, &mut sampler, asked, |token| {
        // Models have embeddings beyond their tokenizer's vocabulary; such a token has no text.
        if tokenizer.token(token).is_none() {
            return ControlFlow::Continue(());
        }
        answer.push(token).unwrap_or_else(|error| {
            undecodable = Some(error);
            ControlFlow::Break(())
        })
    })?;
    if let Some(error) = undecodable {
        return Err(error.into());
    }
    let (text, ended_by) = answer.finish()?;
    let stop = match (ended_by, completion.stop_token) {
        (Some(text), _) => {
            completion.stop_reason = StopReason::StopText;
            Some(Stop::Text(text))
        }
        (None, Some(id)) => stops
            .into_iter()
            .find(|stop| stop.id == id)
            .map(|token| Stop::Token {
                token,
                text: tokenizer.token(id).unwrap_or_default(),
            }),
        (None, None) => None,
    };
    Ok(Reply {
        text,
        completion,
        stop,
    })
}

/// An answer's text while its tokens come.
struct AnswerText<'a> {
    stream: TextStream<'a>,
    stops: StopTexts,
    text: String,
    /// The stop text that ended it.
    ended_by: Option<String>,
    observer: &'a mut dyn Observer,
}

impl AnswerText<'_> {
    fn push(&mut self, token: u32) -> Result<ControlFlow<()>, TokenizerError> {
        let piece = self.stream.push(token)?;
        Ok(self.give(&piece))
    }

    fn give(&mut self, piece: &str) -> ControlFlow<()> {
        let (piece, stop) = self.stops.push(piece);
        self.ended_by = stop.map(str::to_owned);
        self.text.push_str(&piece);
        let goes_on = match piece.is_empty() {
            true => ControlFlow::Continue(()),
            false => self.observer.text(&piece),
        };
        match self.ended_by {
            Some(_) => ControlFlow::Break(()),
            None => goes_on,
        }
    }

    /// The whole text, and the stop text that ended it.
    fn finish(mut self) -> Result<(String, Option<String>), TokenizerError> {
        if self.ended_by.is_none() {
            // The answer is over, so that nothing is left to stop; a stop text may be completed.
            let rest = self.stream.finish()?;
            let _ = self.give(&rest);
        }
        if self.ended_by.is_none() {
            let rest = self.stops.finish();
            if !rest.is_empty() {
                self.text.push_str(&rest);
                let _ = self.observer.text(&rest);
            }
        }
        Ok((self.text, self.ended_by))
    }
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
