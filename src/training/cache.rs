//! Features kept on disk, so that later passes over the samples need no backbone.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use burn::tensor::{DType, Device, Tensor, TensorData};
use memmap2::Mmap;
use safetensors::SafeTensors;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::features::{LayerFeatures, TrainError};
use super::labels::Labels;
use super::sample::Sample;
use crate::checkpoint::UnfinishedFile;
use crate::checkpoint::safetensors::encode;
use crate::hex;

/// What files of features are called behind their key.
const EXTENSION: &str = "safetensors";

/// A folder with the features of as many samples as fit a limit, one safetensors file a sample.
///
/// Only what this model in this dtype made of exactly this sample is found again. A full disk or a
/// broken file costs time, never the run: features are then computed.
#[derive(Debug)]
pub struct FeatureCache {
    folder: PathBuf,
    /// Bytes at most.
    limit: u64,
    used: AtomicU64,
    /// What a key begins with: the model's fingerprint and the dtype.
    of: String,
    /// Whether nothing more is to be kept.
    full: AtomicBool,
}

/// The features of one sample on disk.
pub(super) struct Kept {
    map: Mmap,
    path: PathBuf,
}

/// The features of one sample on their way to the disk.
pub(super) struct Keeping {
    path: PathBuf,
    layers: usize,
    file: Option<UnfinishedFile>,
    bytes: u64,
}

/// The three tensors of a layer.
const PARTS: [&str; 3] = ["projections", "logits", "mass"];

impl FeatureCache {
    /// Opens or makes the folder; `model` is the model's fingerprint, `limit` in bytes.
    ///
    /// # Errors
    ///
    /// Any of the file system's.
    pub fn open(folder: &Path, limit: u64, model: &str, dtype: DType) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut used = 0;
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|e| e == EXTENSION) {
                used += entry.metadata()?.len();
            }
        }
        Ok(Self {
            folder: folder.into(),
            limit,
            used: AtomicU64::new(used),
            of: format!("{model} {dtype:?}"),
            full: AtomicBool::new(false),
        })
    }

    /// Bytes in the folder.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn path(&self, sample: &Sample) -> PathBuf {
        let mut hash = Sha256::new();
        hash.update(self.of.as_bytes());
        for range in [&sample.scored, &sample.answer] {
            hash.update((range.start as u64).to_le_bytes());
            hash.update((range.end as u64).to_le_bytes());
        }
        for id in &sample.ids {
            hash.update(id.to_le_bytes());
        }
        self.folder
            .join(format!("{}.{EXTENSION}", hex::encode(&hash.finalize())))
    }

    /// The features of a sample, if they are there and whole.
    pub(super) fn open_sample(&self, sample: &Sample, layers: usize) -> Option<Kept> {
        let path = self.path(sample);
        let file = File::open(&path).ok()?;
        // SAFETY: the file was renamed into place complete and is never written to again.
        let map = unsafe { Mmap::map(&file) }.ok()?;
        let kept = Kept { map, path };
        let whole = SafeTensors::deserialize(&kept.map)
            .is_ok_and(|tensors| tensors.len() == layers * PARTS.len());
        if !whole {
            tracing::warn!("{}: not features of a sample", kept.path.display());
        }
        whole.then_some(kept)
    }

    /// Begins to keep a sample; none where there is no room.
    pub(super) fn begin(&self, sample: &Sample, layers: usize) -> Option<Keeping> {
        (!self.full.load(Ordering::Relaxed)).then(|| Keeping {
            path: self.path(sample),
            layers,
            file: None,
            bytes: 0,
        })
    }

    /// Adds a layer; `false` when the sample is not to be kept after all.
    pub(super) fn add(
        &self,
        keeping: &mut Keeping,
        layer: usize,
        features: &LayerFeatures,
    ) -> bool {
        match self.try_add(keeping, layer, features) {
            Ok(more) => more,
            Err(error) => {
                tracing::warn!(
                    "{}: {error}; no more features are kept",
                    self.folder.display()
                );
                self.full.store(true, Ordering::Relaxed);
                false
            }
        }
    }

    fn try_add(
        &self,
        keeping: &mut Keeping,
        layer: usize,
        features: &LayerFeatures,
    ) -> io::Result<bool> {
        let tensors = parts(features).map_err(io::Error::other)?;
        let file = match &mut keeping.file {
            Some(file) => file,
            None => {
                let names: Vec<String> = (0..keeping.layers)
                    .flat_map(|layer| PARTS.map(|part| name(layer, part)))
                    .collect();
                let described = names.iter().enumerate().map(|(index, name)| {
                    let tensor = &tensors[index % PARTS.len()];
                    let dtype = stored(tensor.dtype()).unwrap_or("F32");
                    let bytes = tensor.as_bytes().len() as u64;
                    (name.as_str(), dtype, &tensor.shape()[..], bytes)
                });
                let (header, length) = encode(Value::Object(Map::new()), described);
                let bytes = header.len() as u64 + length;
                if self.used() + bytes > self.limit {
                    self.full.store(true, Ordering::Relaxed);
                    return Ok(false);
                }
                keeping.bytes = bytes;
                let file = UnfinishedFile::create(&keeping.path).map_err(|error| error.source)?;
                let file = keeping.file.insert(file);
                file.write_all(&header)?;
                file
            }
        };
        debug_assert!(layer < keeping.layers);
        for tensor in &tensors {
            file.write_all(tensor.as_bytes())?;
        }
        Ok(true)
    }

    /// All layers are there: the file gets its name.
    pub(super) fn end(&self, keeping: Keeping) {
        let Some(file) = keeping.file else { return };
        match file.finish() {
            Ok(()) => {
                self.used.fetch_add(keeping.bytes, Ordering::Relaxed);
            }
            Err(error) => {
                tracing::warn!("{error}; no more features are kept");
                self.full.store(true, Ordering::Relaxed);
            }
        }
    }
}

impl Kept {
    /// A layer's features on `device`.
    ///
    /// # Errors
    ///
    /// [`TrainError::Run`] when the file is not what was written.
    pub(super) fn layer(&self, layer: usize, device: &Device) -> Result<LayerFeatures, TrainError> {
        let wrong = |what: &dyn std::fmt::Display| {
            let path = self.path.display();
            TrainError::Run(format!(
                "{path}: not features of a sample ({what}); remove the file"
            ))
        };
        let tensors = SafeTensors::deserialize(&self.map).map_err(|error| wrong(&error))?;
        let read = |part| -> Result<Tensor<3>, TrainError> {
            let view = tensors
                .tensor(&name(layer, part))
                .map_err(|error| wrong(&error))?;
            let dtype = match view.dtype() {
                safetensors::Dtype::F32 => DType::F32,
                safetensors::Dtype::F16 => DType::F16,
                safetensors::Dtype::BF16 => DType::BF16,
                other => return Err(wrong(&format!("{other:?}"))),
            };
            let shape: [usize; 3] = view
                .shape()
                .try_into()
                .map_err(|_| wrong(&format!("{:?}", view.shape())))?;
            let bytes = burn::tensor::Bytes::from_bytes_vec(view.data().to_vec());
            let data = TensorData::from_bytes(bytes, shape, dtype);
            Ok(Tensor::from_data(data, (device, dtype)))
        };
        Ok(LayerFeatures {
            projections: read(PARTS[0])?,
            labels: Labels {
                logits: read(PARTS[1])?,
                mass: read(PARTS[2])?,
            },
        })
    }
}

fn name(layer: usize, part: &str) -> String {
    format!("layers.{layer}.{part}")
}

/// What safetensors calls a dtype.
fn stored(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::F32 => Some("F32"),
        DType::F16 => Some("F16"),
        DType::BF16 => Some("BF16"),
        _ => None,
    }
}

fn parts(features: &LayerFeatures) -> Result<[TensorData; 3], TrainError> {
    let data = |tensor: &Tensor<3>| {
        let data = tensor.clone().try_into_data();
        data.map_err(|error| TrainError::Device(error.to_string()))
    };
    Ok([
        data(&features.projections)?,
        data(&features.labels.logits)?,
        data(&features.labels.mass)?,
    ])
}
