//! Why a session or an answer failed.

use std::fmt;

use burn::tensor::FloatDType;

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
    /// The model computes what is no number: a weight is none, or a number is too large for the dtype.
    #[error("{place} holds NaN or infinity: {}", match dtype {
        FloatDType::F16 => "f16, which ends at 65,504, overflows; bf16 and f32 do not (--dtype bf16). If they do the same, a weight is broken",
        _ => "a weight is broken, or the numbers are too large for the dtype (--dtype f32)",
    })]
    NotFinite {
        /// The layer, and where its rows stand.
        place: NotFinitePlace,
        /// In what was computed.
        dtype: FloatDType,
    },
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

/// Where a model's numbers were first found not to be finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotFinitePlace {
    /// The rows of the embedding.
    Embedding {
        /// The rank that computed the row.
        rank: usize,
        /// Its token, counted from the document's first.
        token: usize,
    },
    /// What a layer gives to the next, or its keys and values.
    Layer {
        /// The layer, from 0.
        layer: usize,
        /// The rank that computed the row.
        rank: usize,
        /// Its token, counted from the document's first.
        token: usize,
    },
    /// The last layer's output or the logits.
    Logits,
}

impl fmt::Display for NotFinitePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding { rank, token } => {
                write!(f, "the embedding (rank {rank}, token {token})")
            }
            Self::Layer { layer, rank, token } => {
                write!(
                    f,
                    "what layer {layer} computes (rank {rank}, token {token})"
                )
            }
            Self::Logits => f.write_str("what the last layer computes, or the logits,"),
        }
    }
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
