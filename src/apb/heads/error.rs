//! Why retaining heads cannot be used or converted.

use std::path::PathBuf;

#[cfg(feature = "pytorch")]
use super::format::PYTORCH_FILE;
use super::format::{HEADS_FILE, HEADS_FORMAT, HeadsFault};
use super::label_scale::LabelScaleFault;
#[cfg(feature = "pytorch")]
use super::pickle::PickleError;
#[cfg(feature = "pytorch")]
use crate::checkpoint::FileError;
use crate::checkpoint::SourceError;
use crate::checkpoint::{WeightsError, first};
use crate::quoted::{QuotePath, Quoted, cut};

/// Characters of what is wrong with a scale of labels that a message shows.
const SHOWN: usize = 400;

/// Why retaining heads cannot be used with a model. No weight has been read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeadsError {
    /// The path does not exist.
    #[error("{}: no such file or folder; give a {HEADS_FILE}, or the folder that holds it", path.quoted())]
    NotFound {
        /// The path that was given.
        path: PathBuf,
    },
    /// A folder without a heads file.
    #[error("{}: expected {HEADS_FILE}, found {found}", path.quoted())]
    NoHeadsFile {
        /// The folder.
        path: PathBuf,
        /// What the folder holds, and what to do when that is PyTorch's.
        found: String,
    },
    /// A PyTorch file, where this build cannot read one.
    #[error("{}: expected safetensors, found a PyTorch file; with feature `pytorch` run `apb convert-heads {} {HEADS_FILE}` first", path.quoted(), path.quoted())]
    Pytorch {
        /// The file.
        path: PathBuf,
    },
    /// Some other file.
    #[error("{}: expected a .safetensors file, found another", path.quoted())]
    NotSafetensors {
        /// The file.
        path: PathBuf,
    },
    /// A later version of the file format.
    #[error("{}: expected the format {HEADS_FORMAT}, found {}; a newer apb reads it", path.quoted(), Quoted(found))]
    Format {
        /// The file.
        path: PathBuf,
        /// The format that the file names.
        found: String,
    },
    /// Tensors that are not retaining heads.
    #[error("{}: expected only tensors such as model.layers.0.self_attn.fc1.weight, found {}; `apb convert-heads` takes the heads out of a file that holds more", path.quoted(), first(names, 3))]
    Unexpected {
        /// The file.
        path: PathBuf,
        /// The tensors.
        names: Vec<String>,
    },
    /// A set of heads that is not whole.
    #[error("{}: {fault}; the file is not a whole set of heads: convert or train it again", path.quoted())]
    Fault {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: HeadsFault,
    },
    /// A tensor stored as something else than f32, f16 or bf16.
    #[error("{}: tensor `{}` is stored as {found}, expected F32, F16 or BF16; convert or train the heads again", path.quoted(), Quoted(name))]
    StoredType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// Metadata and tensors disagree about R.
    #[error("{}: the metadata says width {}, the tensors have {expected}; convert or train the heads again", path.quoted(), Quoted(found))]
    Width {
        /// The file.
        path: PathBuf,
        /// R of the tensors.
        expected: usize,
        /// The width in the metadata.
        found: String,
    },
    /// Metadata whose scale of labels is not one for these heads.
    #[error("{}: the metadata's label_scale: {}; train the heads again", path.quoted(), cut(fault, SHOWN))]
    LabelScale {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: LabelScaleFault,
    },
    /// Heads that name another model of the same shape.
    #[error("{}: the heads are for {} with fingerprint {}, this model has {found}; give the heads of this model, or none", path.quoted(), Quoted(base_model), Quoted(expected))]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// The model's name in the file.
        base_model: String,
        /// The fingerprint in the file.
        expected: String,
        /// The model's.
        found: String,
    },
    /// The model's fingerprint cannot be computed.
    #[error(transparent)]
    Model(#[from] SourceError),
    /// Heads for a model of another shape.
    #[error("{}: expected {expected} {part}, found {found}; the heads were made for {}", path.quoted(), Quoted(made_for))]
    OtherShape {
        /// The file.
        path: PathBuf,
        /// What is counted.
        part: String,
        /// How many the model has.
        expected: usize,
        /// How many the heads have.
        found: usize,
        /// The shape of the heads, with the name of their model where the file has it.
        made_for: String,
    },
    /// A file that cannot be opened or is damaged.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A PyTorch file without heads, or one that is not safe to read.
    #[cfg(feature = "pytorch")]
    #[error(transparent)]
    Convert(#[from] ConvertHeadsError),
    /// The converted heads cannot be written to the folder of temporary files.
    #[cfg(feature = "pytorch")]
    #[error("converting the heads: {0}")]
    Temporary(#[from] FileError),
}

/// Why no heads were written.
#[cfg(feature = "pytorch")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertHeadsError {
    /// The path does not exist.
    #[error("{}: no such file or folder; check the spelling, or download the heads first", path.quoted())]
    NotFound {
        /// The path that was given.
        path: PathBuf,
    },
    /// A folder without weights that are read.
    #[error("{}: expected {}, its index with shards, or safetensors, found {found}", path.quoted(), PYTORCH_FILE)]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// A file of another format.
    #[error("{}: expected a PyTorch file (a zip archive) or safetensors, found {found}", path.quoted())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// What it is instead, and what to do.
        found: String,
    },
    /// A pickle that requests more than tensors.
    #[error("{}: {source}", path.quoted())]
    Pickle {
        /// The file.
        path: PathBuf,
        /// What it asks for.
        source: PickleError,
    },
    /// A damaged PyTorch file.
    #[error("{}: {}; the file is damaged or incomplete: download it again", path.quoted(), Quoted(message))]
    Pytorch {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A length that the file claims and does not have.
    #[error("{}: {what} claims {claimed} bytes, expected at most {file_len}; the file is damaged or made to harm: download it again", path.quoted())]
    Claim {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        what: String,
        /// Bytes it would take.
        claimed: u64,
        /// Bytes it may take: those of the file, or as many as a pickle may have.
        file_len: u64,
    },
    /// Shards that do not belong to their index.
    #[error("{}: names {what}; the download is incomplete: download the model again", path.quoted())]
    Shards {
        /// The index file.
        path: PathBuf,
        /// What is missing.
        what: String,
    },
    /// Tensors that are not a whole set of retaining heads.
    #[error("{}: {fault}; give the file or folder of the published heads", path.quoted())]
    Fault {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        fault: HeadsFault,
    },
    /// Metadata whose scale of labels is not one for these heads.
    #[error("{}: the metadata's label_scale: {}; train the heads again", path.quoted(), cut(fault, SHOWN))]
    LabelScale {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        fault: LabelScaleFault,
    },
    /// A tensor of a type that heads are not kept in.
    #[error("{}: tensor `{}` is stored as {found}, expected f32, f16 or bf16; save the heads in one of those", path.quoted(), Quoted(name))]
    StoredType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// Safetensors or a shard index that cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The target is a folder.
    #[error("{}: expected the name of a file, found a folder; give {}", path.quoted(), path.join(HEADS_FILE).quoted())]
    OutIsFolder {
        /// The target.
        path: PathBuf,
    },
    /// Writing. Nothing is left behind.
    #[error(transparent)]
    Write(#[from] FileError),
}
