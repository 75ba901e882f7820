//! The tensors of a model's files under their Hugging Face names, read when they are asked for.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
#[cfg(feature = "gguf")]
use std::sync::Arc;

use burn::store::burn_pack::{Error as PackError, Tensor as PackTensor};
use burn::tensor::{Bytes, DType, FloatDType};
use safetensors::Dtype;

use super::elements;
use super::error::{WeightsError, plural};
use super::index::{INDEX_FILE, Index, IndexError, MAX_INDEX_LEN};
use super::mapped::MappedFile;
use super::plan::nearest;
use super::report::ShardNotes;
use super::safetensors::Header;

/// The name of a single-file checkpoint in a model's folder.
pub const SINGLE_FILE: &str = "model.safetensors";

/// How a tensor is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoredType {
    /// Floating point: f64, or of the same layout as a parameter's.
    Float(FloatDType),
    /// Blocks of a GGUF quantisation, by its name there, such as `Q4_1`.
    Quantized(&'static str),
    /// A type that cannot become a float parameter, by its name in the file.
    Other(String),
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(dtype) => write!(f, "{dtype:?}"),
            Self::Quantized(name) => f.write_str(name),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// What is known about a tensor without reading it.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Its Hugging Face name.
    pub name: String,
    /// Its shape, outermost axis first.
    pub shape: Vec<usize>,
    /// How it is stored.
    pub stored: StoredType,
    /// The file it lies in.
    pub file: PathBuf,
}

impl TensorInfo {
    /// Number of elements. The shape was checked against the file, so this does not overflow.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Where a tensor's data comes from.
#[derive(Debug, Clone)]
pub(super) enum Data {
    /// Elements in a mapped file.
    Plain {
        file: MappedFile,
        range: Range<usize>,
        from: FloatDType,
    },
    /// Blocks of a GGUF file.
    #[cfg(feature = "gguf")]
    Gguf(super::gguf::BlockTensor),
    /// Nothing that can be read.
    Unreadable,
}

/// The tensors of a safetensors file and its metadata.
type Shard = (Vec<(TensorInfo, Data)>, BTreeMap<String, String>);

/// The weights of one model: a folder with `model.safetensors` or with
/// `model.safetensors.index.json` and shards, one `.safetensors` file, or one `.gguf` file or any
/// part of a split one.
///
/// Opening reads headers only. Files stay memory-mapped until the checkpoint and every tensor read
/// without conversion are dropped; they must not be shortened meanwhile.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
    tensors: Vec<(TensorInfo, Data)>,
    by_name: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
    shard_notes: ShardNotes,
    /// Tensors of a GGUF file that have no Hugging Face name.
    others: Vec<TensorInfo>,
    #[cfg(feature = "gguf")]
    gguf: Option<Arc<super::gguf::Gguf>>,
}

impl Checkpoint {
    /// Opens the weights at `path` and checks every header.
    ///
    /// In a folder, `model.safetensors` goes before an index, as it does in transformers.
    ///
    /// # Errors
    ///
    /// A [`WeightsError`] that names the file and says what is wrong with it. No file causes a
    /// panic, or memory to be taken beyond a small multiple of its own length.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        crate::model::local::refuse_weight_placeholders(path)?;
        if path.is_dir() {
            let (single, index) = (path.join(SINGLE_FILE), path.join(INDEX_FILE));
            return if single.exists() {
                Self::single(path, MappedFile::open(&single)?)
            } else if index.exists() {
                Self::sharded(path, &index)
            } else if let Some(gguf) = only_gguf(path)? {
                Self::open(gguf)
            } else {
                Err(WeightsError::NoWeights {
                    path: path.into(),
                    found: listing_without_weights(path),
                })
            };
        }
        let file = MappedFile::open(path)?;
        if file.bytes().starts_with(b"GGUF")
            || path
                .extension()
                .is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
        {
            return Self::gguf_file(path, file);
        }
        if path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("safetensors"))
        {
            return Self::single(path, file);
        }
        let start = file.bytes().get(..8).unwrap_or(file.bytes());
        let found = format!("one that begins with \"{}\"", start.escape_ascii());
        Err(WeightsError::UnknownFormat {
            path: path.into(),
            found,
        })
    }

    fn single(path: &Path, file: MappedFile) -> Result<Self, WeightsError> {
        let (tensors, metadata) = shard(&file)?;
        let mut checkpoint = Self::new(path, tensors);
        checkpoint.metadata = metadata;
        Ok(checkpoint)
    }

    fn sharded(folder: &Path, path: &Path) -> Result<Self, WeightsError> {
        let text = MappedFile::open(path)?;
        let wrong = |source| WeightsError::Index {
            path: path.into(),
            source,
        };
        if text.bytes().len() as u64 > MAX_INDEX_LEN {
            return Err(wrong(IndexError::TooLarge {
                found: text.bytes().len() as u64,
            }));
        }
        let index = Index::parse(text.bytes()).map_err(wrong)?;
        let missing: Vec<String> = index
            .shards()
            .into_iter()
            .filter(|name| !folder.join(name).exists())
            .map(String::from)
            .collect();
        if !missing.is_empty() {
            return Err(WeightsError::ShardMissing {
                index: path.into(),
                shards: missing,
            });
        }

        let promised: HashMap<&str, &str> = index
            .weight_map
            .iter()
            .map(|(tensor, shard)| (tensor.as_str(), shard.as_str()))
            .collect();
        let mut notes = ShardNotes::default();
        let (mut tensors, mut found) = (Vec::new(), HashMap::new());
        for name in index.shards() {
            for (info, data) in shard(&MappedFile::open(&folder.join(name))?)?.0 {
                match promised.get(info.name.as_str()) {
                    None => notes.unlisted.push(info.name.clone()),
                    Some(shard) if *shard != name => notes.elsewhere.push(info.name.clone()),
                    Some(_) => {}
                }
                // As in transformers, which reads one shard after the other.
                match found.entry(info.name.clone()) {
                    Entry::Vacant(place) => {
                        place.insert(tensors.len());
                        tensors.push((info, data));
                    }
                    Entry::Occupied(place) => {
                        notes.repeated.push(info.name.clone());
                        let at: usize = *place.get();
                        tensors[at] = (info, data);
                    }
                }
            }
        }
        // Named once: a tensor in two shards is in another than the index says in one of them.
        let twice: BTreeSet<&String> = notes.repeated.iter().collect();
        notes.elsewhere.retain(|name| !twice.contains(name));
        notes.unlisted.retain(|name| !twice.contains(name));
        let faults: Vec<String> = index
            .weight_map
            .iter()
            .filter(|(tensor, _)| !found.contains_key(tensor))
            .map(|(tensor, shard)| format!("{shard} lacks `{tensor}`"))
            .collect();
        if !faults.is_empty() {
            return Err(WeightsError::ShardDisagrees {
                index: path.into(),
                faults,
            });
        }
        let mut checkpoint = Self::new(folder, tensors);
        checkpoint.shard_notes = notes;
        Ok(checkpoint)
    }

    #[cfg(feature = "gguf")]
    fn gguf_file(path: &Path, file: MappedFile) -> Result<Self, WeightsError> {
        let parts = super::gguf::open_all(file)?;
        let opened = super::gguf::open(parts).map_err(|source| WeightsError::Gguf {
            path: path.into(),
            source,
        })?;
        let mut checkpoint = Self::new(path, opened.tensors);
        checkpoint.others = opened.others;
        checkpoint.gguf = Some(Arc::new(opened.gguf));
        Ok(checkpoint)
    }

    #[cfg(not(feature = "gguf"))]
    fn gguf_file(path: &Path, _: MappedFile) -> Result<Self, WeightsError> {
        Err(WeightsError::NoGguf { path: path.into() })
    }

    fn new(path: &Path, tensors: Vec<(TensorInfo, Data)>) -> Self {
        let by_name = tensors
            .iter()
            .enumerate()
            .map(|(at, (info, _))| (info.name.clone(), at))
            .collect();
        Self {
            path: path.into(),
            tensors,
            by_name,
            metadata: BTreeMap::new(),
            shard_notes: ShardNotes::default(),
            others: Vec::new(),
            #[cfg(feature = "gguf")]
            gguf: None,
        }
    }

    /// The folder or file this was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors, in the order of the files' data.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter().map(|(info, _)| info)
    }

    /// Tensors that have no Hugging Face name, of a GGUF file; they cannot be read.
    pub fn others(&self) -> &[TensorInfo] {
        &self.others
    }

    /// One tensor by its Hugging Face name.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&at| &self.tensors[at].0)
    }

    /// The `__metadata__` of the one safetensors file this was opened from; empty for shards, whose
    /// files may disagree, and for GGUF.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// In what the shards differ from the index; nothing for other checkpoints.
    pub fn shard_notes(&self) -> &ShardNotes {
        &self.shard_notes
    }

    /// Whether all elements of a tensor are 0; false for a tensor that is not there or cannot be read.
    pub(super) fn is_zero(&self, name: &str) -> bool {
        let data = self.by_name.get(name).map(|&at| &self.tensors[at].1);
        let values = data.map(|data| data.read(FloatDType::F32));
        match values {
            // 0 and -0: nothing but, at most, a sign in an element's last byte.
            Some(Ok(bytes)) => bytes
                .chunks_exact(size_of::<f32>())
                .all(|element| matches!(element, [0, 0, 0, 0 | 0x80])),
            _ => false,
        }
    }

    /// Whether two tensors of one shape hold the same numbers once they are of type `dtype`; `None`
    /// where one of them is not of plain floats.
    pub(super) fn same_values(
        &self,
        left: &str,
        right: &str,
        dtype: FloatDType,
    ) -> Result<Option<bool>, WeightsError> {
        if elements::width(dtype).is_none() {
            return Err(WeightsError::AskedType { found: dtype });
        }
        let data = |name: &str| self.by_name.get(name).map(|&at| &self.tensors[at]);
        let (Some((left, left_data)), Some((right, right_data))) = (data(left), data(right)) else {
            return Ok(None);
        };
        let (Some(from_left), Some(from_right)) = (left_data.plain(), right_data.plain()) else {
            return Ok(None);
        };
        let bytes = |info: &TensorInfo, (file, range, _): (&MappedFile, &Range<usize>, _)| {
            file.slice(range.clone())
                .ok_or_else(|| read_error(info, "its bytes are not inside the file".into()))
        };
        let equal = elements::equal(
            (&bytes(left, from_left)?, from_left.2),
            (&bytes(right, from_right)?, from_right.2),
            dtype,
        );
        for (file, range, _) in [from_left, from_right] {
            file.release(range.clone());
        }
        Ok(Some(equal))
    }

    /// The bytes of a tensor as they lie in its file; `None` for a tensor that is not there or whose
    /// type cannot be read.
    pub(crate) fn stored_bytes(&self, name: &str) -> Option<&[u8]> {
        let (file, range) = match &self.tensors[*self.by_name.get(name)?].1 {
            Data::Plain { file, range, .. } => (file, range),
            #[cfg(feature = "gguf")]
            Data::Gguf(blocks) => blocks.place(),
            Data::Unreadable => return None,
        };
        file.bytes().get(range.clone())
    }

    /// The metadata of the GGUF file this was opened from; `None` for safetensors.
    #[cfg(feature = "gguf")]
    pub fn gguf(&self) -> Option<&super::gguf::Gguf> {
        self.gguf.as_deref()
    }

    /// A tensor whose data is read when its bytes are drawn, in the type asked for.
    ///
    /// Stored and asked type equal: the bytes are the mapped file itself. Otherwise they are
    /// converted, rounding to nearest even, or dequantised, into memory of their own. Drawing
    /// never panics.
    ///
    /// # Errors
    ///
    /// No tensor of that name; a stored type that is not a float; a type asked for other than
    /// f32, f16 and bf16.
    pub fn tensor(&self, name: &str, dtype: FloatDType) -> Result<PackTensor, WeightsError> {
        let Some(&at) = self.by_name.get(name) else {
            let nearest = nearest(name, self.tensors().map(|info| info.name.as_str()));
            return Err(WeightsError::NoSuchTensor {
                path: self.path.clone(),
                name: name.into(),
                nearest,
            });
        };
        let (info, data) = &self.tensors[at];
        let width = elements::width(dtype).ok_or(WeightsError::AskedType { found: dtype })?;
        if let Data::Unreadable = data {
            return Err(WeightsError::StoredType {
                path: info.file.clone(),
                name: name.into(),
                expected: "F64, F32, F16, BF16 or, in GGUF, a quantisation of them",
                found: info.stored.to_string(),
            });
        }
        let Some(byte_len) = info.elements().checked_mul(width) else {
            return Err(read_error(
                info,
                format!("shape {:?} does not fit into memory", info.shape),
            ));
        };
        let (data, failed) = (data.clone(), info.clone());
        Ok(PackTensor::deferred(
            info.name.clone(),
            DType::from(dtype),
            info.shape.clone(),
            None,
            byte_len,
            move || {
                data.read(dtype).map_err(|message| {
                    PackError::ValidationError(read_error(&failed, message).to_string())
                })
            },
        ))
    }
}

impl Data {
    /// Where elements lie that are plain floats, and of which type they are.
    fn plain(&self) -> Option<(&MappedFile, &Range<usize>, FloatDType)> {
        match self {
            Self::Plain { file, range, from } => Some((file, range, *from)),
            _ => None,
        }
    }

    /// The tensor's elements as `to`, or why not. What was converted from a file does not stay in
    /// memory beside the result.
    fn read(&self, to: FloatDType) -> Result<Bytes, String> {
        let elements = self.elements(to)?;
        let (file, range) = match self {
            Self::Plain { file, range, .. } => (file, range),
            #[cfg(feature = "gguf")]
            Self::Gguf(blocks) => blocks.place(),
            Self::Unreadable => return Ok(elements),
        };
        if !file.bytes().as_ptr_range().contains(&elements.as_ptr()) {
            file.release(range.clone());
        }
        Ok(elements)
    }

    fn elements(&self, to: FloatDType) -> Result<Bytes, String> {
        match self {
            Self::Plain { file, range, from } => file
                .slice(range.clone())
                .and_then(|source| elements::convert(source, *from, to))
                .ok_or_else(|| "its bytes are not inside the file".to_string()),
            #[cfg(feature = "gguf")]
            Self::Gguf(blocks) => blocks.read(to),
            Self::Unreadable => Err("its type cannot be read".to_string()),
        }
    }
}

pub(super) fn read_error(info: &TensorInfo, message: String) -> WeightsError {
    WeightsError::Read {
        path: info.file.clone(),
        name: info.name.clone(),
        message,
    }
}

/// The GGUF model in a folder that is no Hugging Face model.
#[cfg(feature = "gguf")]
fn only_gguf(folder: &Path) -> Result<Option<PathBuf>, WeightsError> {
    match folder.join("config.json").exists() {
        true => Ok(None),
        false => super::gguf::find(folder),
    }
}

#[cfg(not(feature = "gguf"))]
fn only_gguf(_: &Path) -> Result<Option<PathBuf>, WeightsError> {
    Ok(None)
}

/// The tensors of one safetensors file, and its metadata.
fn shard(file: &MappedFile) -> Result<Shard, WeightsError> {
    let header = Header::parse(file.bytes(), file.bytes().len() as u64).map_err(|source| {
        WeightsError::Header {
            path: file.path().into(),
            source,
        }
    })?;
    let tensors = header.tensors.into_iter().map(|entry| {
        let stored = match entry.dtype {
            Dtype::F64 => StoredType::Float(FloatDType::F64),
            Dtype::F32 => StoredType::Float(FloatDType::F32),
            Dtype::F16 => StoredType::Float(FloatDType::F16),
            Dtype::BF16 => StoredType::Float(FloatDType::BF16),
            other => StoredType::Other(format!("{other:?}")),
        };
        let data = match stored {
            StoredType::Float(from) => Data::Plain {
                file: file.clone(),
                range: entry.start..entry.end,
                from,
            },
            _ => Data::Unreadable,
        };
        (
            TensorInfo {
                name: entry.name,
                shape: entry.shape,
                stored,
                file: file.path().into(),
            },
            data,
        )
    });
    Ok((tensors.collect(), header.metadata))
}

/// What a folder holds, for a message; with a hint where it is another known format.
pub(crate) fn listing(folder: &Path) -> String {
    listing_with(folder, other_format)
}

/// [`listing`] of a folder without weights: also says which safetensors file is not one of them, and
/// why.
fn listing_without_weights(folder: &Path) -> String {
    listing_with(folder, |names| {
        let safetensors = || names.iter().filter(|name| name.ends_with(".safetensors"));
        let starting = |start: &str| safetensors().find(|name| name.starts_with(start));
        if safetensors().any(|name| name.contains("-of-")) {
            format!(" (shards without their index: fetch {INDEX_FILE} too)")
        } else if let Some(name) = starting("consolidated") {
            format!(
                " ({name} names its tensors for another program: fetch {SINGLE_FILE} or the shards \
                 of the same model)"
            )
        } else if let Some(name) = starting("adapter_model") {
            format!(
                " ({name} is an adapter: merge it into its base model with peft's \
                 `merge_and_unload` and save the result)"
            )
        } else if let Some(name) = safetensors().next() {
            format!(" (if {name} holds the whole model, rename it to {SINGLE_FILE})")
        } else {
            other_format(names)
        }
    })
}

/// What to do with a folder of another known format.
fn other_format(names: &[String]) -> String {
    if let Some(gguf) = names.iter().find(|n| n.ends_with(".gguf")) {
        format!(" (give {gguf} itself as the model)")
    } else if names
        .iter()
        .any(|n| [".bin", ".pth", ".pt"].iter().any(|end| n.ends_with(end)))
    {
        " (PyTorch files are not read: save the model as safetensors with transformers' `save_pretrained`)".into()
    } else {
        String::new()
    }
}

/// What a folder holds, for a message; with what `hint` says about its sorted file names.
pub(crate) fn listing_with(folder: &Path, hint: impl FnOnce(&[String]) -> String) -> String {
    const SHOWN: usize = 12;
    let Ok(entries) = std::fs::read_dir(folder) else {
        return "a folder that cannot be listed".into();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    if names.is_empty() {
        return "an empty folder".into();
    }
    let hint = hint(&names);
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let more = if more > 0 {
        format!(
            " and {} more",
            plural(more, "entry").replace("entrys", "entries")
        )
    } else {
        String::new()
    };
    format!("{}{more}{hint}", names.join(", "))
}
