//! Long prompts, answered fast, from Rust: Llama and Qwen models on [Burn](burn).
//!
//! A model is loaded from a Hugging Face folder or a GGUF file, a document is split over ranks and
//! prefilled once, and questions about it are answered exactly over what the ranks hold. Full, ring,
//! Ulysses, Star and APB prefill run through one interface: [`apb`] follows a token through it.
//!
//! ```no_run
//! use burn::tensor::Device;
//! use burn_apb::apb::answer;
//! use burn_apb::model::LanguageModel;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = LanguageModel::load("SmolLM2-135M-Instruct", &Device::flex())?;
//! let document = std::fs::read_to_string("report.txt")?;
//! println!("{}", answer(&model, &document, "What was decided?")?.text);
//! # Ok(())
//! # }
//! ```
//!
//! | to | use |
//! |---|---|
//! | load a model | [`model::LanguageModel`] |
//! | answer with options, stream, cancel | [`apb::answer_with`], [`apb::AnswerOptions`], [`apb::Observer`] |
//! | split the document over ranks | [`apb::PrefillConfig`] in [`apb::AnswerOptions`] |
//! | prefill once and ask several questions, in tokens | [`apb::Session`] |
//! | keep a prefilled document on disk | [`apb::Session::save`], [`apb::SavedSession`] |
//! | connect ranks of several drivers | [`ranks::RankGroup`], [`ranks::Transport`] |
//! | share the work with other processes | [`ranks::World`], [`apb::Assignment`] (feature `mpi` or `nccl`) |
//! | train retaining heads for a model | [`training::train_heads`](crate::training) (feature `train`) |
//! | use the decoder as a Burn module | [`model::DecoderConfig`], [`model::Decoder`], [`model::KvCache`] |
//! | load weights into a module of your own | [`model::weights`] |
//! | attention with regions and its companions | [`kernels`] |
//!
//! Data flows one way: `training` uses [`apb`], [`apb`] uses [`model`] and [`ranks`], all use [`kernels`], and kernels know only
//! tensors.
//! Nothing of the size of sequence times sequence is ever materialised; logits exist only for rows
//! that are sampled; weights stay memory-mapped where their type is the one computed in.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]

pub mod apb;
pub mod kernels;
pub mod model;
pub mod ranks;
#[cfg(feature = "train")]
pub mod training;

/// The Rust examples of the documents are compiled with the documentation tests.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/embedding.md")]
    struct Embedding;
}
