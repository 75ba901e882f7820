//! The method: how a long document is prefilled, and how questions about it are answered exactly.
//!
//! This version prefills with full attention on one rank. A [`Session`] prefills a document once
//! and answers any number of questions, each of which leaves the cache as it found it.

mod answer;
pub mod compressor;
mod config;
mod session;

pub use answer::{Answer, AnswerError, AnswerOptions, Observer, answer, answer_with};
pub use config::{Method, MethodError};
pub use session::{
    Completion, DEFAULT_PREFILL_CHUNK, Session, SessionConfig, SessionError, StopReason,
};
