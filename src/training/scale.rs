//! One scale for all models: that of labels and of the heads' inputs, measured before the first step.

use std::sync::Arc;

use burn::tensor::{DType, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::cache::FeatureCache;
use super::error::TrainError;
use super::features::{Backbone, LayerFeatures};
use super::quality::to_vec;
use super::sample::Sample;
use crate::apb::heads::{LabelScale, RetainingHeads};
use crate::model::AttentionShape;

/// The share of a layer's mean scale below which that of a column does not count: what hardly varies is not enlarged
/// to what does.
const LEAST_INPUT: f64 = 0.01;

/// The share of a mean below which a standard deviation is rounding, and labels are as good as constant.
const LEAST_STD: f64 = 1e-5;

/// What brings a model's labels, and the inputs of its heads, to one scale.
///
/// Labels become `(label - mean) / std`, which heads learn. Inputs are divided by the root mean square of their column
/// while heads learn, so that one initialisation and one learning rate serve all; [`fold`](Self::fold) then puts the
/// factors into `fc1`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scale {
    /// None leaves labels as they are.
    labels: Option<LabelScale>,
    /// The root mean square of each column of each layer's input; no layers leave inputs as they are.
    inputs: Vec<Vec<f32>>,
}

/// Sums over values.
#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    count: f64,
    sum: f64,
    squares: f64,
}

impl Moments {
    /// Adds what is finite of `values`; a loss that is not stops the run later.
    fn add(&mut self, values: &[f32]) {
        for value in values.iter().filter(|value| value.is_finite()) {
            let value = f64::from(*value);
            self.count += 1.0;
            self.sum += value;
            self.squares += value * value;
        }
    }

    /// Mean and standard deviation; a deviation of 1 for values that are as good as constant.
    fn scale(self) -> (f32, f32) {
        if self.count == 0.0 {
            return (0.0, 1.0);
        }
        let mean = self.sum / self.count;
        let std = (self.squares / self.count - mean * mean).max(0.0).sqrt();
        let least = (LEAST_STD * mean.abs()).max(f64::from(f32::MIN_POSITIVE));
        let (mean, std) = (mean as f32, if std > least { std as f32 } else { 1.0 });
        match mean.is_finite() && std.is_finite() {
            true => (mean, std),
            false => (0.0, 1.0),
        }
    }
}

impl Scale {
    /// Labels and inputs as they are, except for the labels' scale, if there is one.
    pub fn of_labels(labels: Option<LabelScale>) -> Self {
        Self {
            labels,
            inputs: Vec::new(),
        }
    }

    /// Measures the scored rows of `samples`. Heads that are trained further bring the scale of their labels (`of_start`,
    /// where none leaves labels as they are). `go_on` is called after each sample; false stops.
    pub fn measure(
        backbone: &Backbone,
        cache: Option<&FeatureCache>,
        samples: &[Arc<Sample>],
        of_start: Option<Option<LabelScale>>,
        mut go_on: impl FnMut() -> bool,
    ) -> Result<Self, TrainError> {
        let shape = backbone.shape();
        let mut labels = vec![vec![Moments::default(); shape.kv_heads]; shape.layers];
        let mut squares = vec![vec![0.0; columns(shape)]; shape.layers];
        let mut rows = 0;
        for sample in samples {
            let mut visit = |layer: usize, features: LayerFeatures| {
                let found = to_vec(features.labels.logits)?;
                for (moments, values) in labels[layer]
                    .iter_mut()
                    .zip(found.chunks(sample.scored.len()))
                {
                    moments.add(values);
                }
                let sums = features
                    .projections
                    .cast(DType::F32)
                    .powi_scalar(2)
                    .sum_dim(1);
                for (square, sum) in squares[layer].iter_mut().zip(to_vec(sums)?) {
                    *square += f64::from(sum);
                }
                Ok(())
            };
            match cache {
                Some(cache) => cache.features(backbone, sample, &mut visit)?,
                None => backbone.features(sample, &mut visit)?,
            }
            rows += sample.scored.len();
            if !go_on() {
                return Err(TrainError::Stopped);
            }
        }
        let measured = || {
            let scales = labels.iter().map(|layer| {
                let (mean, std): (Vec<f32>, Vec<f32>) =
                    layer.iter().map(|moments| moments.scale()).unzip();
                (mean, std)
            });
            let (mean, std) = scales.unzip();
            LabelScale::new(mean, std).map_err(|fault| TrainError::Run(fault.to_string()))
        };
        Ok(Self {
            labels: match of_start {
                Some(labels) => labels,
                None => Some(measured()?),
            },
            inputs: squares
                .iter()
                .map(|squares| input_scales(squares, rows))
                .collect(),
        })
    }

    /// Refuses a scale of another model, and numbers that cannot be one.
    pub fn check(&self, shape: AttentionShape) -> Result<(), String> {
        if let Some(labels) = &self.labels {
            let checked = labels.check(shape.layers, shape.kv_heads);
            checked.map_err(|fault| fault.to_string())?;
        }
        let (layers, columns) = (shape.layers, columns(shape));
        let fits = self.inputs.len() == layers && self.inputs.iter().all(|c| c.len() == columns);
        if !self.inputs.is_empty() && !fits {
            return Err(format!("expected {layers} layers of {columns} columns"));
        }
        let wrong = |value: &&f32| !(value.is_finite() && **value >= f32::MIN_POSITIVE);
        match self.inputs.iter().flatten().find(wrong) {
            Some(value) => Err(format!("an input of scale {value}, expected one above 0")),
            None => Ok(()),
        }
    }

    /// The input of a layer's head while it learns. `[batch, rows, columns]`, f32.
    pub fn input(&self, layer: usize, input: Tensor<3>) -> Tensor<3> {
        let Some(scales) = self.inputs.get(layer) else {
            return input;
        };
        let factors = scales.iter().map(|scale| 1.0 / scale).collect();
        let factors = TensorData::new::<f32, _>(factors, [1, 1, scales.len()]);
        let factors = Tensor::from_data(factors, (&input.device(), DType::F32));
        input * factors
    }

    /// What a layer's head learns. `[batch, kv_heads, rows]`, f32.
    pub fn labels(&self, layer: usize, labels: Tensor<3>) -> Tensor<3> {
        let Some(scale) = &self.labels else {
            return labels;
        };
        let device = labels.device();
        let of_heads = |values: &[f32]| {
            let data = TensorData::new(values.to_vec(), [1, values.len(), 1]);
            Tensor::<3>::from_data(data, (&device, DType::F32))
        };
        (labels - of_heads(&scale.mean()[layer])) / of_heads(&scale.std()[layer])
    }

    /// Gives heads that learned from scaled inputs the same scores for inputs as they are, and the scale of their
    /// labels.
    pub fn fold(&self, mut heads: RetainingHeads) -> RetainingHeads {
        for (head, scales) in heads.layers.iter_mut().zip(&self.inputs) {
            head.fc1.weight = head.fc1.weight.clone().map(|weight| {
                let data = TensorData::new(scales.clone(), [scales.len(), 1]);
                let scales = Tensor::from_data(data, (&weight.device(), DType::F32));
                weight / scales
            });
        }
        heads.label_scale.clone_from(&self.labels);
        heads
    }

    /// The inverse of [`fold`](Self::fold) for a layer's `fc1` as files hold it, `[out, in]`.
    pub fn unfold(&self, layer: usize, fc1: TensorData) -> TensorData {
        let Some(scales) = self.inputs.get(layer) else {
            return fc1;
        };
        let shape = fc1.shape().clone();
        let values = fc1.iter::<f32>().zip(scales.iter().cycle());
        TensorData::new(
            values
                .map(|(weight, scale)| weight * scale)
                .collect::<Vec<f32>>(),
            shape,
        )
    }
}

/// Columns of a head's input.
fn columns(shape: AttentionShape) -> usize {
    (shape.heads + 2 * shape.kv_heads) * shape.head_dim
}

/// The scales of a layer's columns, from the sums of their squares over `rows`.
fn input_scales(squares: &[f64], rows: usize) -> Vec<f32> {
    let roots = squares.iter().map(|sum| (sum / rows.max(1) as f64).sqrt());
    let roots: Vec<f64> = roots
        .map(|root| if root.is_finite() { root } else { 0.0 })
        .collect();
    let mean = roots.iter().sum::<f64>() / roots.len().max(1) as f64;
    let least = LEAST_INPUT * mean;
    let scale = |root: &f64| match root.max(least) as f32 {
        scale if scale >= f32::MIN_POSITIVE && scale.is_finite() => scale,
        _ => 1.0,
    };
    roots.iter().map(scale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: &[f32]) -> (f32, f32) {
        let mut moments = Moments::default();
        moments.add(values);
        moments.scale()
    }

    #[test]
    fn constant_and_broken_labels_have_a_scale() {
        assert_eq!(moments(&[1.0, 3.0]), (2.0, 1.0));
        assert_eq!(moments(&[]), (0.0, 1.0));
        assert_eq!(moments(&[f32::NAN, f32::INFINITY]), (0.0, 1.0));
        assert_eq!(moments(&[7.0; 5]), (7.0, 1.0));
        assert_eq!(moments(&[1000.0, 1000.0001]).1, 1.0, "rounding");
        let (mean, std) = moments(&[1e-6, 3e-6]);
        assert!((mean - 2e-6).abs() < 1e-9 && (std - 1e-6).abs() < 1e-9);
        assert_eq!(moments(&[f32::MAX, f32::MAX / 2.0]).0, f32::MAX * 0.75);
    }

    #[test]
    fn columns_that_hardly_vary_are_not_enlarged() {
        let scales = input_scales(&[4.0 * 16.0, 0.0, 1e-12, 4.0], 4);
        let least = 0.01 * (4.0 + 1.0) / 4.0;
        assert_eq!(scales[0], 4.0);
        assert!((scales[1] - least).abs() < 1e-6, "{scales:?}");
        assert!((scales[2] - least).abs() < 1e-6, "{scales:?}");
        assert_eq!(scales[3], 1.0);
        assert_eq!(input_scales(&[0.0, 0.0], 3), [1.0, 1.0]);
        let broken = input_scales(&[f64::INFINITY, f64::NAN, 9.0], 1);
        assert!(
            broken.iter().all(|scale| scale.is_finite() && *scale > 0.0),
            "{broken:?}"
        );
    }
}
