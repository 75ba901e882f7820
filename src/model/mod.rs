//! Llama and Qwen as Burn modules, their weights, tokenizers and generation.
