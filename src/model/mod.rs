//! Llama and Qwen as Burn modules, their weights, tokenizers and generation.

pub mod source;
pub mod weights;
