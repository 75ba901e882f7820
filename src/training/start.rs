//! What heads begin with: existing weights, to train them further, or new ones.

use burn::nn::Linear;
use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};

use super::error::TrainError;
use super::output::stored_weight;
use super::scale::Scale;
use crate::apb::heads::{HeadsShape, LabelScale, RetainingHeads};
use crate::hex;
use crate::model::AttentionShape;

/// The weights of heads that fit a model.
pub(super) struct StartHeads {
    /// Width R of the hidden layer.
    pub width: usize,
    /// SHA-256 of the weights in f32, and of the scale of labels, if there is one.
    pub hash: String,
    /// The scale of the labels that they were trained with.
    pub label_scale: Option<LabelScale>,
    /// `fc1` and `fc2` of each layer, `[out, in]`, f32.
    layers: Vec<[TensorData; 2]>,
}

impl StartHeads {
    /// Reads heads of any dtype and device, if they have the shape that the model needs.
    pub fn read(heads: &RetainingHeads, model: AttentionShape) -> Result<Self, TrainError> {
        let first = heads.layers.first();
        let expected = heads_shape(model, first.map_or(0, |head| head.fc1.weight.dims()[1]));
        check_shape(heads, expected)?;
        let label_scale = heads.label_scale.clone();
        if let Some(scale) = &label_scale {
            let checked = scale.check(expected.layers, expected.kv_heads);
            checked.map_err(TrainError::StartScale)?;
        }
        let mut hash = Sha256::new();
        let mut layers = Vec::with_capacity(heads.layers.len());
        for head in &heads.layers {
            let layer = [read_weight(&head.fc1)?, read_weight(&head.fc2)?];
            for weight in &layer {
                hash.update(weight.as_bytes());
            }
            layers.push(layer);
        }
        if let Some(scale) = &label_scale {
            hash.update(scale.to_string());
        }
        Ok(Self {
            width: expected.width,
            hash: hex::encode(&hash.finalize()),
            label_scale,
            layers,
        })
    }

    /// Gives new heads of the same shape, on `device`, these weights, as they are with scaled inputs.
    pub fn load_into(
        self,
        mut heads: RetainingHeads,
        scale: &Scale,
        device: &Device,
    ) -> RetainingHeads {
        for (layer, (head, [fc1, fc2])) in heads.layers.iter_mut().zip(self.layers).enumerate() {
            load(&mut head.fc1, scale.unfold(layer, fc1), device);
            load(&mut head.fc2, fc2, device);
        }
        heads
    }
}

/// Gives new heads weights for scaled inputs and labels, whatever their sizes: hidden rows of variance 1 and scores of
/// 0, the mean of all labels.
pub(super) fn initialise(
    mut heads: RetainingHeads,
    shape: HeadsShape,
    seed: u64,
    device: &Device,
) -> RetainingHeads {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let bound = (3.0 / shape.projections.max(1) as f32).sqrt();
    for head in &mut heads.layers {
        let count = shape.width * shape.projections;
        let fc1: Vec<f32> = (0..count)
            .map(|_| random.random_range(-bound..bound))
            .collect();
        let fc2 = vec![0f32; shape.kv_heads * shape.width];
        let fc1 = TensorData::new(fc1, [shape.width, shape.projections]);
        let fc2 = TensorData::new(fc2, [shape.kv_heads, shape.width]);
        load(&mut head.fc1, fc1, device);
        load(&mut head.fc2, fc2, device);
    }
    heads
}

/// Loads `[out, in]` as from a checkpoint, so that a resumed run has the same layout in memory.
fn load(linear: &mut Linear, data: TensorData, device: &Device) {
    let weight = Tensor::from_data(data, (device, DType::F32));
    let parameter = linear.weight.clone();
    let id = parameter.id;
    linear.weight = parameter.transform_for_load(weight, id);
}

/// The shape of heads for a model.
pub(super) fn heads_shape(model: AttentionShape, width: usize) -> HeadsShape {
    HeadsShape {
        layers: model.layers,
        width,
        projections: (model.heads + 2 * model.kv_heads) * model.head_dim,
        kv_heads: model.kv_heads,
    }
}

/// Refuses heads of another shape than `expected`, and heads with biases.
fn check_shape(heads: &RetainingHeads, expected: HeadsShape) -> Result<(), TrainError> {
    let mut found = HeadsShape {
        layers: heads.layers.len(),
        width: 0,
        projections: 0,
        kv_heads: 0,
    };
    for head in &heads.layers {
        let ([projections, width], [hidden, kv_heads]) =
            (head.fc1.weight.dims(), head.fc2.weight.dims());
        found = HeadsShape {
            width: if hidden == expected.width {
                width
            } else {
                hidden
            },
            projections,
            kv_heads,
            ..found
        };
        if found != expected {
            break;
        }
        if head.fc1.bias.is_some() || head.fc2.bias.is_some() {
            return Err(TrainError::Run(
                "the heads to start from have biases, expected weights only".into(),
            ));
        }
    }
    match found == expected {
        true => Ok(()),
        false => Err(TrainError::StartShape { expected, found }),
    }
}

fn read_weight(linear: &Linear) -> Result<TensorData, TrainError> {
    let data = stored_weight(linear).try_into_data();
    Ok(data.map_err(TrainError::device)?.convert::<f32>())
}
