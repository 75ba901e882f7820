//! Files of models: configuration, weights and tokenizer, from a folder, a GGUF file or the hub.
//!
//! | file | holds |
//! |---|---|
//! | `source` | [`ModelSource`]: a model's files, whatever they are |
//! | `local`, `lfs` | what a given folder is: a model, a hub cache, broken links, Git LFS pointers |
//! | `hub` | models by name, fetched into a cache (feature `hub`) |
//! | `config` | `config.json` to a [`DecoderConfig`](crate::model::DecoderConfig) |
//! | `reader`, `tensor` | [`Checkpoint`]: the tensors of a folder, a `.safetensors` or a `.gguf` file, read lazily |
//! | `safetensors`, `index`, `shards` | the header of a file, the shard index of a folder |
//! | `gguf` | GGUF files as Hugging Face tensors, config and tokenizer (feature `gguf`) |
//! | `grouped` | weights of GPTQ, AWQ, compressed-tensors and FP8, whose scales are tensors of their own |
//! | `quantized` | decoders whose weights stay in codes: [`keep_quantized`] |
//! | `elements`, `mapped` | conversions between element types; memory-mapped files |
//! | `plan`, `mismatch`, `load`, `progress` | a module's parameters compared with the tensors, then filled: [`load()`] |
//! | `report` | [`LoadOptions`], and the warnings of a load: [`LoadReport`] |
//! | `tying` | whether the output head is the embedding: [`resolve_tying`] |
//! | `fingerprint` | a hash of configuration and weights |
//! | `convert` | a GGUF file to a Hugging Face folder (feature `gguf`) |
//! | `quantize` | any model to a quantised GGUF file: [`quantize()`] (feature `gguf`) |
//! | `file`, `folder` | [`write_file`]: files and folders that appear whole or not at all |
//! | `small` | small files, read whole |
//! | `listing`, `error` | lists in messages; [`WeightsError`] |

mod config;
#[cfg(feature = "gguf")]
mod convert;
mod elements;
mod error;
mod file;
mod fingerprint;
mod finite;
#[cfg(any(feature = "gguf", feature = "hub"))]
mod folder;
#[cfg(feature = "gguf")]
#[doc(hidden)]
pub mod gguf;
mod grouped;
#[cfg(feature = "hub")]
pub mod hub;
#[doc(hidden)]
pub mod index;
mod lfs;
mod listing;
mod load;
#[doc(hidden)]
pub mod local;
mod mapped;
mod mismatch;
mod plan;
mod progress;
#[cfg(feature = "gguf")]
mod quantize;
mod quantized;
mod reader;
mod report;
#[doc(hidden)]
pub mod safetensors;
mod shards;
mod small;
mod source;
mod tensor;
mod tying;

pub use config::ConfigError;
#[cfg(feature = "gguf")]
pub use convert::{ConvertError, ConvertReport, convert};
pub use error::WeightsError;
pub(crate) use file::create_private;
pub use file::{FileError, UnfinishedFile, write_file};
#[cfg(any(feature = "gguf", feature = "hub"))]
pub use folder::FolderError;
#[cfg(feature = "gguf")]
pub use gguf::GgufError;
pub use index::IndexError;
pub use load::{load, module_path};
pub use local::LocalError;
pub use mismatch::{Mismatch, Missing, Unexpected, WrongShape, WrongType};
pub use progress::Progress;
#[cfg(feature = "gguf")]
pub use quantize::{Quantization, QuantizeError, QuantizeReport, quantize};
pub use quantized::keep_quantized;
pub use reader::Checkpoint;
pub use report::{LoadOptions, LoadReport, LoadWarning, ShardNotes};
pub use safetensors::HeaderError;
pub use source::{ModelSource, SourceError};
pub use tensor::{StoredType, TensorInfo};
pub use tying::resolve_tying;

pub(crate) use listing::{first, listing_with};
pub(crate) use safetensors::encode;
#[cfg(feature = "pytorch")]
pub(crate) use shards::open_index;
#[cfg(feature = "train")]
pub(crate) use small::{check_regular, read_limited};
