//! A file of retaining heads, compared with a model before any weight is read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, FloatDType};

use super::error::HeadsError;
use super::format::{
    Beginning, FORMAT_FAMILY, Found, HEADS_FILE, HEADS_FORMAT, HEADS_LABEL_SCALE, HEADS_MODEL,
    HeadsShape, Matrix, beginning, common_shape, is_pytorch_name, place,
};
use super::label_scale::LabelScale;
use super::retaining::{RetainingHeads, RetainingHeadsConfig};
use crate::checkpoint::ModelSource;
use crate::checkpoint::{self, Checkpoint, LoadOptions, StoredType, listing_with};
use crate::model::AttentionShape;

/// The description of a file of retaining heads, known without reading its weights.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeadsInfo {
    /// Width R of the hidden layer.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// The element types the file stores, each once.
    pub dtypes: Vec<FloatDType>,
    /// The model the heads were trained for, where the file names it.
    pub base_model: Option<String>,
    /// What the heads were made from: a file, or a training.
    pub source: Option<String>,
    /// All of the file's metadata.
    pub metadata: BTreeMap<String, String>,
}

/// An open file of retaining heads that fit a model. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct HeadsFile(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    checkpoint: Checkpoint,
    info: HeadsInfo,
    label_scale: Option<LabelScale>,
    model: AttentionShape,
}

impl HeadsFile {
    /// Opens the heads at `path`, a safetensors file or a folder with [`HEADS_FILE`], and compares
    /// them with `model`. Only the header is read.
    ///
    /// A published PyTorch file is accepted, too (feature `pytorch`): it is converted once, without
    /// executing pickle, into a temporary file that is mapped until this value and the heads loaded
    /// from it are dropped.
    ///
    /// # Errors
    ///
    /// A [`HeadsError`]: no such file, another kind of file, a set of heads that is not whole, one
    /// for another number of layers, other projections or other key/value heads, or a
    /// [`HEADS_LABEL_SCALE`] that is not one for them.
    pub fn open(
        path: impl AsRef<Path>,
        model: impl Into<AttentionShape>,
    ) -> Result<Self, HeadsError> {
        let (path, model) = (path.as_ref(), model.into());
        match file_at(path) {
            #[cfg(feature = "pytorch")]
            Err(HeadsError::Pytorch { path }) => {
                let checkpoint = converted(&path)?;
                Self::compare(path, checkpoint, model)
            }
            file => {
                let file = file?;
                let checkpoint = Checkpoint::open(&file)?;
                Self::compare(file, checkpoint, model)
            }
        }
    }

    /// Checks that a checkpoint holds a whole set of heads for `model`; `path` is the file they
    /// came from.
    fn compare(
        path: PathBuf,
        checkpoint: Checkpoint,
        model: AttentionShape,
    ) -> Result<Self, HeadsError> {
        let metadata = checkpoint.metadata().clone();
        if let Some(found) = metadata.get("format")
            && found.starts_with(FORMAT_FAMILY)
            && found != HEADS_FORMAT
        {
            let found = found.clone();
            return Err(HeadsError::Format { path, found });
        }
        let (found, dtypes) = heads_of(&path, &checkpoint)?;
        let shape = match common_shape(&found) {
            Ok(shape) => shape,
            Err(fault) => return Err(HeadsError::Fault { path, fault }),
        };
        if let Some(found) = metadata.get("width")
            && found.parse() != Ok(shape.width)
        {
            return Err(HeadsError::Width {
                path,
                expected: shape.width,
                found: found.clone(),
            });
        }
        let scale_of = |text: &String| {
            let scale = LabelScale::from_json(text)?;
            scale.check(shape.layers, shape.kv_heads)?;
            Ok(scale)
        };
        let label_scale = match metadata.get(HEADS_LABEL_SCALE).map(scale_of).transpose() {
            Ok(scale) => scale,
            Err(fault) => return Err(HeadsError::LabelScale { path, fault }),
        };
        let base_model = metadata.get("base_model").cloned();
        refuse_other_shape(&path, shape, base_model.as_deref(), model)?;
        let info = HeadsInfo {
            width: shape.width,
            layers: shape.layers,
            dtypes,
            base_model,
            source: metadata.get("source").cloned(),
            metadata,
        };
        Ok(Self(Arc::new(Opened {
            path,
            checkpoint,
            info,
            label_scale,
            model,
        })))
    }

    /// The file, as it was named when it was opened.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// What the file's header holds.
    pub fn info(&self) -> &HeadsInfo {
        &self.0.info
    }

    /// The scale of the labels that the heads were trained with, where the file has one.
    pub fn label_scale(&self) -> Option<&LabelScale> {
        self.0.label_scale.as_ref()
    }

    /// Refuses a model whose fingerprint is not the one in the file; a file without a fingerprint
    /// is for any model that its shapes fit.
    ///
    /// # Errors
    ///
    /// [`HeadsError::OtherModel`], or [`HeadsError::Model`] when the model's files cannot be opened.
    pub fn check_model(&self, model: &ModelSource) -> Result<(), HeadsError> {
        let info = self.info();
        let Some(expected) = info.metadata.get(HEADS_MODEL) else {
            return Ok(());
        };
        let found = model.fingerprint()?;
        if *expected == found {
            return Ok(());
        }
        Err(HeadsError::OtherModel {
            path: self.path().into(),
            base_model: info.base_model.clone().unwrap_or_else(|| "a model".into()),
            expected: expected.clone(),
            found,
        })
    }

    /// Loads the heads in `dtype` (f32, f16 or bf16). Weights of that type stay in the
    /// memory-mapped file, others are converted.
    ///
    /// # Errors
    ///
    /// [`HeadsError::Weights`] for another `dtype`, or when a weight cannot be read, or is NaN or infinite.
    pub fn load(&self, dtype: FloatDType, device: &Device) -> Result<RetainingHeads, HeadsError> {
        let heads = RetainingHeadsConfig::new()
            .with_width(self.info().width)
            .init(self.0.model, device);
        let options = LoadOptions::new(dtype).with_strict(true);
        let file = &self.0.checkpoint;
        for tensor in file.tensors() {
            file.check_finite(&tensor.name)?;
        }
        let (mut loaded, _) = checkpoint::load(heads, file, options, parameter, &mut |_| {})?;
        loaded.label_scale = self.0.label_scale.clone();
        Ok(loaded)
    }
}

impl RetainingHeads {
    /// Opens and loads the heads at `path`: [`HeadsFile::open`] and [`HeadsFile::load`].
    ///
    /// # Errors
    ///
    /// As those.
    pub fn load(
        path: impl AsRef<Path>,
        model: impl Into<AttentionShape>,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<Self, HeadsError> {
        HeadsFile::open(path, model)?.load(dtype, device)
    }
}

/// The path in [`RetainingHeads`] of a tensor in a file.
fn parameter(name: &str) -> String {
    match place(name) {
        Some((layer, Matrix::Fc1)) => format!("layers.{layer}.fc1.weight"),
        Some((layer, Matrix::Fc2)) => format!("layers.{layer}.fc2.weight"),
        None => name.into(),
    }
}

/// Converts published heads into a temporary file, which the operating system frees when its
/// mapping is dropped.
#[cfg(feature = "pytorch")]
fn converted(path: &Path) -> Result<Checkpoint, HeadsError> {
    let folder = tempfile::tempdir().map_err(checkpoint::FileError::at(path))?;
    let file = folder.path().join(HEADS_FILE);
    super::convert_heads::convert_heads(path, &file, None)?;
    Ok(Checkpoint::open(&file)?)
}

/// The heads file at a path that may be a folder. A PyTorch file is recognised by its first bytes,
/// too.
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
    if is_pytorch_name(&file) || beginning(&file) != Beginning::Other {
        return Err(HeadsError::Pytorch { path: file });
    }
    match file.extension() {
        Some(e) if e.eq_ignore_ascii_case("safetensors") => Ok(file),
        _ => Err(HeadsError::NotSafetensors { path: file }),
    }
}

/// The tensors by their place, and the types they are stored in.
fn heads_of(path: &Path, checkpoint: &Checkpoint) -> Result<(Found, Vec<FloatDType>), HeadsError> {
    let (mut found, mut dtypes, mut names) = (Found::new(), Vec::new(), Vec::new());
    for info in checkpoint.tensors() {
        let Some(place) = place(&info.name) else {
            names.push(info.name.clone());
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
    if names.is_empty() {
        Ok((found, dtypes))
    } else {
        let path = path.into();
        Err(HeadsError::Unexpected { path, names })
    }
}

/// Refuses heads of another shape than the model's.
fn refuse_other_shape(
    path: &Path,
    found: HeadsShape,
    base_model: Option<&str>,
    model: AttentionShape,
) -> Result<(), HeadsError> {
    let AttentionShape {
        layers,
        heads,
        kv_heads,
        head_dim,
    } = model;
    let columns = (heads + 2 * kv_heads) * head_dim;
    let columns_of = format!(
        "columns of fc1, as the model's queries, keys and values have ({heads} + 2 x {kv_heads} \
         heads of {head_dim})"
    );
    let parts = [
        ("layers, as the model has", layers, found.layers),
        (columns_of.as_str(), columns, found.projections),
        (
            "rows of fc2, one per key/value head of the model",
            kv_heads,
            found.kv_heads,
        ),
    ];
    let Some((part, expected, count)) = parts.into_iter().find(|(_, a, b)| a != b) else {
        return Ok(());
    };
    Err(HeadsError::OtherShape {
        path: path.into(),
        part: part.into(),
        expected,
        found: count,
        made_for: match base_model {
            Some(name) => format!("{name} ({found})"),
            None => format!("a model of {found}"),
        },
    })
}
