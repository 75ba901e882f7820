//! The method: how a long document is prefilled over ranks, and how questions about it are answered
//! exactly.
//!
//! | to | use |
//! |---|---|
//! | answer a question about a text | [`answer`], [`answer_with`]; [`Request`] to check everything before weights are read |
//! | choose strategy, ranks and lengths | [`PrefillConfig`], which makes a [`PrefillPlan`] |
//! | prefill once, ask often, save and restore | [`Session`], [`SavedSession`] |
//! | choose what ranks pass on | [`compressor`] |
//! | watch a prefill | [`PrefillObserver`] |
//!
#![doc = include_str!("method.md")]

mod answer;
pub mod compressor;
mod config;
mod error;
pub mod heads;
mod host;
mod layout;
mod logprobs;
mod passing;
mod plan;
mod prefill;
mod saved;
mod session;
mod share;
mod strategy;

pub use answer::{
    AnchorQuery, Answer, AnswerError, AnswerOptions, Observer, Reply, Request, answer,
    answer_request, answer_with, reply,
};
pub use config::{CompressorConfig, Document, Method, PrefillConfig, RingLayout, UnknownName};
pub use error::SessionError;
pub use layout::{AnchorSource, Layout, RankRows};
pub use logprobs::TokenLogprobs;
pub use passing::{POOL, Selection};
pub use plan::{PlanError, PrefillPlan};
pub use prefill::{Part, PrefillObserver};
pub use saved::{PreparedSave, SavedError, SavedSession, discard_unfinished};
pub use session::{
    AskOptions, Completion, DEFAULT_PREFILL_CHUNK, Session, SessionConfig, StopReason,
};
pub use share::{Assignment, DocumentShare};
