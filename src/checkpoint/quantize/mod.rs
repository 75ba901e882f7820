//! Any checkpoint to a quantised GGUF file.
//!
//! | file | holds |
//! |---|---|
//! | `plan` | what the file is made of, from a Hugging Face folder or another GGUF file |
//! | `recipe` | which tensor is stored in which type: [`Quantization`] |
//! | `rows` | a tensor on its way into the file, a few rows at a time |

mod plan;
mod recipe;
mod rows;

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::error::WeightsError;
use super::file::{FileError, write_new_file};
use super::gguf::{GgufError, Planned, header, padding};
use super::progress::Progress;
use super::source::{ModelSource, SourceError};
use crate::quoted::{QuotePath, Quoted};
use crate::text::chat_template::ChatTemplateError;
use crate::text::generation_config::GenerationConfigError;
use plan::{of_folder, of_gguf};

pub use recipe::Quantization;

/// What a quantisation wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuantizeReport {
    /// The file.
    pub path: PathBuf,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of parameters in them.
    pub parameters: u64,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// How many tensors are stored in which type, by ggml's names such as `Q4_K`, the most frequent first.
    pub types: Vec<(&'static str, usize)>,
    /// What the file cannot say of the model, and tensors that the model does not use.
    pub warnings: Vec<String>,
}

/// Why a quantisation wrote nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// The model.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Its weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Its `generation_config.json` or `config.json`.
    #[error("{}: {source}", path.quoted())]
    Generation {
        /// The model.
        path: PathBuf,
        /// What is wrong.
        source: GenerationConfigError,
    },
    /// Its chat template.
    #[error("{}: {source}", path.quoted())]
    ChatTemplate {
        /// The model.
        path: PathBuf,
        /// What is wrong.
        source: ChatTemplateError,
    },
    /// Something at the place of the file.
    #[error("{}: expected a new file, found one that is there; remove it or choose another name", path.quoted())]
    InTheWay {
        /// The file.
        path: PathBuf,
    },
    /// A model that GGUF cannot express.
    #[error("{}: {source}", path.quoted())]
    Gguf {
        /// The model.
        path: PathBuf,
        /// What has no place in GGUF.
        source: GgufError,
    },
    /// A weight that is infinite or no number.
    #[error("{}: tensor `{}`: expected finite numbers, found {found} in row {row}, column {column}; the file is damaged: fetch it again", path.quoted(), Quoted(name))]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The row.
        row: usize,
        /// The column.
        column: usize,
        /// The weight.
        found: f32,
    },
    /// Weights whose scale is more than the largest f16.
    #[error("{}: tensor `{}`: the numbers of row {row} are too large for {format}, whose scales are f16", path.quoted(), Quoted(name))]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The row.
        row: usize,
        /// The type.
        format: &'static str,
    },
    /// Writing failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Quantises the model at `model`, a Hugging Face folder or a GGUF file, to the GGUF file `out`, which llama.cpp reads
/// as well as this crate.
///
/// Matrices are quantised as `to` says; rows that are no whole blocks take the next larger type, as in llama.cpp: rows
/// of Q4_K and Q6_K are multiples of 256, those of the others of 32, and the rest becomes F16. Norms and biases are
/// F32. Configuration, tokenizer and chat template are in the file; of a GGUF file they are copied, and tensors that
/// have the wanted type already, too. A few million elements are in memory at a time. The file is written beside `out`
/// and renamed, so that `out` is either whole or not there.
///
/// ```no_run
/// use burn_apb::checkpoint::{Quantization, quantize};
///
/// let report = quantize("Qwen3-0.6B", "qwen3-0.6b-q4_k.gguf", Quantization::Q4K, &mut |_| {})?;
/// println!("{} bytes", report.bytes);
/// # Ok::<(), burn_apb::checkpoint::QuantizeError>(())
/// ```
///
/// # Errors
///
/// [`QuantizeError`]: a model that is damaged, or that GGUF has no words for; weights that are infinite or no numbers;
/// an `out` that exists; writing.
pub fn quantize(
    model: impl AsRef<Path>,
    out: impl AsRef<Path>,
    to: Quantization,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<QuantizeReport, QuantizeError> {
    let out = out.as_ref();
    let refuse_occupied = || match out.symlink_metadata() {
        Ok(_) => Err(QuantizeError::InTheWay { path: out.into() }),
        Err(_) => Ok(()),
    };
    refuse_occupied()?;
    let source = ModelSource::open(model)?;
    let checkpoint = source.checkpoint()?;
    let mut plan = match checkpoint.gguf() {
        Some(_) => of_gguf(&source, to)?,
        None => of_folder(&source, &checkpoint, to)?,
    };
    plan.entries.integer("general.file_type", to.file_type());
    plan.entries.integer("general.quantization_version", 2);

    let planned = plan.tensors.iter().map(|tensor| Planned {
        name: &tensor.name,
        shape: &tensor.shape,
        kind: tensor.kind,
        bytes: tensor.bytes(),
    });
    let planned: Vec<Planned<'_>> = planned.collect();
    let head = header(&plan.entries, &planned);
    let total = planned.iter().map(|tensor| tensor.bytes).sum();
    let (mut done, mut bytes) = (0, head.len() as u64);
    let failed = FileError::at(out);
    let written = write_new_file(out, |file| {
        file.write_all(&head).map_err(failed)?;
        for tensor in &plan.tensors {
            tensor.write(&mut |data| {
                file.write_all(data).map_err(failed)?;
                done += data.len() as u64;
                progress(Progress::new(&tensor.name, done, total));
                Ok(())
            })?;
            let padding = padding(tensor.bytes());
            file.write_all(padding).map_err(failed)?;
            bytes += tensor.bytes() + padding.len() as u64;
        }
        Ok(())
    });
    written.map_err(|error| match error {
        QuantizeError::File(error) if error.source.kind() == ErrorKind::AlreadyExists => {
            QuantizeError::InTheWay { path: error.path }
        }
        error => error,
    })?;
    let mut types: Vec<(&'static str, usize)> = Vec::new();
    for tensor in &plan.tensors {
        let name = tensor.kind.name();
        match types.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => types.push((name, 1)),
        }
    }
    types.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    Ok(QuantizeReport {
        path: out.into(),
        tensors: plan.tensors.len(),
        parameters: plan
            .tensors
            .iter()
            .map(|tensor| tensor.elements() as u64)
            .sum(),
        bytes,
        types,
        warnings: plan.warnings,
    })
}
