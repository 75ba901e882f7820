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
//! | `writer` | the header of a file that is written |
//! | `keys`, `vocabulary` | metadata from a configuration, and from a tokenizer |
//! | `quantize` | floats to blocks |

mod blocks;
mod config;
mod error;
mod header;
mod keys;
mod kind;
mod metadata;
mod model;
mod names;
mod open;
mod parts;
mod quantize;
mod rope;
mod scaling;
mod tokenizer;
mod vocabulary;
mod writer;

pub(super) use blocks::BlockTensor;
pub use error::GgufError;
pub(super) use header::places;
pub use header::{Described, GgufHeader, MAX_KEYS, MAX_TENSORS, Value};
pub(super) use keys::describe as describe_config;
pub use kind::GgmlType;
pub use model::Gguf;
pub(super) use names::{is_model_tensor, layer, of_parameter as name_of_parameter};
pub(super) use open::open;
pub use parts::find;
pub(super) use parts::open_all;
pub(super) use quantize::Written;
pub use tokenizer::GgufTokenizer;
pub(super) use vocabulary::{
    chat_templates as write_chat_templates, describe as describe_tokenizer,
};
pub(super) use writer::{Entries, Planned, header, padding};
