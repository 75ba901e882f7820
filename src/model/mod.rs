//! Llama and Qwen as Burn modules, their weights, tokenizers and generation.

mod attention;
mod block;
mod cache;
pub mod chat_template;
mod config;
mod decoder;
mod fingerprint;
pub mod generation_config;
#[cfg(feature = "hub")]
pub mod hub;
mod json;
mod language_model;
pub mod lfs;
pub mod local;
mod mlp;
mod norm;
pub mod prompt;
mod random;
mod rope;
pub mod sampler;
pub mod source;
pub mod stop;
pub mod text_stream;
pub mod tokenizer;
pub mod weights;

pub use attention::{Attention, Projections};
pub(crate) use attention::{apply, linear};
pub use block::Block;
pub use cache::{CacheFull, KvCache};
pub use config::{
    Architecture, ConfigError, DecoderConfig, MAX_CONTEXT, MAX_COUNT, MAX_HEAD_DIM, MAX_VOCAB_SIZE,
    MAX_WIDTH,
};
pub use decoder::{Decoder, ForwardError};
pub(crate) use fingerprint::hex;
pub use fingerprint::{FINGERPRINT_SLICE, FINGERPRINT_SLICES};
pub use language_model::{LanguageModel, ModelError, ModelText, load_decoder};
pub use mlp::Mlp;
pub use rope::{Rope, RopeConfig, RopeScaling, RopeTables};
