//! Why a session could not go on.

use super::plan::PlanError;
use crate::kernels::KernelError;
use crate::model::{CacheFull, ForwardError};
use crate::ranks::RankError;
use crate::text::sampler::SamplerError;

/// Why a session could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// There is nothing to prefill or to ask.
    #[error("the {what} has no tokens")]
    Empty {
        /// Document or question.
        what: &'static str,
    },
    /// A token that the model has no embedding for.
    #[error(
        "token {id} at position {position} of the {what} is beyond the model's vocabulary of \
         {vocab_size}; is the tokenizer this model's own?"
    )]
    TokenOutOfRange {
        /// Document, anchor query or question.
        what: &'static str,
        /// The token.
        id: u32,
        /// Where it stands.
        position: usize,
        /// Entries of the vocabulary.
        vocab_size: usize,
    },
    /// The session was made for fewer tokens.
    #[error(transparent)]
    Full(#[from] CacheFull),
    /// Ranks or lengths do not fit the document.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The plan was made for another document or another group of ranks.
    #[error("the plan is for {planned} {what}, found {found}; make it for this document and group")]
    OtherPlan {
        /// Tokens or ranks.
        what: &'static str,
        /// What the plan says.
        planned: usize,
        /// What there is.
        found: usize,
    },
    /// APB without a compressor.
    #[error("APB needs a compressor to choose what ranks pass on; give the prefill one")]
    NoCompressor,
    /// The decoder refused its rows.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// An exchange between ranks failed.
    #[error(transparent)]
    Rank(#[from] RankError),
    /// The observer asked to stop.
    #[error("cancelled after {done} of {total} tokens")]
    Cancelled {
        /// Tokens prefilled.
        done: usize,
        /// Tokens there are.
        total: usize,
    },
    /// A question before the document.
    #[error("no document has been prefilled in this session")]
    NoDocument,
    /// The device could not give back its results.
    #[error("the device failed: {reason}")]
    Device {
        /// What the backend said.
        reason: String,
    },
    /// The logits cannot be sampled from.
    #[error(transparent)]
    Sample(#[from] SamplerError),
}

impl From<KernelError> for SessionError {
    fn from(error: KernelError) -> Self {
        Self::Forward(error.into())
    }
}
