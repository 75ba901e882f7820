//! GGUF files as Hugging Face models: tensors, `config.json`, tokenizer.
//!
//! | file | holds |
//! |---|---|
//! | `parts` | the files of a split model, and the one model in a folder: [`find`] |
//! | `header` | the file's metadata and tensor descriptions, bounded by the file's length: [`GgufHeader`] |
//! | `metadata` | metadata values with their types checked |
//! | `kind`, `blocks` | stored types, and their blocks as they are or as elements |
//! | `model` | [`Gguf`]: a model without its tensors |
//! | `open`, `names` | tensor names and llama.cpp's row order, per architecture |
//! | `config`, `rope`, `scaling` | `config.json` and `generation_config.json` from metadata |
//! | `tokenizer` | `tokenizer.json` and `tokenizer_config.json` from metadata: [`GgufTokenizer`] |

mod blocks;
mod config;
mod error;
mod header;
mod kind;
mod metadata;
mod model;
mod names;
mod open;
mod parts;
mod rope;
mod scaling;
mod tokenizer;

pub(super) use blocks::BlockTensor;
pub use error::GgufError;
pub use header::{Described, GgufHeader, MAX_KEYS, MAX_TENSORS, Value};
pub use kind::GgmlType;
pub use model::Gguf;
pub(super) use open::open;
pub use parts::find;
pub(super) use parts::open_all;
pub use tokenizer::GgufTokenizer;
