//! Whether the output head is the embedding, by what a checkpoint holds.

use burn::tensor::FloatDType;

use super::error::WeightsError;
use super::load::module_path;
use super::mismatch::HEAD;
use super::plan::EMBEDDING;
use super::reader::Checkpoint;
use super::report::LoadWarning;
use crate::model::DecoderConfig;

/// The configuration to build the decoder with for this checkpoint.
///
/// As in transformers, `tie_word_embeddings` is followed unless the checkpoint holds both an
/// embedding and a head of that shape with other numbers, compared as `dtype`: then the stored head
/// is used, with a warning. In GGUF, as in llama.cpp, a head that is stored is used.
///
/// The two tensors are compared in the mapped files, a piece at a time.
///
/// # Errors
///
/// [`WeightsError::AskedType`] for a `dtype` other than f32, f16 and bf16;
/// [`WeightsError::Read`] when a tensor's bytes cannot be read.
pub fn resolve_tying(
    checkpoint: &Checkpoint,
    config: &DecoderConfig,
    dtype: FloatDType,
) -> Result<(DecoderConfig, Option<LoadWarning>), WeightsError> {
    let mut config = config.clone();
    let find = |path: &str| {
        checkpoint
            .tensors()
            .find(|info| module_path(&info.name) == path)
    };
    let (Some(head), Some(embedding)) = (find(HEAD), find(EMBEDDING)) else {
        return Ok((config, None));
    };
    #[cfg(feature = "gguf")]
    if checkpoint.gguf().is_some() {
        config.tie_word_embeddings = false;
        return Ok((config, None));
    }
    // A head of another shape or of a type that cannot be read is refused when it is loaded.
    if !config.tie_word_embeddings
        || head.shape != embedding.shape
        || checkpoint.same_values(&head.name, &embedding.name, dtype)? != Some(false)
    {
        return Ok((config, None));
    }
    config.tie_word_embeddings = false;
    let warning = LoadWarning::HeadNotTied {
        path: checkpoint.path().into(),
        name: head.name.clone(),
    };
    Ok((config, Some(warning)))
}
