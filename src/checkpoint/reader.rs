//! The tensors of a model's files under their Hugging Face names.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::store::burn_pack::{Error as PackError, Tensor as PackTensor};
use burn::tensor::{DType, FloatDType, TensorData};

use super::config::QuantizationConfig;
use super::elements;
use super::error::WeightsError;
use super::grouped;
use super::index::{INDEX_FILE, SINGLE_FILE};
use super::listing::listing_without_weights;
use super::local::refuse_weight_placeholders;
use super::mapped::MappedFile;
use super::mismatch::nearest;
use super::report::{LoadOptions, ShardNotes};
use super::shards;
use super::tensor::{Data, StoredType, TensorInfo, read_error};

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
    shard_notes: Arc<ShardNotes>,
    /// Tensors of a GGUF file that have no Hugging Face name.
    others: Arc<[TensorInfo]>,
    /// The method that its weights were quantised by.
    quantization: Option<&'static str>,
    #[cfg(feature = "gguf")]
    gguf: Option<Arc<super::gguf::Gguf>>,
}

impl Checkpoint {
    /// Opens the weights at `path` and checks every header.
    ///
    /// Of a quantised safetensors model these are the tensors as they are stored: its weights are made of them by
    /// [`ModelSource::checkpoint`](super::ModelSource::checkpoint), which knows from `config.json` how they lie.
    ///
    /// In a folder, `model.safetensors` precedes an index, as in transformers.
    ///
    /// # Errors
    ///
    /// A [`WeightsError`] with the file and what is wrong with it. No file causes a
    /// panic, or memory to be taken beyond a small multiple of its own length.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        refuse_weight_placeholders(path)?;
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
        let extension = |name: &str| {
            path.extension()
                .is_some_and(|e| e.eq_ignore_ascii_case(name))
        };
        if file.bytes().starts_with(b"GGUF") || extension("gguf") {
            return Self::gguf_file(path, file);
        }
        if extension("safetensors") {
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
        let (tensors, metadata) = shards::read(&file)?;
        let mut checkpoint = Self::new(path, tensors);
        checkpoint.metadata = metadata;
        Ok(checkpoint)
    }

    fn sharded(folder: &Path, index: &Path) -> Result<Self, WeightsError> {
        let (tensors, notes) = shards::open(folder, index)?;
        let mut checkpoint = Self::new(folder, tensors);
        checkpoint.shard_notes = Arc::new(notes);
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
        checkpoint.others = opened.others.into();
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
            shard_notes: Arc::default(),
            others: Arc::default(),
            quantization: None,
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

    /// How config.json says that the weights of a safetensors model were quantised, such as `gptq`; none for plain
    /// weights and for GGUF.
    pub fn quantization(&self) -> Option<&'static str> {
        self.quantization
    }

    /// In what the shards differ from the index; nothing for other checkpoints.
    pub fn shard_notes(&self) -> &ShardNotes {
        &self.shard_notes
    }

    /// Whether all elements of a tensor are 0; false for a tensor that is not there or cannot be read.
    pub(super) fn is_zero(&self, name: &str) -> bool {
        let values = self.data(name).map(|data| data.read(FloatDType::F32));
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

    /// The bytes of a tensor as they lie in its file, of one in codes those; `None` for a tensor that is not there.
    pub(crate) fn stored_bytes(&self, name: &str) -> Option<&[u8]> {
        let (file, range) = self.place(name)?;
        file.bytes().get(range.clone())
    }

    /// Where a tensor lies.
    pub(super) fn place(&self, name: &str) -> Option<(&MappedFile, &Range<usize>)> {
        self.tensors[*self.by_name.get(name)?].1.place()
    }

    /// Bytes of all tensors as they are loaded: quantised ones as they are, unless they become floats.
    pub fn loaded_bytes(&self, options: impl Into<LoadOptions>) -> u64 {
        let LoadOptions {
            dtype, dequantize, ..
        } = options.into();
        let width = elements::width(dtype).unwrap_or(size_of::<f32>()) as u64;
        let bytes = |info: &TensorInfo| match info.stored {
            StoredType::Quantized(_) if !dequantize => self.blocks_len(&info.name),
            _ => (info.elements() as u64).saturating_mul(width),
        };
        self.tensors().map(bytes).fold(0, u64::saturating_add)
    }

    /// Bytes of the blocks of a quantised tensor.
    pub(super) fn blocks_len(&self, name: &str) -> u64 {
        match self.data(name) {
            Some(Data::Grouped(grouped)) => grouped.block_len(),
            Some(_) => (self.stored_bytes(name)).map_or(0, |bytes| bytes.len() as u64),
            None => 0,
        }
    }

    /// Of the columns of a quantised tensor's blocks, where in the weight they are; none where they are in order.
    pub(super) fn order(&self, name: &str) -> Option<&Arc<[u32]>> {
        match self.data(name)? {
            Data::Grouped(grouped) => grouped.order(),
            _ => None,
        }
    }

    /// All tensors, in the order of the files' data.
    pub(super) fn all_stored(&self) -> impl Iterator<Item = &(TensorInfo, Data)> {
        self.tensors.iter()
    }

    fn data(&self, name: &str) -> Option<&Data> {
        self.by_name.get(name).map(|&at| &self.tensors[at].1)
    }

    /// With one tensor for what a quantised weight consists of.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Quantized`] for tensors that do not go together.
    pub(super) fn resolve(self, quantization: &QuantizationConfig) -> Result<Self, WeightsError> {
        let tensors = grouped::resolve(self.tensors, quantization)?;
        let resolved = Self::new(&self.path, tensors);
        Ok(Self {
            tensors: resolved.tensors,
            by_name: resolved.by_name,
            quantization: Some(quantization.method()),
            ..self
        })
    }

    /// The blocks of a quantised tensor, as `[rows, row_bytes]` of `u8`.
    pub(super) fn blocks(&self, name: &str, shape: &[usize]) -> Result<TensorData, WeightsError> {
        let (info, data, _) = self.find(name, FloatDType::F32)?;
        let bytes = data.blocks().map_err(|reason| read_error(info, reason))?;
        if bytes.len() != shape.iter().product::<usize>() {
            let reason = format!("{} bytes are not {shape:?}", bytes.len());
            return Err(read_error(info, reason));
        }
        Ok(TensorData::from_bytes(bytes, shape.to_vec(), DType::U8))
    }

    /// The [`order`](Self::order) of a tensor that has one, as `[columns]` of `i32`.
    pub(super) fn order_data(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<TensorData, WeightsError> {
        let (info, ..) = self.find(name, FloatDType::F32)?;
        let order = self.order(name).filter(|order| [order.len()] == *shape);
        let order = order.ok_or_else(|| read_error(info, "its columns have no order".into()))?;
        // Columns of a tensor of words are fewer than `i32` has.
        let order: Vec<i32> = order.iter().map(|&column| column as i32).collect();
        Ok(TensorData::new(order, shape.to_vec()))
    }

    /// The metadata of the GGUF file this was opened from; `None` for safetensors.
    #[cfg(feature = "gguf")]
    pub fn gguf(&self) -> Option<&super::gguf::Gguf> {
        self.gguf.as_deref()
    }

    /// The elements of a tensor in the requested type.
    ///
    /// Where the stored type is the requested one, the bytes are the mapped file itself. Otherwise they are
    /// converted, rounding to nearest even, or dequantised, into memory of their own.
    ///
    /// # Errors
    ///
    /// No tensor of that name; a stored type that is not a float; a requested type other than
    /// f32, f16 and bf16; data that cannot be read.
    pub fn read(&self, name: &str, dtype: FloatDType) -> Result<TensorData, WeightsError> {
        let (info, data, _) = self.find(name, dtype)?;
        let bytes = data
            .read(dtype)
            .map_err(|reason| read_error(info, reason))?;
        let shape = info.shape.clone();
        Ok(TensorData::from_bytes(bytes, shape, dtype.into()))
    }

    /// As [`read`](Self::read), with the data read when it is asked for.
    pub(super) fn tensor(&self, name: &str, dtype: FloatDType) -> Result<PackTensor, WeightsError> {
        let (info, data, byte_len) = self.find(name, dtype)?;
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

    /// A tensor that can be read as `dtype`, and its bytes in that type.
    pub(super) fn find(
        &self,
        name: &str,
        dtype: FloatDType,
    ) -> Result<(&TensorInfo, &Data, usize), WeightsError> {
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
        if let Data::Other { .. } = data {
            return Err(WeightsError::StoredType {
                path: info.file.clone(),
                name: name.into(),
                expected: "F64, F32, F16, BF16 or a quantisation of them (in safetensors, by config.json)",
                found: info.stored.to_string(),
            });
        }
        let Some(byte_len) = info.elements().checked_mul(width) else {
            return Err(read_error(
                info,
                format!("shape {:?} does not fit into memory", info.shape),
            ));
        };
        Ok((info, data, byte_len))
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
