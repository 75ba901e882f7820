//! What an application needs: `use burn_apb::prelude::*;`.
//!
//! Each item is also in the module that it belongs to, with those it is made of.

#[cfg(feature = "tokio")]
pub use crate::apb::AnswerPieces;
pub use crate::apb::compressor::{AnchorContext, Compressor, CompressorError, ScoreInput};
pub use crate::apb::heads::{
    HeadsError, RetainingHead, RetainingHeadConfig, RetainingHeads, RetainingHeadsConfig,
};
pub use crate::apb::{
    Answer, AnswerError, AnswerOptions, AnswerStream, ApbAttention, ApbAttentionConfig, Ask,
    CancelToken, CompressorConfig, Document, DocumentSession, Method, Observer, PlanError,
    PrefillBuilder, PrefillConfig, PrefillPlan, PrefillProgress, Request, RingLayout, SaveOptions,
    SavedError, Session, SessionConfig, SessionError, StopReason, TokenLogprobs, answer_over,
};
pub use crate::checkpoint::{Checkpoint, LoadOptions, ModelSource};
pub use crate::kernels::{AttentionOutput, KernelError, Regions};
pub use crate::model::{
    AttentionShape, CausalLm, Decoder, DecoderConfig, HiddenRows, KvCache, KvDType, LayerAttention,
    Projections,
};
pub use crate::ranks::{
    Environment, JoinOptions, RankError, RankGroup, RankOrder, TransportKind, World,
};
pub use crate::text::sampler::{AllowTokens, BanTokens, LogitsProcessor, Sampler, SamplerConfig};
pub use crate::text::tokenizer::Tokenizer;
#[cfg(feature = "train")]
pub use crate::training::{HeadsTrainer, Sample, TrainError, TrainHeadsConfig, TrainedHeads};
pub use crate::{LanguageModel, ModelError};
