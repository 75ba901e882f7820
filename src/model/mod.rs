//! Llama and Qwen as Burn modules, their weights, tokenizers and generation.

pub mod chat_template;
pub mod generation_config;
pub mod prompt;
pub mod sampler;
pub mod text_stream;
pub mod tokenizer;
