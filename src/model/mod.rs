//! Llama and Qwen as Burn modules, their weights, tokenizers and generation.

#[cfg(feature = "hub")]
pub mod hub;
pub mod source;
pub mod weights;
