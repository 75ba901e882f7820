//! Retaining heads: small learned networks that say how much a later question will want a row.
//!
//! One head a layer, trained beforehand against what real answers attend to (Locret,
//! <https://arxiv.org/abs/2410.01805>); published for some models, see
//! [`convert_heads`](super::convert_heads()).

use std::path::Path;

use burn::config::Config;
use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::activation::silu;
use burn::tensor::{Device, FloatDType, Tensor};

use super::head_shapes::{Matrix, place};
use super::heads_file::{self, HeadsError, HeadsInfo};
use crate::checkpoint;
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
    /// Initialises one head for every layer with random weights, allocated when first
    /// used.
    pub fn init(&self, shape: impl Into<AttentionShape>, device: &Device) -> RetainingHeads {
        let AttentionShape {
            layers,
            heads,
            kv_heads,
            head_dim,
        } = shape.into();
        let projections = (heads + 2 * kv_heads) * head_dim;
        RetainingHeads {
            layers: (0..layers)
                .map(|_| RetainingHead {
                    fc1: linear(projections, self.width, false, device),
                    fc2: linear(self.width, kv_heads, false, device),
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
}

/// The name of [`RetainingHead::score`] in errors.
const OPERATION: &str = "retaining head";

/// The retaining heads of a model, first layer to last.
#[derive(Module, Debug)]
pub struct RetainingHeads {
    /// One head a layer.
    pub layers: Vec<RetainingHead>,
}

impl RetainingHeads {
    /// Compares the heads at `path`, a safetensors file or a folder with
    /// [`HEADS_FILE`](super::HEADS_FILE), with `model`. Nothing but the file's header is read.
    ///
    /// A published PyTorch file does as well (feature `pytorch`); it is converted by
    /// [`convert_heads`](super::convert_heads()), without ever executing pickle, each time it is opened.
    ///
    /// # Errors
    ///
    /// A [`HeadsError`]: no such file, another kind of file, a set of heads that is not whole, or
    /// one for another number of layers, other projections or other key/value heads.
    pub fn inspect(
        path: impl AsRef<Path>,
        shape: impl Into<AttentionShape>,
    ) -> Result<HeadsInfo, HeadsError> {
        heads_file::open(path.as_ref(), shape.into()).map(|(_, info)| info)
    }

    /// Loads the heads at `path` in `dtype` (f32, f16 or bf16). Weights of that type stay in the
    /// memory-mapped file, others are converted.
    ///
    /// # Errors
    ///
    /// As [`Self::inspect`], before any weight is read; reading.
    pub fn load(
        path: impl AsRef<Path>,
        shape: impl Into<AttentionShape>,
        dtype: FloatDType,
        device: &Device,
    ) -> Result<Self, HeadsError> {
        let shape = shape.into();
        let (file, info) = heads_file::open(path.as_ref(), shape)?;
        let heads = RetainingHeadsConfig::new()
            .with_width(info.width)
            .init(shape, device);
        let options = checkpoint::LoadOptions::new(dtype).with_strict(true);
        let (loaded, _) = checkpoint::load(heads, &file, options, parameter, &mut |_| {})?;
        Ok(loaded)
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
