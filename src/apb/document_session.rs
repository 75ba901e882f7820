//! A prefilled document that is asked in text.
//!
//! | file | holds |
//! |---|---|
//! | `prefill` | [`PrefillBuilder`]: a document about to be prefilled |
//! | `ask` | [`Ask`]: a question about to be asked, and its answer as an iterator |
//! | `async_stream` | its answer as a stream (feature `tokio`) |

mod ask;
#[cfg(feature = "tokio")]
mod async_stream;
mod prefill;

use std::path::Path;
use std::time::Duration;

use super::error::AnswerError;
use super::plan::PrefillPlan;
use super::request::AnswerOptions;
use super::saved::{SaveOptions, SavedSession};
use super::session::Session;
use crate::text::prompt::PromptOptions;
use crate::{LanguageModel, ModelError};

pub use ask::{AnswerStream, Ask};
#[cfg(feature = "tokio")]
pub use async_stream::AnswerPieces;
pub use prefill::{PrefillBuilder, PrefillProgress};

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
        Ask::new(self, question.into())
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

    /// Tokens that document, question and answer may have together, in place of the model's context.
    pub fn set_limit(&mut self, tokens: usize) {
        self.session.set_limit(tokens);
        self.options.allow_long = true;
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

impl LanguageModel {
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
        let mut session = saved.restore(self.decoder.clone(), 0)?;
        session.set_limit(limit);
        Ok(DocumentSession {
            model: self.clone(),
            session,
            options: AnswerOptions::default(),
            prefill_time: Duration::ZERO,
        })
    }
}
