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
        let projections = (model.heads + 2 * model.kv_heads) * model.head_dim;
        RetainingHeads {
            layers: (0..model.layers)
                .map(|_| RetainingHead {
                    fc1: linear(projections, self.width, false, device),
                    fc2: linear(self.width, model.kv_heads, false, device),
                })
                .collect(),
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
    /// - `projections`: queries, keys and values side by side, `[batch, rows, (heads + 2 * kv_heads) *
    ///   head_dim]`, dtype of the weights
    /// - output: `[batch, kv_heads, rows]`, dtype of the weights
    pub fn forward(&self, projections: Tensor<3>) -> Tensor<3> {
        let hidden = silu(self.fc1.forward(projections));
        self.fc2.forward(hidden).swap_dims(1, 2)
    }
}

/// The name of [`RetainingHead::score`] in errors.
const OPERATION: &str = "retaining head";

/// The retaining heads of a model, first layer to last.
#[derive(Module, Debug)]
pub struct RetainingHeads {
    /// One head a layer.
    pub layers: Vec<RetainingHead>,
}
