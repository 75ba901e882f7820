//! Weights: from files to parameters.
//!
//! | file | holds |
//! |---|---|
//! | `checkpoint` | [`Checkpoint`]: the tensors of a folder, a `.safetensors` or a `.gguf` file, read lazily |
//! | `safetensors`, `index`, `shards` | a file's header and a folder's shard index, checked before they are believed |
//! | `plan`, `mismatch`, `load` | a module's parameters compared with the tensors, then filled: [`load()`] |
//! | `report` | [`LoadOptions`], and what a load has to say that is no error: [`LoadReport`] |
//! | `tying` | whether the output head is the embedding: [`resolve_tying`] |
//! | `elements`, `mapped` | conversions between element types; memory-mapped files |
//! | `gguf` | GGUF files as Hugging Face tensors, config and tokenizer (feature `gguf`) |
//! | `convert` | a GGUF file to a Hugging Face folder (feature `gguf`) |
//! | `listing` | what a folder holds, for messages |
//! | `folder`, `file` | a folder, a file that appears whole or not at all |

mod checkpoint;
mod config;
#[cfg(feature = "gguf")]
mod convert;
mod elements;
mod error;
mod file;
mod fingerprint;
#[cfg(any(feature = "gguf", feature = "hub"))]
mod folder;
#[cfg(feature = "gguf")]
pub mod gguf;
#[cfg(feature = "hub")]
pub mod hub;
pub mod index;
pub mod lfs;
mod listing;
mod load;
pub mod local;
mod mapped;
mod mismatch;
mod plan;
mod progress;
mod report;
pub mod safetensors;
mod shards;
pub mod source;
mod tying;

pub use checkpoint::{Checkpoint, SINGLE_FILE, StoredType, TensorInfo};
pub use config::ConfigError;
#[cfg(feature = "gguf")]
pub use convert::{ConvertError, ConvertReport, convert};
pub use error::WeightsError;
pub use file::FileError;
#[cfg(any(feature = "pytorch", feature = "train"))]
pub(crate) use file::write_file;
pub use fingerprint::{FINGERPRINT_SLICE, FINGERPRINT_SLICES};
#[cfg(any(feature = "gguf", feature = "hub"))]
pub use folder::FolderError;
pub use load::{load, module_path};
pub use mismatch::{Mismatch, Missing, Unexpected, WrongShape, WrongType};
pub use progress::Progress;
pub use report::{LoadOptions, LoadReport, LoadWarning, ShardNotes};
pub use tying::resolve_tying;

#[cfg(all(feature = "hub", feature = "gguf"))]
pub(crate) use convert::convert_into;
#[cfg(feature = "hub")]
pub(crate) use folder::{refuse_occupied, write_folder, write_json};
#[cfg(feature = "hub")]
pub(crate) use index::is_plain_file_name;
pub(crate) use listing::{listing, listing_with};
pub(crate) use safetensors::encode;
