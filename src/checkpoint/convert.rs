//! A GGUF file to a Hugging Face folder.

use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::FloatDType;
use serde_json::json;

use super::elements;
use super::error::WeightsError;
use super::file::{FileError, write_file};
use super::folder::{FolderError, write_folder, write_json};
use super::index::SINGLE_FILE;
use super::listing::name_of;
use super::progress::Progress;
use super::reader::Checkpoint;
use super::safetensors::encode;
use crate::quoted::QuotePath;

/// What a conversion wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertReport {
    /// The folder.
    pub path: PathBuf,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of parameters in them.
    pub parameters: u64,
}

/// Why a conversion wrote nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The GGUF file.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Not a GGUF file.
    #[error("{}: expected a GGUF file, found other weights, which need no conversion", path.quoted())]
    NotGguf {
        /// The file.
        path: PathBuf,
    },
    /// The target. Nothing is left behind.
    #[error(transparent)]
    Folder(#[from] FolderError),
}

impl From<FileError> for ConvertError {
    fn from(error: FileError) -> Self {
        Self::Folder(error.into())
    }
}

/// Converts the GGUF file at `gguf` to a Hugging Face folder at `out`: `model.safetensors` of
/// `dtype`, `config.json`, `generation_config.json`, `tokenizer.json`, `tokenizer_config.json`.
///
/// One tensor is in memory at a time. Everything is written beside `out` first and the finished
/// folder renamed, so that `out` is either whole or not there.
///
/// # Errors
///
/// A GGUF file that is damaged or cannot be expressed; an `out` that is not empty; writing.
pub fn convert(
    gguf: impl AsRef<Path>,
    out: impl AsRef<Path>,
    dtype: FloatDType,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<ConvertReport, ConvertError> {
    let out = out.as_ref();
    let mut report = write_folder(out, |folder| {
        convert_into(gguf.as_ref(), folder, dtype, progress)
    })?;
    report.path = out.into();
    Ok(report)
}

/// Converts into a folder that exists.
pub(crate) fn convert_into(
    path: &Path,
    folder: &Path,
    dtype: FloatDType,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<ConvertReport, ConvertError> {
    let checkpoint = Checkpoint::open(path)?;
    let gguf = checkpoint
        .gguf()
        .ok_or_else(|| ConvertError::NotGguf { path: path.into() })?;
    let wrong = |source| WeightsError::Gguf {
        path: path.into(),
        source,
    };
    let mut config = gguf.config().map_err(wrong)?;
    if let Some(fields) = config.as_object_mut() {
        fields.insert("torch_dtype".into(), json!(torch_name(dtype)?));
    }
    let texts = [
        ("config.json", config),
        ("generation_config.json", gguf.generation_config()),
        ("tokenizer.json", gguf.tokenizer().map_err(wrong)?.json),
        (
            "tokenizer_config.json",
            gguf.tokenizer_config().map_err(wrong)?,
        ),
    ];
    for (name, json) in &texts {
        write_json(&folder.join(name), json)?;
    }
    let file = folder.join(SINGLE_FILE);
    write_tensors(&file, &checkpoint, dtype, &name_of(path), progress)?;
    let parameters = checkpoint
        .tensors()
        .map(|info| info.elements() as u64)
        .sum();
    Ok(ConvertReport {
        path: folder.into(),
        tensors: checkpoint.tensors().len(),
        parameters,
    })
}

/// Writes `model.safetensors`, one tensor after another.
fn write_tensors(
    path: &Path,
    checkpoint: &Checkpoint,
    dtype: FloatDType,
    source: &str,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), ConvertError> {
    let width = elements::width(dtype).ok_or(WeightsError::AskedType { found: dtype })? as u64;
    let stored = format!("{dtype:?}");
    let described = checkpoint.tensors().map(|info| {
        let byte_len = info.elements() as u64 * width;
        (
            info.name.as_str(),
            stored.as_str(),
            &info.shape[..],
            byte_len,
        )
    });
    let (header, total) = encode(json!({ "format": "pt", "source": source }), described);
    let failed = FileError::at(path);
    let mut done = 0;
    write_file(path, |file| {
        file.write_all(&header).map_err(failed)?;
        for info in checkpoint.tensors() {
            let data = checkpoint.read(&info.name, dtype)?;
            file.write_all(data.as_bytes()).map_err(failed)?;
            done += data.as_bytes().len() as u64;
            progress(Progress::new(&info.name, done, total));
        }
        Ok(())
    })
}

fn torch_name(dtype: FloatDType) -> Result<&'static str, WeightsError> {
    match dtype {
        FloatDType::F32 => Ok("float32"),
        FloatDType::F16 => Ok("float16"),
        FloatDType::BF16 => Ok("bfloat16"),
        found => Err(WeightsError::AskedType { found }),
    }
}
