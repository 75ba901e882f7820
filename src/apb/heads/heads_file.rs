//! A file of retaining heads, compared with a model before any weight is read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use burn::tensor::FloatDType;

#[cfg(feature = "pytorch")]
use super::ConvertHeadsError;
use super::head_shapes::{Found, HeadsFault, HeadsShape, common_shape, place};
#[cfg(feature = "pytorch")]
use crate::checkpoint::FileError;
use crate::checkpoint::source::ModelSource;
use crate::checkpoint::source::SourceError;
use crate::checkpoint::{Checkpoint, StoredType, WeightsError, listing_with};
use crate::model::AttentionShape;

/// The name of a heads file where a folder is given.
pub const HEADS_FILE: &str = "heads.safetensors";

/// The `format` that this crate writes into the metadata of a heads file.
pub const HEADS_FORMAT: &str = "apb-retaining-heads-1";

/// The metadata key under which a heads file names the one model it is for, by
/// [`ModelSource::fingerprint`].
pub const HEADS_MODEL: &str = "model_fingerprint";

/// What comes before the version in [`HEADS_FORMAT`]. Other texts, such as the `pt` of Python's
/// safetensors, say nothing about the heads.
const FORMAT_FAMILY: &str = "apb-retaining-heads-";

/// Foreign tensors that a message names.
const SHOWN: usize = 3;

/// What is known about a file of retaining heads without reading its weights.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeadsInfo {
    /// Width R of the hidden layer.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// The element types the file stores, each once.
    pub dtypes: Vec<FloatDType>,
    /// The model the heads were trained for, where the file says so.
    pub base_model: Option<String>,
    /// What the heads were made from: a file, or a training.
    pub source: Option<String>,
    /// All of the file's metadata.
    pub metadata: BTreeMap<String, String>,
}

impl HeadsInfo {
    /// Refuses a model that is not the one the file names; a file that names none is for any model
    /// that its shapes fit. `path` is the file's.
    ///
    /// # Errors
    ///
    /// [`HeadsError::OtherModel`], or [`HeadsError::Model`] when the model's files cannot be opened.
    pub fn check_model(&self, path: &Path, model: &ModelSource) -> Result<(), HeadsError> {
        let Some(expected) = self.metadata.get(HEADS_MODEL) else {
            return Ok(());
        };
        let found = model.fingerprint()?;
        if *expected == found {
            return Ok(());
        }
        Err(HeadsError::OtherModel {
            path: path.into(),
            base_model: self.base_model.clone().unwrap_or_else(|| "a model".into()),
            expected: expected.clone(),
            found,
        })
    }
}

/// Why retaining heads cannot be used with a model. No weight has been read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeadsError {
    /// The path does not exist.
    #[error("{}: no such file or folder; give a {HEADS_FILE}, or the folder that holds it", path.display())]
    NotFound {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// A folder without a heads file.
    #[error("{}: expected {HEADS_FILE}, found {found}", path.display())]
    NoHeadsFile {
        /// The folder.
        path: PathBuf,
        /// What the folder holds, and what to do when that is PyTorch's.
        found: String,
    },
    /// A PyTorch file, where this build cannot read one.
    #[error("{}: expected safetensors, found a PyTorch file; with feature `pytorch` run `apb convert-heads {} {HEADS_FILE}` first", path.display(), path.display())]
    Pytorch {
        /// The file.
        path: PathBuf,
    },
    /// Some other file.
    #[error("{}: expected a .safetensors file, found {found}", path.display())]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: String,
    },
    /// A later version of the file format.
    #[error("{}: expected the format {HEADS_FORMAT}, found {found}; a newer apb reads it", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The format that the file names.
        found: String,
    },
    /// Tensors that are not retaining heads.
    #[error("{}: expected only tensors such as model.layers.0.self_attn.fc1.weight, found {}{}; `apb convert-heads` takes the heads out of a file that holds more", path.display(), names.join(", "), if *count > names.len() { format!(" and {} more", count - names.len()) } else { String::new() })]
    Unexpected {
        /// The file.
        path: PathBuf,
        /// The names of the first few.
        names: Vec<String>,
        /// How many there are.
        count: usize,
    },
    /// A set of heads that is not whole.
    #[error("{}: {fault}; the file is not a whole set of heads: convert or train it again", path.display())]
    Fault {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: HeadsFault,
    },
    /// A tensor stored as something else than f32, f16 or bf16.
    #[error("{}: tensor `{name}` is stored as {found}, expected F32, F16 or BF16; convert or train the heads again", path.display())]
    StoredType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// Metadata and tensors disagree about R.
    #[error("{}: the metadata says width {found}, the tensors have {expected}; convert or train the heads again", path.display())]
    Width {
        /// The file.
        path: PathBuf,
        /// R of the tensors.
        expected: usize,
        /// What the metadata says.
        found: String,
    },
    /// Heads that name another model of the same shape.
    #[error("{}: the heads are for {base_model} with fingerprint {expected}, this model has {found}; give the heads of this model, or none", path.display())]
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
    /// The model cannot be told from others.
    #[error(transparent)]
    Model(#[from] SourceError),
    /// Heads for another number of layers.
    #[error("{}: expected heads for {expected} layers, as the model has, found {found}; they were made for {made_for}", path.display())]
    Layers {
        /// The file.
        path: PathBuf,
        /// The model's layers.
        expected: usize,
        /// The heads' layers.
        found: usize,
        /// The model the heads look made for.
        made_for: String,
    },
    /// Heads that read other projections.
    #[error("{}: expected fc1 to have {expected} columns, as the model's queries, keys and values have ({} + 2 x {} heads of {head_dim}), found {found}; the heads were made for {made_for}", path.display(), heads, kv_heads)]
    Projections {
        /// The file.
        path: PathBuf,
        /// `(heads + 2 * kv_heads) * head_dim` of the model.
        expected: usize,
        /// The model's query heads.
        heads: usize,
        /// The model's key/value heads.
        kv_heads: usize,
        /// Width of one of the model's heads.
        head_dim: usize,
        /// Columns of the heads' fc1.
        found: usize,
        /// The model the heads look made for.
        made_for: String,
    },
    /// Heads that score another number of key/value heads.
    #[error("{}: expected fc2 to have {expected} rows, one per key/value head of the model, found {found}; the heads were made for {made_for}", path.display())]
    KvHeads {
        /// The file.
        path: PathBuf,
        /// The model's key/value heads.
        expected: usize,
        /// Rows of the heads' fc2.
        found: usize,
        /// The model the heads look made for.
        made_for: String,
    },
    /// A file that cannot be opened, or does not hold.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A PyTorch file that holds no heads, or is not safe to read.
    #[cfg(feature = "pytorch")]
    #[error(transparent)]
    Convert(#[from] ConvertHeadsError),
    /// There is no room for the converted heads.
    #[cfg(feature = "pytorch")]
    #[error("converting the heads: {0}")]
    Temporary(#[from] FileError),
}

/// Opens the heads at `path` and compares them with `model`; of safetensors nothing but headers is
/// read, PyTorch's are converted first.
pub(super) fn open(
    path: &Path,
    shape: AttentionShape,
) -> Result<(Checkpoint, HeadsInfo), HeadsError> {
    match file_at(path) {
        #[cfg(feature = "pytorch")]
        Err(HeadsError::Pytorch { path }) => open_pytorch(&path, shape),
        file => {
            let file = file?;
            compared(&file, Checkpoint::open(&file)?, shape)
        }
    }
}

/// Converts published heads into a temporary file, which is gone when nobody reads it any more.
#[cfg(feature = "pytorch")]
fn open_pytorch(path: &Path, shape: AttentionShape) -> Result<(Checkpoint, HeadsInfo), HeadsError> {
    let failed = |source| FileError {
        path: path.into(),
        source,
    };
    let folder = tempfile::tempdir().map_err(failed)?;
    let file = folder.path().join(HEADS_FILE);
    super::convert_heads(path, &file, None)?;
    // The mapping outlives the file's name.
    compared(path, Checkpoint::open(&file)?, shape)
}

/// Compares the heads of a checkpoint with `model`; `path` is where they came from.
fn compared(
    path: &Path,
    checkpoint: Checkpoint,
    model: AttentionShape,
) -> Result<(Checkpoint, HeadsInfo), HeadsError> {
    let metadata = checkpoint.metadata().clone();
    if let Some(found) = metadata.get("format")
        && found.starts_with(FORMAT_FAMILY)
        && found != HEADS_FORMAT
    {
        return Err(HeadsError::Format {
            path: path.into(),
            found: found.clone(),
        });
    }
    let (found, dtypes) = heads_of(path, &checkpoint)?;
    let shape = common_shape(&found).map_err(|fault| HeadsError::Fault {
        path: path.into(),
        fault,
    })?;
    if let Some(width) = metadata.get("width")
        && width.parse() != Ok(shape.width)
    {
        return Err(HeadsError::Width {
            path: path.into(),
            expected: shape.width,
            found: width.clone(),
        });
    }
    let base_model = metadata.get("base_model").cloned();
    compare(path, shape, base_model.as_deref(), model)?;
    let info = HeadsInfo {
        width: shape.width,
        layers: shape.layers,
        dtypes,
        base_model,
        source: metadata.get("source").cloned(),
        metadata,
    };
    Ok((checkpoint, info))
}

/// The heads file at a path that may be a folder. A PyTorch file is told by its first bytes, so that
/// the user hears what to do with it.
fn file_at(path: &Path) -> Result<PathBuf, HeadsError> {
    let mut file = path.to_path_buf();
    if path.is_dir() {
        file.push(HEADS_FILE);
        if !file.exists() {
            let found = listing_with(path, |names| {
                match names.iter().find(|name| is_pytorch_name(Path::new(name))) {
                    Some(name) => format!(" (run `apb convert-heads` on {name} first)"),
                    None => String::new(),
                }
            });
            return Err(HeadsError::NoHeadsFile {
                path: path.into(),
                found,
            });
        }
    }
    if !file.exists() {
        return Err(HeadsError::NotFound { path: file });
    }
    if is_pytorch_name(&file) || matches!(beginning(&file), Beginning::Zip | Beginning::Pickle) {
        return Err(HeadsError::Pytorch { path: file });
    }
    if file
        .extension()
        .is_none_or(|e| !e.eq_ignore_ascii_case("safetensors"))
    {
        return Err(HeadsError::NotSafetensors {
            path: file,
            found: "another".into(),
        });
    }
    Ok(file)
}

/// What a file is by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beginning {
    /// A zip archive, as PyTorch writes since 1.6.
    Zip,
    /// A pickle of protocol 2 to 5, as PyTorch wrote before.
    Pickle,
    /// Anything else, and what cannot be read.
    Other,
}

/// Looks at the first bytes of a file.
pub(super) fn beginning(path: &Path) -> Beginning {
    let mut start = Vec::new();
    // Only of a regular file: a pipe would wait for a writer.
    if path.is_file()
        && let Ok(file) = File::open(path)
    {
        // What cannot be read is told when the file is opened to be used.
        let _ = file.take(9).read_to_end(&mut start);
    }
    match start.as_slice() {
        // The length of a safetensors header can be any bytes; the header begins behind it.
        [_, _, _, _, _, _, _, _, b'{'] => Beginning::Other,
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Beginning::Zip,
        [0x80, 2..=5, ..] => Beginning::Pickle,
        _ => Beginning::Other,
    }
}

/// Whether a file calls itself PyTorch's.
pub(super) fn is_pytorch_name(path: &Path) -> bool {
    path.extension().is_some_and(|e| {
        ["bin", "pt", "pth"]
            .iter()
            .any(|known| e.eq_ignore_ascii_case(known))
    })
}

/// The tensors by their place, and the types they are stored in.
fn heads_of(path: &Path, checkpoint: &Checkpoint) -> Result<(Found, Vec<FloatDType>), HeadsError> {
    let (mut found, mut dtypes) = (Found::new(), Vec::new());
    let (mut names, mut count) = (Vec::new(), 0);
    for info in checkpoint.tensors() {
        let Some(place) = place(&info.name) else {
            count += 1;
            if names.len() < SHOWN {
                names.push(info.name.clone());
            }
            continue;
        };
        match &info.stored {
            StoredType::Float(dtype) if dtypes.contains(dtype) => {}
            StoredType::Float(dtype) => dtypes.push(*dtype),
            other => {
                return Err(HeadsError::StoredType {
                    path: path.into(),
                    name: info.name.clone(),
                    found: other.to_string(),
                });
            }
        }
        found.insert(place, (info.name.clone(), info.shape.clone()));
    }
    if count > 0 {
        return Err(HeadsError::Unexpected {
            path: path.into(),
            names,
            count,
        });
    }
    Ok((found, dtypes))
}

/// Refuses heads of another shape than the model's.
fn compare(
    path: &Path,
    found: HeadsShape,
    base_model: Option<&str>,
    model: AttentionShape,
) -> Result<(), HeadsError> {
    let path = path.to_path_buf();
    let made_for = || match base_model {
        Some(name) => format!("{name} ({found})"),
        None => format!("a model of {found}"),
    };
    if found.layers != model.layers {
        return Err(HeadsError::Layers {
            path,
            expected: model.layers,
            found: found.layers,
            made_for: made_for(),
        });
    }
    let (heads, kv_heads) = (model.heads, model.kv_heads);
    let expected = (heads + 2 * kv_heads) * model.head_dim;
    if found.projections != expected {
        return Err(HeadsError::Projections {
            path,
            expected,
            heads,
            kv_heads,
            head_dim: model.head_dim,
            found: found.projections,
            made_for: made_for(),
        });
    }
    if found.kv_heads != kv_heads {
        return Err(HeadsError::KvHeads {
            path,
            expected: kv_heads,
            found: found.kv_heads,
            made_for: made_for(),
        });
    }
    Ok(())
}
