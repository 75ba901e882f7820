//! Llama and Qwen decoders as Burn modules. Nothing here reads a file:
//! [`checkpoint`](crate::checkpoint) does.
//!
//! | file | holds |
//! |---|---|
//! | `config`, `shape` | [`DecoderConfig`]; [`AttentionShape`], what plans and caches ask for |
//! | `rope` | rotary positions: [`RopeConfig`], [`Rope`], [`RopeTables`] |
//! | `projection` | [`Projection`]: a linear layer of floats, or a [`QuantizedLinear`] |
//! | `attention`, `mlp`, `norm`, `block` | the layers |
//! | `decoder` | [`Decoder`] |
//! | `causal_lm` | [`CausalLm`], the interface of a decoder, and [`forward_layers`], the loop over its layers |
//! | `cache` | [`KvCache`], in a [`KvDType`] |
//! | `random` | decoders with random weights |

mod attention;
mod block;
mod cache;
mod causal_lm;
mod config;
mod decoder;
mod mlp;
mod norm;
mod projection;
mod random;
mod rope;
mod shape;

pub use attention::{Attention, Projections, join_heads};
pub(crate) use attention::{linear, project};
pub use block::Block;
pub(crate) use cache::BrokenRow;
pub use cache::{CacheError, CacheFull, CachedRows, KvCache, KvDType};
pub use causal_lm::{CausalLm, HiddenRows, LayerAttention, LayerStep, forward_layers};
pub use config::{Architecture, DecoderConfig};
pub(crate) use config::{MAX_CONTEXT, MAX_COUNT, MAX_HEAD_DIM, MAX_VOCAB_SIZE, MAX_WIDTH};
pub use decoder::{Decoder, ForwardError};
pub use mlp::Mlp;
pub(crate) use norm::rms_norm;
pub(crate) use projection::{ORDER, QUANTIZED, apply};
pub use projection::{Projection, QuantizedLinear, QuantizedLinearConfig, TokenEmbedding};
pub use rope::{Rope, RopeConfig, RopeScaling, RopeTables};
pub use shape::AttentionShape;
