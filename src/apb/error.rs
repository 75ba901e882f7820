//! Why a session or an answer failed.

use super::compressor::CompressorError;
use super::plan::PlanError;
use super::saved::error::SavedError;
use crate::ModelError;
use crate::kernels::KernelError;
use crate::model::{CacheFull, ForwardError};
use crate::ranks::RankError;
use crate::text::sampler::SamplerError;
use crate::text::tokenizer::TokenizerError;

/// Why a session failed.
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
        /// In the plan.
        planned: usize,
        /// What there is.
        found: usize,
    },
    /// APB without a compressor.
    #[error("APB needs a compressor to choose what ranks pass on; give the prefill one")]
    NoCompressor,
    /// The compressor is not the plan's.
    #[error(transparent)]
    Compressor(#[from] CompressorError),
    /// The decoder refused its rows.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// An exchange between ranks failed.
    #[error(transparent)]
    Rank(#[from] RankError),
    /// The observer cancelled the prefill.
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
    /// A part of the document is held by other processes.
    #[error(
        "the document is held by several processes, which cannot fork a session; ask it there, or \
         prefill it in one process"
    )]
    SeveralProcesses,
    /// The device could not give back its results.
    #[error("the device failed: {reason}")]
    Device {
        /// The backend's message.
        reason: String,
    },
    /// The logits cannot be sampled from.
    #[error(transparent)]
    Sample(#[from] SamplerError),
}

impl SessionError {
    /// A plan and what it is used for must be of the same sizes.
    pub(super) fn same(what: &'static str, planned: usize, found: usize) -> Result<(), Self> {
        match planned == found {
            true => Ok(()),
            false => Err(Self::OtherPlan {
                what,
                planned,
                found,
            }),
        }
    }
}

impl From<KernelError> for SessionError {
    fn from(error: KernelError) -> Self {
        Self::Forward(error.into())
    }
}

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
    /// The plan's compressor cannot be used.
    #[error(transparent)]
    Compressor(#[from] CompressorError),
    /// The sampling options are not usable.
    #[error(transparent)]
    Sample(#[from] SamplerError),
    /// The session cannot be saved, or read again.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// A stream was asked for outside a tokio runtime.
    #[cfg(feature = "tokio")]
    #[error("there is no tokio runtime here; ask from one, or use `stream`")]
    NoRuntime,
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
