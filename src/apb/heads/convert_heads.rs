//! Published retaining heads to the file this crate loads.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::FloatDType;
use pytorch_reader::DType;
use serde_json::{Map, Value};

use super::head_shapes::{Found, HeadsFault, Place, common_shape, tensor_name, within_prefix};
use super::heads_file::{Beginning, HEADS_FILE, HEADS_FORMAT, beginning};
use super::pickle::PickleError;
use super::pytorch::{self, PytorchTensor};
use crate::checkpoint::index::IndexError;
use crate::checkpoint::safetensors::encode;
use crate::checkpoint::{
    Checkpoint, FileError, SINGLE_FILE, StoredType, TensorInfo, WeightsError, index, listing_with,
    write_file,
};

/// What a conversion wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConvertedHeads {
    /// The file.
    pub path: PathBuf,
    /// Number of tensors in it.
    pub tensors: usize,
    /// Number of layers.
    pub layers: usize,
    /// Width R of the hidden layer.
    pub width: usize,
    /// Key/value heads that are scored.
    pub kv_heads: usize,
    /// The names of the source's other tensors, sorted.
    pub ignored: Vec<String>,
}

/// Why no heads were written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertHeadsError {
    /// The path does not exist.
    #[error("{}: no such file or folder; check the spelling, or download the heads first", path.display())]
    NotFound {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// A folder without weights that are read.
    #[error("{}: expected {}, its index with shards, or safetensors, found {found}", path.display(), pytorch::SINGLE_FILE)]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// A file that is no weights.
    #[error("{}: expected a PyTorch file (a zip archive) or safetensors, found {found}", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// What it is instead, and what to do.
        found: String,
    },
    /// A pickle that asks for more than tensors.
    #[error("{}: {source}", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
        /// What it asks for.
        source: PickleError,
    },
    /// A PyTorch file that does not hold.
    #[error("{}: {message}; the file is damaged or incomplete: download it again", path.display())]
    Pytorch {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// Something that would take more than the file can have.
    #[error("{}: {what} claims {claimed} bytes, expected at most {file_len}; the file is damaged or made to harm: download it again", path.display())]
    Claim {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        what: String,
        /// Bytes it would take.
        claimed: u64,
        /// Bytes it may take: those of the file.
        file_len: u64,
    },
    /// A shard index that does not hold.
    #[error("{}: {source}; download the index again", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong with it.
        source: IndexError,
    },
    /// Shards that do not belong to their index.
    #[error("{}: names {what}; the download is incomplete: download the model again", path.display())]
    Shards {
        /// The index file.
        path: PathBuf,
        /// What is missing.
        what: String,
    },
    /// Tensors that are no retaining heads, or not all of them.
    #[error("{}: {fault}; give the file or folder of the published heads", path.display())]
    Fault {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        fault: HeadsFault,
    },
    /// A parameter that retaining heads do not have.
    #[error("{}: found `{name}`, but retaining heads have a weight and nothing else; these heads are of another kind", path.display())]
    Parameter {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// Two tensors for one place.
    #[error("{}: `{first}` and `{second}` are both {place}; keep one of the two", path.display())]
    Twice {
        /// The file or folder.
        path: PathBuf,
        /// One tensor.
        first: String,
        /// The other.
        second: String,
        /// The name that both would get.
        place: String,
    },
    /// A tensor of a type that heads are not kept in.
    #[error("{}: tensor `{name}` is stored as {found}, expected f32, f16 or bf16; save the heads in one of those", path.display())]
    StoredType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// Safetensors that cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The target is a folder.
    #[error("{}: expected the name of a file, found a folder; say {}", path.display(), path.join(HEADS_FILE).display())]
    OutIsFolder {
        /// The target.
        path: PathBuf,
    },
    /// Writing. Nothing is left behind.
    #[error(transparent)]
    Write(#[from] FileError),
}

/// Converts the retaining heads in `input` to the safetensors file `out`, which
/// [`RetainingHeads::load`](super::RetainingHeads::load) reads.
///
/// `input` is a PyTorch file as `torch.save` writes it, a folder with `pytorch_model.bin` or with
/// its index and shards, or the same in safetensors. Heads are the tensors named
/// `model.layers.{i}.self_attn.fc1.weight` and `.fc2.weight`, behind any prefix that a wrapper left
/// (`module.`, `base_model.model.`); others are passed over and listed in the report. Element types
/// are kept. `base_model` names the model the heads are for in the new file; without it, what a
/// safetensors `input` says is kept.
///
/// A pickle is never executed. One that asks for anything but tensors is refused by the name of
/// what it asks for; no memory is taken by a length that the file only claims.
///
/// One tensor is in memory at a time; `out` is replaced whole or not touched.
///
/// # Errors
///
/// A [`ConvertHeadsError`] that names the file and what is wrong: no heads, not all of them, heads
/// of different shapes, a type other than f32, f16 and bf16, a damaged or hostile file; writing.
pub fn convert_heads(
    input: impl AsRef<Path>,
    out: impl AsRef<Path>,
    base_model: Option<&str>,
) -> Result<ConvertedHeads, ConvertHeadsError> {
    let (input, out) = (input.as_ref(), out.as_ref());
    if out.is_dir() {
        return Err(ConvertHeadsError::OutIsFolder { path: out.into() });
    }
    let (sources, said) = open(input)?;
    let (heads, ignored) = choose(input, sources)?;
    let found: Found = heads
        .iter()
        .map(|(place, source)| (*place, (source.name().into(), source.shape().to_vec())))
        .collect();
    let shape = common_shape(&found).map_err(|fault| ConvertHeadsError::Fault {
        path: input.into(),
        fault,
    })?;

    let mut tensors = Vec::with_capacity(heads.len());
    for (place, source) in &heads {
        tensors.push((tensor_name(*place), source.dtype()?, source));
    }
    let mut metadata = Map::new();
    let source = input.file_name().unwrap_or(input.as_os_str());
    let base_model = base_model.map(String::from).or(said);
    for (key, value) in [
        ("format", Some(HEADS_FORMAT.into())),
        ("base_model", base_model),
        ("width", Some(shape.width.to_string())),
        ("source", Some(source.to_string_lossy().into_owned())),
    ] {
        if let Some(value) = value {
            metadata.insert(key.into(), Value::String(value));
        }
    }
    let described = tensors.iter().map(|(name, dtype, source)| {
        let elements: usize = source.shape().iter().product();
        let byte_len = elements as u64 * dtype.width;
        (name.as_str(), dtype.name, source.shape(), byte_len)
    });
    let (header, _) = encode(Value::Object(metadata), described);

    write_file(out, |file| {
        let failed = |source| FileError {
            path: out.into(),
            source,
        };
        let mut file = BufWriter::new(file);
        file.write_all(&header).map_err(failed)?;
        for (_, dtype, source) in &tensors {
            source.write(*dtype, &mut |bytes| file.write_all(bytes).map_err(failed))?;
        }
        file.flush().map_err(failed)?;
        Ok::<_, ConvertHeadsError>(())
    })?;
    Ok(ConvertedHeads {
        path: out.into(),
        tensors: tensors.len(),
        layers: shape.layers,
        width: shape.width,
        kv_heads: shape.kv_heads,
        ignored,
    })
}

/// An element type of a head.
#[derive(Debug, Clone, Copy)]
struct Stored {
    dtype: FloatDType,
    /// Its name in safetensors.
    name: &'static str,
    /// Bytes of an element.
    width: u64,
}

const F32: Stored = Stored {
    dtype: FloatDType::F32,
    name: "F32",
    width: 4,
};
const F16: Stored = Stored {
    dtype: FloatDType::F16,
    name: "F16",
    width: 2,
};
const BF16: Stored = Stored {
    dtype: FloatDType::BF16,
    name: "BF16",
    width: 2,
};

/// A tensor of the input.
enum Source {
    Pytorch(PytorchTensor),
    Safetensors(Arc<Checkpoint>, TensorInfo),
}

impl Source {
    fn name(&self) -> &str {
        match self {
            Self::Pytorch(source) => &source.tensor.name,
            Self::Safetensors(_, info) => &info.name,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::Pytorch(source) => source.tensor.shape(),
            Self::Safetensors(_, info) => &info.shape,
        }
    }

    fn file(&self) -> &Path {
        match self {
            Self::Pytorch(source) => &source.file,
            Self::Safetensors(_, info) => &info.file,
        }
    }

    fn dtype(&self) -> Result<Stored, ConvertHeadsError> {
        let wrong = |found: String| ConvertHeadsError::StoredType {
            path: self.file().into(),
            name: self.name().into(),
            found,
        };
        match self {
            Self::Pytorch(source) => match source.tensor.dtype() {
                DType::F32 => Ok(F32),
                DType::F16 => Ok(F16),
                DType::BF16 => Ok(BF16),
                other => Err(wrong(format!("{other:?}"))),
            },
            Self::Safetensors(_, info) => match info.stored {
                StoredType::Float(FloatDType::F32) => Ok(F32),
                StoredType::Float(FloatDType::F16) => Ok(F16),
                StoredType::Float(FloatDType::BF16) => Ok(BF16),
                ref other => Err(wrong(other.to_string())),
            },
        }
    }

    /// Refuses a tensor that would take more memory than its file has bytes. Safetensors cannot
    /// claim that: their header was compared with the file.
    fn refuse_claim(&self) -> Result<(), ConvertHeadsError> {
        match self {
            Self::Pytorch(source) if source.tensor.byte_len() as u64 > source.file_len => {
                Err(ConvertHeadsError::Claim {
                    path: source.file.clone(),
                    what: format!("tensor `{}`", source.tensor.name),
                    claimed: source.tensor.byte_len() as u64,
                    file_len: source.file_len,
                })
            }
            _ => Ok(()),
        }
    }

    /// Hands the tensor's bytes, row by row and little-endian, to `write`.
    fn write(
        &self,
        stored: Stored,
        write: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), ConvertHeadsError> {
        match self {
            Self::Pytorch(source) => {
                let bytes = source
                    .tensor
                    .read()
                    .map_err(|e| ConvertHeadsError::Pytorch {
                        path: source.file.clone(),
                        message: e.to_string(),
                    })?;
                Ok(write(&bytes)?)
            }
            Self::Safetensors(checkpoint, info) => {
                let tensor = checkpoint.tensor(&info.name, stored.dtype)?;
                let bytes = tensor.into_bytes().map_err(|e| WeightsError::Read {
                    path: info.file.clone(),
                    name: info.name.clone(),
                    message: e.to_string(),
                })?;
                Ok(write(&bytes)?)
            }
        }
    }
}

/// The tensors at `input`, and the base model it names.
fn open(input: &Path) -> Result<(Vec<Source>, Option<String>), ConvertHeadsError> {
    if !input.exists() {
        return Err(ConvertHeadsError::NotFound { path: input.into() });
    }
    let from_pytorch =
        |tensors: Vec<PytorchTensor>| (tensors.into_iter().map(Source::Pytorch).collect(), None);
    if input.is_dir() {
        let file = |name: &str| Some(input.join(name)).filter(|path| path.exists());
        if let Some(heads) = file(HEADS_FILE) {
            return safetensors(&heads);
        }
        if file(SINGLE_FILE).or(file(index::INDEX_FILE)).is_some() {
            return safetensors(input);
        }
        if let Some(single) = file(pytorch::SINGLE_FILE) {
            return pytorch::open(&single).map(from_pytorch);
        }
        if file(pytorch::INDEX_FILE).is_some() {
            return pytorch::open_shards(input).map(from_pytorch);
        }
        let hint = |_: &[String]| " (give the file itself where it has another name)".into();
        return Err(ConvertHeadsError::NoWeights {
            path: input.into(),
            found: listing_with(input, hint),
        });
    }
    let unknown = |found: &str| ConvertHeadsError::UnknownFormat {
        path: input.into(),
        found: found.into(),
    };
    if !input.is_file() {
        return Err(unknown("a device or pipe"));
    }
    match (beginning(input), input.extension()) {
        (Beginning::Zip, _) => pytorch::open(input).map(from_pytorch),
        (Beginning::Pickle, _) => Err(unknown(
            "a bare pickle, as PyTorch wrote before version 1.6; load it with torch.load(weights_only=True) and save it again with torch.save",
        )),
        (_, Some(e)) if e.eq_ignore_ascii_case("safetensors") => safetensors(input),
        _ => Err(unknown("neither; download the heads again")),
    }
}

fn safetensors(path: &Path) -> Result<(Vec<Source>, Option<String>), ConvertHeadsError> {
    let checkpoint = Arc::new(Checkpoint::open(path)?);
    let sources = checkpoint
        .tensors()
        .map(|info| Source::Safetensors(Arc::clone(&checkpoint), info.clone()));
    let base_model = checkpoint.metadata().get("base_model").cloned();
    Ok((sources.collect(), base_model))
}

/// The heads by their place, and the names of all other tensors.
fn choose(
    input: &Path,
    sources: Vec<Source>,
) -> Result<(BTreeMap<Place, Source>, Vec<String>), ConvertHeadsError> {
    let (mut heads, mut ignored) = (BTreeMap::new(), Vec::new());
    for source in sources {
        let Some((place, parameter)) = within_prefix(source.name()) else {
            ignored.push(source.name().into());
            continue;
        };
        if parameter != "weight" {
            return Err(ConvertHeadsError::Parameter {
                path: input.into(),
                name: source.name().into(),
            });
        }
        source.refuse_claim()?;
        match heads.entry(place) {
            Entry::Vacant(entry) => {
                entry.insert(source);
            }
            Entry::Occupied(entry) => {
                return Err(ConvertHeadsError::Twice {
                    path: input.into(),
                    first: entry.get().name().into(),
                    second: source.name().into(),
                    place: tensor_name(place),
                });
            }
        }
    }
    ignored.sort();
    Ok((heads, ignored))
}
