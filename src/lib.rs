//! Long prompts, answered fast, from Rust: Llama and Qwen models on [Burn](burn), prefilled with
//! full attention today and with APB over ranks next.
//!
//! Data flows one way: [`model`] knows nothing of [`apb`], [`kernels`] know only tensors.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]

pub mod apb;
pub mod kernels;
pub mod model;
