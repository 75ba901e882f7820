//! Published retaining heads to a heads file.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{DType, FloatDType};
use serde_json::json;

use super::error::ConvertHeadsError;
use super::format::{
    Beginning, Found, HEADS_FILE, HEADS_FORMAT, HEADS_LABEL_SCALE, HeadsFault, PYTORCH_FILE, Place,
    beginning, common_shape, tensor_name, within_prefix,
};
use super::label_scale::LabelScale;
use super::pytorch::{self, PytorchTensor};
use crate::checkpoint::index::{INDEX_FILE, SINGLE_FILE};
use crate::checkpoint::safetensors::encode;
use crate::checkpoint::{Checkpoint, FileError, StoredType, TensorInfo, listing_with, write_file};

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

/// Converts the retaining heads in `input` to the safetensors file `out`, which
/// [`RetainingHeads::load`](super::RetainingHeads::load) reads.
///
/// `input` is a PyTorch file as `torch.save` writes it, a folder with `pytorch_model.bin` or with
/// its index and shards, or the same in safetensors. Heads are the tensors named
/// `model.layers.{i}.self_attn.fc1.weight` and `.fc2.weight`, behind any prefix that a wrapper left
/// (`module.`, `base_model.model.`); other tensors are skipped and listed in the report. Element types
/// are kept. `base_model` names the model the heads are for in the new file; without it, the name
/// in a safetensors `input` is kept, and so is its [`LabelScale`].
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
        .map(|(place, source)| {
            (
                *place,
                (source.info.name.clone(), source.info.shape.clone()),
            )
        })
        .collect();
    let shape = common_shape(&found).map_err(|fault| ConvertHeadsError::Fault {
        path: input.into(),
        fault,
    })?;

    let mut tensors = Vec::with_capacity(heads.len());
    for (place, source) in &heads {
        let dtype = source.dtype()?;
        tensors.push((tensor_name(*place), dtype, format!("{dtype:?}"), source));
    }
    let source = input.file_name().unwrap_or(input.as_os_str());
    let mut metadata = json!({
        "format": HEADS_FORMAT,
        "width": shape.width.to_string(),
        "source": source.to_string_lossy(),
    });
    let named = said.get("base_model").map(String::as_str);
    if let Some(base_model) = base_model.or(named) {
        metadata["base_model"] = base_model.into();
    }
    if let Some(text) = said.get(HEADS_LABEL_SCALE) {
        let scale = LabelScale::from_json(text).and_then(|scale| {
            scale.check(shape.layers, shape.kv_heads)?;
            Ok(scale)
        });
        let scale = scale.map_err(|fault| ConvertHeadsError::LabelScale {
            path: input.into(),
            fault,
        })?;
        metadata[HEADS_LABEL_SCALE] = scale.to_string().into();
    }
    let described = tensors.iter().map(|(name, dtype, stored, source)| {
        let shape = &source.info.shape[..];
        let byte_len = source.info.elements() as u64 * DType::from(*dtype).size() as u64;
        (name.as_str(), stored.as_str(), shape, byte_len)
    });
    let (header, _) = encode(metadata, described);

    write_file(out, |file| {
        let failed = FileError::at(out);
        file.write_all(&header).map_err(failed)?;
        for (_, dtype, _, source) in &tensors {
            source.read(*dtype, |bytes| file.write_all(bytes).map_err(failed))?;
        }
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

/// A tensor of the input.
struct Source {
    info: TensorInfo,
    data: Data,
}

enum Data {
    Pytorch(PytorchTensor),
    Safetensors(Arc<Checkpoint>),
}

impl From<PytorchTensor> for Source {
    fn from(source: PytorchTensor) -> Self {
        let tensor = &source.tensor;
        let info = TensorInfo {
            name: tensor.name.clone(),
            shape: tensor.shape().to_vec(),
            stored: match tensor.dtype() {
                pytorch_reader::DType::F32 => StoredType::Float(FloatDType::F32),
                pytorch_reader::DType::F16 => StoredType::Float(FloatDType::F16),
                pytorch_reader::DType::BF16 => StoredType::Float(FloatDType::BF16),
                other => StoredType::Other(format!("{other:?}")),
            },
            file: source.file.clone(),
        };
        let data = Data::Pytorch(source);
        Self { info, data }
    }
}

impl Source {
    fn dtype(&self) -> Result<FloatDType, ConvertHeadsError> {
        match &self.info.stored {
            StoredType::Float(dtype) if *dtype != FloatDType::F64 => Ok(*dtype),
            other => Err(ConvertHeadsError::StoredType {
                path: self.info.file.clone(),
                name: self.info.name.clone(),
                found: other.to_string(),
            }),
        }
    }

    /// Refuses a tensor that would take more memory than its file has bytes. Safetensors cannot
    /// claim that: their header was compared with the file.
    fn refuse_claim(&self) -> Result<(), ConvertHeadsError> {
        match &self.data {
            Data::Pytorch(source) if source.tensor.byte_len() as u64 > source.file_len => {
                Err(ConvertHeadsError::Claim {
                    path: source.file.clone(),
                    what: format!("tensor `{}`", self.info.name),
                    claimed: source.tensor.byte_len() as u64,
                    file_len: source.file_len,
                })
            }
            _ => Ok(()),
        }
    }

    /// Reads the tensor and passes its bytes, row by row and little-endian, to `write`.
    fn read(
        &self,
        dtype: FloatDType,
        write: impl FnOnce(&[u8]) -> Result<(), FileError>,
    ) -> Result<(), ConvertHeadsError> {
        let info = &self.info;
        match &self.data {
            Data::Pytorch(source) => {
                let bytes = source.tensor.read().map_err(pytorch::damaged(&info.file))?;
                Ok(write(&bytes)?)
            }
            Data::Safetensors(checkpoint) => {
                Ok(write(checkpoint.read(&info.name, dtype)?.as_bytes())?)
            }
        }
    }
}

/// Tensors, and the metadata beside them.
type Described = (Vec<Source>, BTreeMap<String, String>);

/// The tensors at `input`, and its metadata.
fn open(input: &Path) -> Result<Described, ConvertHeadsError> {
    if !input.exists() {
        return Err(ConvertHeadsError::NotFound { path: input.into() });
    }
    let from_pytorch = |tensors: Vec<PytorchTensor>| {
        let tensors = tensors.into_iter().map(Source::from).collect();
        (tensors, BTreeMap::new())
    };
    if input.is_dir() {
        let file = |name: &str| Some(input.join(name)).filter(|path| path.exists());
        if let Some(heads) = file(HEADS_FILE) {
            return safetensors(&heads);
        }
        if file(SINGLE_FILE).or(file(INDEX_FILE)).is_some() {
            return safetensors(input);
        }
        if let Some(single) = file(PYTORCH_FILE) {
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

fn safetensors(path: &Path) -> Result<Described, ConvertHeadsError> {
    let checkpoint = Arc::new(Checkpoint::open(path)?);
    let sources = checkpoint.tensors().map(|info| Source {
        info: info.clone(),
        data: Data::Safetensors(Arc::clone(&checkpoint)),
    });
    let metadata = checkpoint.metadata().clone();
    Ok((sources.collect(), metadata))
}

/// The heads by their place, and the names of all other tensors.
fn choose(
    input: &Path,
    sources: Vec<Source>,
) -> Result<(BTreeMap<Place, Source>, Vec<String>), ConvertHeadsError> {
    let wrong = |fault| ConvertHeadsError::Fault {
        path: input.into(),
        fault,
    };
    let (mut heads, mut ignored) = (BTreeMap::new(), Vec::new());
    for source in sources {
        let name = source.info.name.clone();
        let Some((place, parameter)) = within_prefix(&name) else {
            ignored.push(name);
            continue;
        };
        if parameter != "weight" {
            return Err(wrong(HeadsFault::Parameter { name }));
        }
        source.refuse_claim()?;
        match heads.entry(place) {
            Entry::Vacant(entry) => {
                entry.insert(source);
            }
            Entry::Occupied(entry) => {
                return Err(wrong(HeadsFault::Twice {
                    first: entry.get().info.name.clone(),
                    second: name,
                    name: tensor_name(place),
                }));
            }
        }
    }
    ignored.sort();
    Ok((heads, ignored))
}
