//! From a document and a question to text.

use std::ops::ControlFlow;
use std::time::Instant;

use super::config::Method;
use super::session::{Completion, DEFAULT_PREFILL_CHUNK, Session, SessionConfig, SessionError};
use crate::model::prompt::Prompt;
use crate::model::sampler::{Sampler, SamplerConfig, SamplerError};
use crate::model::text_stream::TextStream;
use crate::model::tokenizer::TokenizerError;
use crate::model::{LanguageModel, ModelError};

/// How a question is answered.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerOptions {
    /// Most tokens of the answer.
    pub max_tokens: usize,
    /// How tokens are chosen; none: as the model's `generation_config.json` says.
    pub sampler: Option<SamplerConfig>,
    /// Rows of one prefill pass.
    pub chunk: usize,
    /// Go on when the prompt is longer than the context the model was made for.
    pub allow_long: bool,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            sampler: None,
            chunk: DEFAULT_PREFILL_CHUNK,
            allow_long: false,
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
    /// What was computed.
    pub method: Method,
    /// Seconds from the first document row to the last.
    pub prefill_seconds: f64,
    /// Whether the prompt's pieces have the tokens that the whole would have.
    pub exact_split: bool,
}

impl Answer {
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
    let prompt = Prompt::new(document, question);
    answer_with(model, &prompt, &AnswerOptions::default(), &mut ())
}

/// Answers a question about a document, telling `observer` how it comes along.
///
/// # Errors
///
/// As [`answer`]; [`SessionError::Cancelled`] when the observer stopped the prefill. Stopping the
/// answer itself is no error: what was generated is returned.
pub fn answer_with(
    model: &LanguageModel,
    prompt: &Prompt<'_>,
    options: &AnswerOptions,
    observer: &mut dyn Observer,
) -> Result<Answer, AnswerError> {
    let sampling = match &options.sampler {
        Some(config) => config.clone(),
        None => SamplerConfig::from(&model.generation),
    };
    let mut sampler = Sampler::new(sampling)?;
    let split = model.split(prompt)?;
    let document = split.document_tokens();
    let query = split.query_tokens();
    let needed = document.len() + query.len() + options.max_tokens;
    let context = model.config.max_position_embeddings;
    if needed > context && !options.allow_long {
        return Err(AnswerError::TooLong {
            document: document.len(),
            query: query.len(),
            answer: options.max_tokens,
            needed,
            context,
        });
    }

    let config = SessionConfig::new(needed)
        .with_dtype(model.dtype)
        .with_chunk(options.chunk);
    let mut session = Session::new(&model.decoder, &model.config, config, &model.device);
    let started = Instant::now();
    session.prefill(&document, |done, total| observer.prefilled(done, total))?;
    let prefill_seconds = started.elapsed().as_secs_f64();

    let mut stream = TextStream::new(&model.tokenizer, true);
    let mut text = String::new();
    let mut undecodable = None;
    let completion = session.ask(
        &query,
        &mut sampler,
        &model.generation.eos_token_ids,
        options.max_tokens,
        |token| match stream.push(token) {
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
    Ok(Answer {
        text,
        completion,
        document_tokens: document.len(),
        query_tokens: query.len(),
        method: Method::Full,
        prefill_seconds,
        exact_split: split.exact,
    })
}
