//! Trained heads as a file.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use burn::tensor::{DType, FloatDType};
use serde_json::{Map, Value};

use super::features::TrainError;
use crate::apb::heads::{HEADS_FORMAT, HEADS_MODEL, RetainingHeads, heads_tensor_names};
use crate::checkpoint::safetensors::encode;
use crate::checkpoint::{FileError, write_file};

/// What a file of heads says about itself, beside its tensors.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeadsCard {
    /// The model's name, for people.
    pub base_model: Option<String>,
    /// The model's [`fingerprint`](crate::checkpoint::source::ModelSource::fingerprint); the file is then
    /// for this model alone.
    pub model: Option<String>,
    /// What the heads were made from.
    pub source: Option<String>,
    /// Anything more: recipe, data, metrics.
    pub more: BTreeMap<String, String>,
}

/// Writes heads in `dtype` (f32, f16 or bf16) as the file that
/// [`RetainingHeads::load`] reads. The file is complete or absent.
///
/// # Errors
///
/// [`TrainError::Run`] naming the file when it cannot be written; a file that was there before is
/// then still there.
pub fn save_heads(
    heads: &RetainingHeads,
    out: &Path,
    dtype: FloatDType,
    card: &HeadsCard,
) -> Result<(), TrainError> {
    let stored = match dtype {
        FloatDType::F32 => "F32",
        FloatDType::F16 => "F16",
        FloatDType::BF16 => "BF16",
        other => {
            return Err(TrainError::Run(format!(
                "expected f32, f16 or bf16, found {other:?}"
            )));
        }
    };
    let mut tensors = Vec::new();
    let mut width = 0;
    for (layer, head) in heads.layers.iter().enumerate() {
        for (name, linear) in heads_tensor_names(layer)
            .into_iter()
            .zip([&head.fc1, &head.fc2])
        {
            // Files hold `[out, in]`.
            let weight = linear.weight.val().swap_dims(0, 1);
            let weight = if weight.is_autodiff() {
                weight.inner()
            } else {
                weight
            };
            let shape = weight.dims();
            let data = weight
                .cast(DType::from(dtype))
                .try_into_data()
                .map_err(|error| TrainError::Device(error.to_string()))?;
            tensors.push((name, shape, data));
        }
        width = head.fc1.weight.dims()[1];
    }
    let mut metadata = Map::new();
    let known = [
        ("format", Some(HEADS_FORMAT.to_owned())),
        ("base_model", card.base_model.clone()),
        (HEADS_MODEL, card.model.clone()),
        ("width", Some(width.to_string())),
        ("source", card.source.clone()),
    ];
    for (key, value) in known {
        if let Some(value) = value {
            metadata.insert(key.into(), Value::String(value));
        }
    }
    for (key, value) in &card.more {
        metadata.insert(key.clone(), Value::String(value.clone()));
    }
    let described = tensors.iter().map(|(name, shape, data)| {
        let bytes = data.as_bytes().len() as u64;
        (name.as_str(), stored, shape.as_slice(), bytes)
    });
    let (header, _) = encode(Value::Object(metadata), described);
    let failed = FileError::at(out);
    write_file(out, |file| {
        file.write_all(&header).map_err(failed)?;
        for (_, _, data) in &tensors {
            file.write_all(data.as_bytes()).map_err(failed)?;
        }
        Ok(())
    })
    .map_err(|error: FileError| TrainError::Run(error.to_string()))
}
