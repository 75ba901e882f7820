//! Writing trained heads.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use burn::nn::Linear;
use burn::tensor::{DType, FloatDType, Tensor};
use serde_json::{Map, Value};

use super::error::TrainError;
use crate::apb::heads::{
    HEADS_FORMAT, HEADS_LABEL_SCALE, HEADS_MODEL, RetainingHeads, heads_tensor_names,
};
use crate::checkpoint::safetensors::encode;
use crate::checkpoint::{FileError, write_file};

/// Metadata of a file of heads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeadsCard {
    /// The model's name, for display.
    pub base_model: Option<String>,
    /// The model's [`fingerprint`](crate::checkpoint::ModelSource::fingerprint); with it the file
    /// is for this model only.
    pub model: Option<String>,
    /// What the heads were made from or with.
    pub source: Option<String>,
    /// Further keys, such as recipe, data and metrics.
    pub more: BTreeMap<String, String>,
}

/// Writes heads in `dtype` (f32, f16 or bf16), and the scale of their labels, as the file that
/// [`RetainingHeads::load`] reads. The file is complete or absent.
///
/// # Errors
///
/// [`TrainError::File`] when the file cannot be written; an earlier file at `out` is then unchanged.
pub fn save_heads(
    heads: &RetainingHeads,
    out: &Path,
    dtype: FloatDType,
    card: &HeadsCard,
) -> Result<(), TrainError> {
    let Some(stored) = element_type(dtype.into()) else {
        return Err(TrainError::Run(format!(
            "expected f32, f16 or bf16, found {dtype:?}"
        )));
    };
    let mut tensors = Vec::new();
    let mut width = 0;
    for (layer, head) in heads.layers.iter().enumerate() {
        for (name, linear) in heads_tensor_names(layer)
            .into_iter()
            .zip([&head.fc1, &head.fc2])
        {
            let weight = stored_weight(linear);
            let shape = weight.dims();
            let data = weight
                .cast(DType::from(dtype))
                .try_into_data()
                .map_err(TrainError::device)?;
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
        (
            HEADS_LABEL_SCALE,
            heads.label_scale.as_ref().map(ToString::to_string),
        ),
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
    let failed = |source| FileError {
        path: out.into(),
        source,
    };
    write_file(out, |file| -> Result<(), FileError> {
        let mut file = BufWriter::new(file);
        file.write_all(&header).map_err(failed)?;
        for (_, _, data) in &tensors {
            file.write_all(data.as_bytes()).map_err(failed)?;
        }
        file.flush().map_err(failed)
    })?;
    Ok(())
}

/// A weight as files hold it, `[out, in]`, without its gradient.
pub(super) fn stored_weight(linear: &Linear) -> Tensor<2> {
    let weight = linear.weight.val().swap_dims(0, 1);
    match weight.is_autodiff() {
        true => weight.inner(),
        false => weight,
    }
}

/// The name of a dtype in safetensors; none for dtypes that are not written.
pub(super) fn element_type(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::F32 => Some("F32"),
        DType::F16 => Some("F16"),
        DType::BF16 => Some("BF16"),
        _ => None,
    }
}
