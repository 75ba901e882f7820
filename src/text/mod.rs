//! Text to tokens and back: tokenizers, chat templates, prompts, streaming, and the choice of the next
//! token from logits.

pub mod chat_template;
pub mod generation_config;
pub(crate) mod json;
pub mod prompt;
pub mod sampler;
pub mod stop;
pub mod text_stream;
pub mod tokenizer;
