//! Features on disk, so that later passes over the samples need no backbone.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use burn::tensor::{DType, Device, Tensor, TensorData};
use memmap2::Mmap;
use safetensors::SafeTensors;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::error::TrainError;
use super::features::{Backbone, LayerFeatures};
use super::labels::Labels;
use super::output::element_type;
use super::sample::Sample;
use crate::checkpoint::safetensors::encode;
use crate::hex;
use crate::quoted::QuotePath;

/// Extension of the files.
const EXTENSION: &str = "safetensors";

/// The three tensors of a layer.
const PARTS: [&str; 3] = ["projections", "logits", "mass"];

/// A folder with the features of as many samples as fit a limit, one safetensors file a sample.
///
/// The file name is a hash of the model, the dtype and the sample. A full disk or a broken file does
/// not stop the run: features are then computed.
#[derive(Debug)]
pub struct FeatureCache {
    folder: PathBuf,
    /// Bytes at most.
    limit: u64,
    used: AtomicU64,
    /// What every hash begins with: the model's fingerprint and the dtype.
    model: String,
    /// Whether no more files are written.
    full: AtomicBool,
}

impl FeatureCache {
    /// Opens or creates the folder; `model` is the model's fingerprint, `limit` in bytes.
    ///
    /// # Errors
    ///
    /// Those of the file system.
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
            model: format!("{model} {dtype:?}"),
            full: AtomicBool::new(false),
        })
    }

    /// Reads each layer's features of a sample, or computes and writes them.
    pub(super) fn features(
        &self,
        backbone: &Backbone,
        sample: &Sample,
        mut visit: impl FnMut(usize, LayerFeatures) -> Result<(), TrainError> + Send,
    ) -> Result<(), TrainError> {
        let path = self.path(sample);
        let layers = backbone.layers();
        if let Some(cached) = CachedSample::open(&path, layers) {
            for layer in 0..layers {
                visit(layer, cached.layer(layer, backbone.device())?)?;
            }
            return Ok(());
        }
        let mut writer = (!self.full.load(Ordering::Relaxed)).then_some(SampleWriter {
            cache: self,
            layers,
            file: None,
            bytes: 0,
        });
        backbone.features(sample, |layer, features| {
            writer = writer.take().and_then(|writer| {
                let added = writer.add(&features);
                self.or_stop_writing(added).flatten()
            });
            visit(layer, features)
        })?;
        if let Some(writer) = writer {
            self.or_stop_writing(writer.finish(&path));
        }
        Ok(())
    }

    fn path(&self, sample: &Sample) -> PathBuf {
        let mut hash = Sha256::new_with_prefix(&self.model);
        sample.hash(&[&sample.scored, &sample.answer], &mut hash);
        let name = hex::encode(&hash.finalize());
        self.folder.join(format!("{name}.{EXTENSION}"))
    }

    /// The value, or none after an error, with which writing ends.
    fn or_stop_writing<T>(&self, result: io::Result<T>) -> Option<T> {
        let warn = |error: &io::Error| {
            tracing::warn!(
                "{}: {error}; no more features are kept",
                self.folder.quoted()
            );
            self.full.store(true, Ordering::Relaxed);
        };
        result.inspect_err(warn).ok()
    }
}

/// Writes the features of one sample, layer by layer.
struct SampleWriter<'c> {
    cache: &'c FeatureCache,
    layers: usize,
    /// None before the first layer, which gives the size.
    file: Option<BufWriter<NamedTempFile>>,
    bytes: u64,
}

impl SampleWriter<'_> {
    /// Adds a layer; none where the sample does not fit the limit.
    fn add(mut self, features: &LayerFeatures) -> io::Result<Option<Self>> {
        let labels = &features.labels;
        let tensors = [&features.projections, &labels.logits, &labels.mass]
            .map(|tensor| tensor.clone().try_into_data().map_err(io::Error::other));
        let [projections, logits, mass] = tensors;
        let tensors = [projections?, logits?, mass?];
        let mut file = match self.file.take() {
            Some(file) => file,
            None => {
                let (header, bytes) = self.header(&tensors);
                if self.cache.used.load(Ordering::Relaxed) + bytes > self.cache.limit {
                    self.cache.full.store(true, Ordering::Relaxed);
                    return Ok(None);
                }
                self.bytes = bytes;
                let mut file = BufWriter::new(NamedTempFile::new_in(&self.cache.folder)?);
                file.write_all(&header)?;
                file
            }
        };
        for tensor in &tensors {
            file.write_all(tensor.as_bytes())?;
        }
        self.file = Some(file);
        Ok(Some(self))
    }

    /// The header of a file whose layers all have the first one's shapes, and the size of the file.
    fn header(&self, first: &[TensorData; 3]) -> (Vec<u8>, u64) {
        let names: Vec<String> = (0..self.layers)
            .flat_map(|layer| PARTS.map(|part| name(layer, part)))
            .collect();
        let described = names.iter().enumerate().map(|(index, name)| {
            let tensor = &first[index % PARTS.len()];
            let dtype = element_type(tensor.dtype()).unwrap_or("F32");
            let bytes = tensor.as_bytes().len() as u64;
            (name.as_str(), dtype, &tensor.shape()[..], bytes)
        });
        let (header, length) = encode(Value::Object(Map::new()), described);
        let bytes = header.len() as u64 + length;
        (header, bytes)
    }

    /// Gives the complete file its name.
    fn finish(self, path: &Path) -> io::Result<()> {
        let Some(file) = self.file else {
            return Ok(());
        };
        let file = file.into_inner().map_err(|error| error.into_error())?;
        file.persist(path).map_err(|error| error.error)?;
        self.cache.used.fetch_add(self.bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// The features of one sample on disk.
struct CachedSample<'p> {
    map: Mmap,
    path: &'p Path,
}

impl<'p> CachedSample<'p> {
    /// Opens the file, if it exists and is complete.
    fn open(path: &'p Path, layers: usize) -> Option<Self> {
        let file = File::open(path).ok()?;
        // SAFETY: the file was renamed into place complete and is never written to again.
        let map = unsafe { Mmap::map(&file) }.ok()?;
        let complete = SafeTensors::deserialize(&map)
            .is_ok_and(|tensors| tensors.len() == layers * PARTS.len());
        if !complete {
            tracing::warn!("{}: not features of a sample", path.quoted());
        }
        complete.then_some(Self { map, path })
    }

    /// A layer's features on `device`.
    fn layer(&self, layer: usize, device: &Device) -> Result<LayerFeatures, TrainError> {
        let invalid = |what: &dyn fmt::Display| {
            let problem = format!("not features of a sample ({what}); remove the file");
            TrainError::Path {
                path: self.path.into(),
                problem,
            }
        };
        let tensors = SafeTensors::deserialize(&self.map).map_err(|error| invalid(&error))?;
        let read = |part| -> Result<Tensor<3>, TrainError> {
            let view = tensors
                .tensor(&name(layer, part))
                .map_err(|error| invalid(&error))?;
            let dtype = match view.dtype() {
                safetensors::Dtype::F32 => DType::F32,
                safetensors::Dtype::F16 => DType::F16,
                safetensors::Dtype::BF16 => DType::BF16,
                other => return Err(invalid(&format!("{other:?}"))),
            };
            let shape: [usize; 3] = view
                .shape()
                .try_into()
                .map_err(|_| invalid(&format!("{:?}", view.shape())))?;
            let data = TensorData::from_bytes_vec(view.data().to_vec(), shape, dtype);
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
