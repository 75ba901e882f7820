//! The method: how a long document is prefilled over ranks, and how questions about it are answered
//! exactly.
//!
//! | to | use |
//! |---|---|
//! | prefill a text once, ask, stream, cancel, fork, save | [`LanguageModel::prefill`](crate::LanguageModel::prefill), [`DocumentSession`], [`CancelToken`] |
//! | answer one question about a text | [`answer`], [`answer_with`]; [`Request`] to check everything before weights are read |
//! | choose strategy, ranks and lengths | [`PrefillConfig`], which makes a [`PrefillPlan`] |
//! | the same in tokens, and over several processes | [`Session`], [`SavedSession`] |
//! | choose what ranks pass on | [`compressor`] |
//! | progress, cancellation, intermediate results | [`Observer`] |
//! | use the attention in a decoder of your own | [`ApbAttention`], [`CausalLm`](crate::model::CausalLm) |
//!
#![doc = include_str!("method.md")]

mod answer;
mod attention;
mod cancel;
pub mod compressor;
mod config;
mod context;
mod document_session;
mod elapsed;
mod error;
mod finite;
mod forced;
mod generate;
pub mod heads;
mod host;
mod layout;
mod logprobs;
mod observer;
mod passing;
mod plan;
mod prefill;
mod request;
mod saved;
mod session;

pub use answer::{Answer, Reply, answer, answer_over, answer_request, answer_with, ask};
pub(crate) use attention::ulysses_share;
pub use attention::{
    AnchorHeads, ApbAttention, ApbAttentionConfig, PrefillPass, QueryPass, passes,
};
pub use cancel::CancelToken;
pub use config::{
    CompressorConfig, Document, DocumentLengths, Method, PrefillConfig, RingLayout, UnknownName,
};
#[cfg(feature = "tokio")]
pub use document_session::AnswerPieces;
pub use document_session::{AnswerStream, Ask, DocumentSession, PrefillBuilder, PrefillProgress};
pub use error::{AnswerError, NotFinitePlace, SessionError};
pub use generate::{AskOptions, Completion, StopReason};
pub use layout::{AnchorSource, Layout, RankRows};
pub use logprobs::TokenLogprobs;
pub use observer::{Observer, Part};
pub use passing::Selection;
pub use plan::{PlanError, PrefillPlan};
pub use request::{AnchorQuery, AnswerOptions, Request};
pub use saved::{PreparedSave, SaveOptions, SavedError, SavedSession, discard_unfinished};
pub use session::{Session, SessionConfig, default_prefill_chunk};
