//! Long prompts, answered fast, from Rust: Llama and Qwen models on [Burn](burn).
//!
//! A model is loaded from a Hugging Face folder or a GGUF file, a document is split over ranks and
//! prefilled once, and questions about it are answered exactly over what the ranks hold. Full, ring,
//! Ulysses, Star and APB prefill run through one interface: [`apb`] follows a token through it.
//!
//! ```no_run
//! use burn::tensor::Device;
//! use burn_apb::LanguageModel;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = LanguageModel::load("SmolLM2-135M-Instruct", &Device::flex())?;
//! let document = std::fs::read_to_string("report.txt")?;
//! let mut report = model.prefill(&document).run()?;
//! println!("{}", report.ask("What was decided?").run()?.text);
//! # Ok(())
//! # }
//! ```
//!
//! [`prelude`] holds what an application needs.
//!
//! | to | use |
//! |---|---|
//! | load a model | [`LanguageModel`] |
//! | prefill a document, ask, stream, fork, save | [`LanguageModel::prefill`], [`apb::DocumentSession`] |
//! | split the document over ranks | [`apb::PrefillConfig`] |
//! | cancel | [`apb::CancelToken`] |
//! | predict time and memory of a prefill | [`plan::Planner`] |
//! | measure how far a method moves a model's answers | [`eval`] |
//! | samples of RULER, InfiniteBench and needle tests | [`tasks`] |
//! | the same in tokens; intermediate results | [`apb::Session`], [`apb::Observer`] |
//! | run ranks in several processes | [`ranks::World`], [`apb::answer_over`] (feature `mpi` or `nccl`) |
//! | train retaining heads for a model | `training::HeadsTrainer` (feature `train`) |
//! | use the decoder as a Burn module | [`model::DecoderConfig`], [`model::Decoder`] |
//! | prefill a decoder of your own | [`model::CausalLm`], [`apb::ApbAttention`] |
//! | load weights into a module of your own | [`checkpoint`] |
//! | attention with regions and the operations around it | [`kernels`] |
//!
//! Data flows one way, from the bottom of this list to its top:
//!
//! | module | holds |
//! |---|---|
//! | `training` | retaining heads, trained with Burn's learner |
//! | [`eval`] | agreement with full attention, and statistics of scores |
//! | [`tasks`] | samples of long-document benchmarks, from text alone |
//! | [`plan`] | time and memory of a prefill, from a configuration alone |
//! | [`apb`] | the method: attention over ranks, sessions, answers |
//! | [`LanguageModel`] | a decoder with its text side |
//! | [`checkpoint`] | weights and configurations from files, the hub, conversion |
//! | [`text`] | tokenizers, chat templates, prompts, sampling |
//! | [`model`] | Llama and Qwen decoders; [`ranks`]: ranks, processes and their collectives |
//! | [`kernels`] | operations on tensors |
//!
//! Nothing of the size of sequence times sequence is ever materialised; logits exist only for rows
//! that are sampled; weights stay memory-mapped where their type is the one computed in.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]

pub mod apb;
pub mod checkpoint;
#[cfg(any(feature = "cuda", feature = "nccl-engine"))]
#[doc(hidden)]
pub mod cuda;
mod error_path;
pub mod eval;
#[doc(hidden)]
pub mod hex;
pub mod kernels;
mod language_model;
pub mod model;
pub mod plan;
pub mod prelude;
mod quoted;
pub mod ranks;
mod size;
pub mod tasks;
pub mod text;
#[cfg(feature = "train")]
pub mod training;

pub use error_path::error_path;
pub use language_model::{LanguageModel, ModelError, ModelText, load_decoder};

/// Newton's Opticks, fourth edition (1730), in the public domain: the document of `apb demo`. Here because a package
/// holds only files of its own folder.
#[doc(hidden)]
pub const OPTICKS: &str = include_str!("../examples/data/opticks.txt");

/// 50 questions about its first 2,000 tokens: those of `apb eval agreement`.
#[doc(hidden)]
pub const OPTICKS_QUESTIONS: &str = include_str!("../examples/data/opticks-questions.txt");

/// The Rust examples of the documents are compiled with the documentation tests.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/embedding.md")]
    struct Embedding;
}
