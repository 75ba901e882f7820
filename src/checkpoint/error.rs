//! Errors of checkpoints: the file, what was expected, what was found and what to do about it.

use std::any::Any;
use std::io;
use std::path::PathBuf;

use burn::tensor::FloatDType;

use super::index::IndexError;
use super::listing::{first, plural};
use super::local::LocalError;
use super::mismatch::Mismatch;
use super::safetensors::HeaderError;
use crate::quoted::{QuotePath, Quoted, cut};

/// Names that a message shows of a list.
const SHOWN: usize = 8;

/// Characters of what is wrong with a tensor that a message shows.
const SHOWN_TEXT: usize = 400;

/// Why a checkpoint could not be opened, compared with a module, or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The path does not exist.
    #[error("{}: no such file or folder; check the spelling, or fetch the model first with `apb fetch`", path.quoted())]
    NotFound {
        /// The path that was given.
        path: PathBuf,
    },
    /// Broken links or Git LFS pointers in place of weights.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// A file exists but cannot be opened or mapped.
    #[error("{}: cannot be opened: {source}", path.quoted())]
    Open {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The path is neither a regular file nor, where one is allowed, a folder.
    #[error("{}: expected a regular file, found {found}", path.quoted())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A folder without weights that this crate reads.
    #[error("{}: expected model.safetensors or model.safetensors.index.json with its shards, found {found}", path.quoted())]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// What the folder holds, and what to do when that is a known other format.
        found: String,
    },
    /// A file of a format this crate does not read.
    #[error("{}: expected a .safetensors or .gguf file, found {found}; convert it, for example with transformers' `save_pretrained(.., safe_serialization=True)`", path.quoted())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// Its first bytes, printable.
        found: String,
    },
    /// A safetensors header that is refused.
    #[error("{}: {source}; the file is damaged or incomplete: fetch it again", path.quoted())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with its header.
        source: HeaderError,
    },
    /// A shard index that is refused.
    #[error("{}: {source}; fetch the index again", path.quoted())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        source: IndexError,
    },
    /// The index names shards that are not in the folder.
    #[error("{}: names {} that {} not in the folder: {}; the download is incomplete: fetch the model again", index.quoted(), plural(shards.len(), "shard"), if shards.len() == 1 { "is" } else { "are" }, first(shards, SHOWN))]
    ShardMissing {
        /// The index file.
        index: PathBuf,
        /// The missing files' names.
        shards: Vec<String>,
    },
    /// The index and the shards disagree about which tensor lies where.
    #[error("{}: {}; the shards do not belong to this index: fetch the model again", index.quoted(), first(faults, SHOWN))]
    ShardDisagrees {
        /// The index file.
        index: PathBuf,
        /// One line a disagreement.
        faults: Vec<String>,
    },
    /// No tensor of that name.
    #[error("{}: holds no tensor `{}`{}", path.quoted(), Quoted(name), nearest.as_ref().map(|n| format!("; the nearest name is `{}`", Quoted(n))).unwrap_or_default())]
    NoSuchTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The name that was requested.
        name: String,
        /// The most similar name that exists.
        nearest: Option<String>,
    },
    /// A tensor whose stored type cannot become a float parameter.
    #[error("{}: tensor `{}` is stored as {found}, expected {expected}", path.quoted(), Quoted(name))]
    StoredType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What can be read.
        expected: &'static str,
        /// What is stored.
        found: String,
    },
    /// A tensor with an element that is NaN or infinite.
    #[error("{}: tensor `{}` is {value} at {position:?}; the file is damaged, or was converted wrongly: fetch or convert it again", path.quoted(), Quoted(name))]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Where the element stands, outermost axis first.
        position: Vec<usize>,
        /// What it is.
        value: f32,
    },
    /// The tensors of a quantised weight do not go together.
    #[error("{}: quantised tensor `{}`: expected {}, found {}; config.json does not belong to these weights, or the file is damaged", path.quoted(), Quoted(name), cut(expected, SHOWN_TEXT), cut(found, SHOWN_TEXT))]
    Quantized {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What it would have to be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A parameter type that weights are not loaded in.
    #[error("weights are loaded as f32, f16 or bf16, not as {found:?}; ask for one of those")]
    AskedType {
        /// The type that was requested.
        found: FloatDType,
    },
    /// The checkpoint does not fit the module; everything that differs is listed.
    #[error("{0}")]
    Mismatch(Box<Mismatch>),
    /// A tensor's data could not be produced although the checkpoint had been accepted.
    #[error("{}: tensor `{}` could not be read: {}", path.quoted(), Quoted(name), cut(message, SHOWN_TEXT))]
    Read {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What went wrong.
        message: String,
    },
    /// A GGUF file that is damaged, or that cannot be expressed as a Hugging Face model.
    #[cfg(feature = "gguf")]
    #[error("{}: {source}", path.quoted())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: super::gguf::GgufError,
    },
    /// A part of a split GGUF model that is not complete.
    #[cfg(feature = "gguf")]
    #[error("{}: is part {part} of {count} of a split GGUF model, and {} not beside it: {}; fetch the missing files into the same folder (llama.cpp's `llama-gguf-split --merge` makes one file of all of them, which is not needed here)", path.quoted(), if missing.len() == 1 { "one part is".to_string() } else { format!("{} parts are", missing.len()) }, first(missing, SHOWN))]
    GgufPartMissing {
        /// The part that was given.
        path: PathBuf,
        /// Which part that is, from 1 on.
        part: u32,
        /// Number of parts.
        count: u32,
        /// The names of the missing files.
        missing: Vec<String>,
    },
    /// A folder with more than one GGUF model.
    #[cfg(feature = "gguf")]
    #[error("{}: expected one GGUF model, found {}; give one of these files as the model", path.quoted(), first(found, SHOWN))]
    SeveralGguf {
        /// The folder.
        path: PathBuf,
        /// A file of each model.
        found: Vec<String>,
    },
    /// A GGUF file, and this build cannot read them.
    #[cfg(not(feature = "gguf"))]
    #[error("{}: is a GGUF file and this build has no GGUF reader; build with `--features gguf`", path.quoted())]
    NoGguf {
        /// The file.
        path: PathBuf,
    },
}

/// The message of a panic.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_string())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a message".to_string())
}
