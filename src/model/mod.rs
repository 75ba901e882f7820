//! Llama and Qwen as Burn modules, their weights, tokenizers and generation.

pub mod chat_template;
mod attention;
mod block;
mod cache;
mod config;
mod decoder;
mod mlp;
mod norm;
mod rope;

pub use attention::{Attention, Projections};
pub use block::Block;
pub use cache::{CacheFull, KvCache};
pub use config::{
    Architecture, ConfigError, DecoderConfig, MAX_CONTEXT, MAX_COUNT, MAX_HEAD_DIM, MAX_VOCAB_SIZE,
    MAX_WIDTH,
};
pub use decoder::{Decoder, ForwardError};
pub use mlp::Mlp;
pub use rope::{Rope, RopeConfig, RopeScaling, RopeTables};
