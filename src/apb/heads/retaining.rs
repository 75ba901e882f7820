//! Retaining heads: small learned networks that score how much a later question will attend to a row.
//!
//! One head a layer, trained beforehand against what real answers attend to (Locret,
//! <https://arxiv.org/abs/2410.01805>); published for some models, see
//! [`convert_heads`](super::convert_heads()).

use burn::config::Config;
use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor};

use super::label_scale::LabelScale;
use crate::kernels::{KernelError, silu_scores};
use crate::model::{AttentionShape, apply, linear};

/// Configuration of [`RetainingHeads`].
#[derive(Config, Debug)]
pub struct RetainingHeadsConfig {
    /// Width R of the hidden layer. The published heads have 1024; Locret finds 256 as good.
    #[config(default = 256)]
    pub width: usize,
}

impl RetainingHeadsConfig {
    /// Initialises one head for every layer of a model with random weights, allocated when first
    /// used.
    pub fn init(&self, model: impl Into<AttentionShape>, device: &Device) -> RetainingHeads {
        let model = model.into();
        let head = RetainingHeadConfig::new(model.heads, model.kv_heads, model.head_dim)
            .with_width(self.width);
        RetainingHeads {
            layers: (0..model.layers).map(|_| head.init(device)).collect(),
            label_scale: None,
        }
    }
}

/// Configuration of [`RetainingHead`].
#[derive(Config, Debug)]
pub struct RetainingHeadConfig {
    /// Query heads of the layer.
    pub heads: usize,
    /// Key/value heads of the layer.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width R of the hidden layer.
    #[config(default = 256)]
    pub width: usize,
}

impl RetainingHeadConfig {
    /// Initialises the head with random weights, allocated when first used.
    pub fn init(&self, device: &Device) -> RetainingHead {
        let projections = (self.heads + 2 * self.kv_heads) * self.head_dim;
        RetainingHead {
            fc1: linear(projections, self.width, false, device),
            fc2: linear(self.width, self.kv_heads, false, device),
        }
    }
}

/// The retaining head of one layer: `fc2(silu(fc1(concat(q, k, v))))`.
#[derive(Module, Debug)]
pub struct RetainingHead {
    /// `(heads + 2 * kv_heads) * head_dim -> width`, without bias.
    pub fc1: Linear,
    /// `width -> kv_heads`, without bias.
    pub fc2: Linear,
}

impl RetainingHead {
    /// The raw scores of some rows, before any pooling; higher is more worth keeping.
    ///
    /// # Shapes
    ///
    /// The flat projections of [`Projections`](crate::model::Projections), as they come out of the
    /// layer, biases added, before any per-head norm and before RoPE:
    ///
    /// - `query_flat`: `[batch, rows, heads * head_dim]`, f32, f16 or bf16
    /// - `key_flat`, `value_flat`: `[batch, rows, kv_heads * head_dim]`, dtype of `query_flat`
    /// - output: `[batch, kv_heads, rows]`, f32
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the three differ in batch, rows or dtype, or are together not as wide
    /// as `fc1` reads.
    pub fn score(
        &self,
        query_flat: Tensor<3>,
        key_flat: Tensor<3>,
        value_flat: Tensor<3>,
    ) -> Result<Tensor<3>, KernelError> {
        let ([batch, rows, _], dtype) = (query_flat.dims(), query_flat.dtype());
        for (argument, tensor) in [("key_flat", &key_flat), ("value_flat", &value_flat)] {
            let found = tensor.dims();
            if found[..2] != [batch, rows] {
                return Err(KernelError::Shape {
                    operation: OPERATION,
                    argument,
                    expected: format!("[{batch}, {rows}, ..] as query_flat"),
                    found: found.to_vec(),
                });
            }
            if tensor.dtype() != dtype {
                return Err(KernelError::DType {
                    operation: OPERATION,
                    argument,
                    expected: "the dtype of query_flat",
                    found: tensor.dtype(),
                });
            }
        }
        let projections = Tensor::cat(vec![query_flat, key_flat, value_flat], 2);
        silu_scores(apply(&self.fc1, projections)?, self.fc2.weight.val())
    }

    /// The raw scores of some rows, in Burn's own operations, which have a gradient: for training, and
    /// the reference of [`score`](Self::score).
    ///
    /// # Shapes
    ///
    /// - `projections`: queries, keys and values side by side, as [`score`](Self::score) takes them:
    ///   `[batch, rows, (heads + 2 * kv_heads) * head_dim]`, dtype of the weights
    /// - output: `[batch, kv_heads, rows]`, dtype of the weights
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the projections are not as wide as `fc1` reads, or of another dtype.
    pub fn forward(&self, projections: Tensor<3>) -> Result<Tensor<3>, KernelError> {
        let weight = self.fc1.weight.val();
        let ([width, _], [batch, rows, found]) = (weight.dims(), projections.dims());
        if found != width {
            return Err(KernelError::Shape {
                operation: OPERATION,
                argument: "projections",
                expected: format!("[{batch}, {rows}, {width}]"),
                found: vec![batch, rows, found],
            });
        }
        if projections.dtype() != weight.dtype() {
            return Err(KernelError::DType {
                operation: OPERATION,
                argument: "projections",
                expected: "the dtype of the weights",
                found: projections.dtype(),
            });
        }
        let hidden = silu(self.fc1.forward(projections));
        Ok(self.fc2.forward(hidden).swap_dims(1, 2))
    }
}

/// The name of [`RetainingHead::score`] in errors.
const OPERATION: &str = "retaining head";

/// The retaining heads of a model, first layer to last.
#[derive(Module, Debug)]
pub struct RetainingHeads {
    /// One head a layer.
    pub layers: Vec<RetainingHead>,
    /// The scale of the labels that they were trained with; none of heads that were trained on the attention logits
    /// as they are. Scores do not depend on it, training them further does.
    #[module(skip)]
    pub label_scale: Option<LabelScale>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Distribution, Tolerance};

    #[test]
    fn forward_is_score_with_a_gradient() {
        let device = Device::flex().autodiff();
        let head = RetainingHeadConfig::new(4, 2, 8)
            .with_width(16)
            .init(&device);
        let rows = Tensor::<3>::random([2, 5, 64], Distribution::Default, &device);
        let scores = head.forward(rows.clone()).unwrap();
        assert_eq!(scores.dims(), [2, 2, 5]);
        let part = |from, to| rows.clone().slice([0..2, 0..5, from..to]);
        let expected = head.score(part(0, 32), part(32, 48), part(48, 64)).unwrap();
        let (found, expected) = (scores.clone().into_data(), expected.into_data());
        found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
        let grads = scores.sum().backward();
        for weight in [&head.fc1.weight, &head.fc2.weight] {
            let grad = weight.val().grad(&grads).unwrap();
            assert!(grad.abs().max().into_scalar::<f32>() > 0.0);
        }
    }

    #[test]
    fn forward_refuses_rows_of_another_width_or_dtype() {
        let device = Device::flex();
        let head = RetainingHeadConfig::new(4, 2, 8).init(&device);
        let narrow = head.forward(Tensor::zeros([1, 3, 63], &device));
        assert!(
            matches!(narrow, Err(KernelError::Shape { .. })),
            "{narrow:?}"
        );
        let half = head.forward(Tensor::zeros([1, 3, 64], (&device, DType::F16)));
        assert!(matches!(half, Err(KernelError::DType { .. })), "{half:?}");
    }
}
