//! Llama and Qwen decoders as Burn modules. Nothing here reads a file:
//! [`checkpoint`](crate::checkpoint) does.

mod attention;
mod block;
mod cache;
mod config;
mod decoder;
mod mlp;
mod norm;
mod random;
mod rope;
mod shape;

pub use attention::{Attention, Projections};
pub(crate) use attention::{apply, linear};
pub use block::Block;
pub use cache::{CacheFull, KvCache};
pub use config::{
    Architecture, DecoderConfig, MAX_CONTEXT, MAX_COUNT, MAX_HEAD_DIM, MAX_VOCAB_SIZE, MAX_WIDTH,
};
pub use decoder::{Decoder, ForwardError};
pub use mlp::Mlp;
pub use rope::{Rope, RopeConfig, RopeScaling, RopeTables};
pub use shape::AttentionShape;
