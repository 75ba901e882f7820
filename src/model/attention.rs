//! The projections of an attention layer. The attention itself is
//! [`kernels::attention`](crate::kernels::attention); which keys a row sees is the caller's choice.

use std::ops::Range;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig, LinearLayout, RmsNorm, RmsNormConfig};
use burn::tensor::{Device, Tensor};

use super::config::DecoderConfig;
use super::norm::normalize;
use super::rope::RopeTables;
use crate::kernels::{self, KernelError};

/// Queries, keys and values of some rows, before and after the rotation.
///
/// Retaining heads read the flat projections as they come out of the layer (before any per-head
/// norm and before RoPE); attention, scores and caches use the rotated heads.
#[derive(Debug, Clone)]
pub struct Projections {
    /// Flat queries `[batch, seq, heads * head_dim]`, before q_norm and RoPE.
    pub query_flat: Tensor<3>,
    /// Flat keys `[batch, seq, kv_heads * head_dim]`, before k_norm and RoPE.
    pub key_flat: Tensor<3>,
    /// Flat values `[batch, seq, kv_heads * head_dim]`.
    pub value_flat: Tensor<3>,
    /// Queries after RoPE `[batch, heads, seq, head_dim]`.
    pub query: Tensor<4>,
    /// Keys after RoPE `[batch, kv_heads, seq, head_dim]`.
    pub key: Tensor<4>,
    /// Values `[batch, kv_heads, seq, head_dim]`.
    pub value: Tensor<4>,
}

impl Projections {
    /// The projections of some of the rows; views.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        let flat = |tensor: &Tensor<3>| {
            let [batch, _, width] = tensor.dims();
            tensor.clone().slice([0..batch, rows.clone(), 0..width])
        };
        let heads = |tensor: &Tensor<4>| {
            let [batch, heads, _, head_dim] = tensor.dims();
            tensor
                .clone()
                .slice([0..batch, 0..heads, rows.clone(), 0..head_dim])
        };
        Self {
            query_flat: flat(&self.query_flat),
            key_flat: flat(&self.key_flat),
            value_flat: flat(&self.value_flat),
            query: heads(&self.query),
            key: heads(&self.key),
            value: heads(&self.value),
        }
    }
}

/// The four projections of grouped-query attention, with Qwen3's norms on query and key heads.
#[derive(Module, Debug)]
pub struct Attention {
    /// Queries: `hidden -> heads * head_dim`.
    pub q_proj: Linear,
    /// Keys: `hidden -> kv_heads * head_dim`.
    pub k_proj: Linear,
    /// Values: `hidden -> kv_heads * head_dim`.
    pub v_proj: Linear,
    /// Output: `heads * head_dim -> hidden`.
    pub o_proj: Linear,
    /// Norm of each query head (Qwen3).
    pub q_norm: Option<RmsNorm>,
    /// Norm of each key head (Qwen3).
    pub k_norm: Option<RmsNorm>,
    heads: usize,
    kv_heads: usize,
}

/// A linear layer whose weight is stored `[d_output, d_input]` as Hugging Face files store it, so
/// that a memory-mapped weight is used where it lies.
pub(crate) fn linear(d_input: usize, d_output: usize, bias: bool, device: &Device) -> Linear {
    LinearConfig::new(d_input, d_output)
        .with_bias(bias)
        .with_layout(LinearLayout::Col)
        .init(device)
}

impl Attention {
    /// Initialises the layer with random weights.
    pub fn new(config: &DecoderConfig, device: &Device) -> Self {
        let hidden = config.hidden_size;
        let q_width = config.num_attention_heads * config.head_dim;
        let kv_width = config.num_key_value_heads * config.head_dim;
        let head_norm = || {
            config.qk_norm.then(|| {
                RmsNormConfig::new(config.head_dim)
                    .with_epsilon(config.rms_norm_eps)
                    .init(device)
            })
        };
        Self {
            q_proj: linear(hidden, q_width, config.qkv_bias, device),
            k_proj: linear(hidden, kv_width, config.qkv_bias, device),
            v_proj: linear(hidden, kv_width, config.qkv_bias, device),
            o_proj: linear(q_width, hidden, config.output_bias, device),
            q_norm: head_norm(),
            k_norm: head_norm(),
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
        }
    }

    /// Projects normalised hidden rows `[batch, seq, hidden]`; `rope` holds the rows' positions.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the rows do not have the layer's width, or `rope` other rows.
    pub fn project(
        &self,
        hidden: Tensor<3>,
        rope: &RopeTables,
    ) -> Result<Projections, KernelError> {
        let query_flat = apply(&self.q_proj, hidden.clone())?;
        let key_flat = apply(&self.k_proj, hidden.clone())?;
        let value_flat = apply(&self.v_proj, hidden)?;
        let query = rotated(&query_flat, self.q_norm.as_ref(), self.heads, rope)?;
        let key = rotated(&key_flat, self.k_norm.as_ref(), self.kv_heads, rope)?;
        let [batch, seq, width] = value_flat.dims();
        let value = value_flat
            .clone()
            .reshape([batch, seq, self.kv_heads, width / self.kv_heads])
            .swap_dims(1, 2);
        Ok(Projections {
            query_flat,
            key_flat,
            value_flat,
            query,
            key,
            value,
        })
    }

    /// Puts the heads' outputs `[batch, heads, seq, head_dim]` side by side: `[batch, seq, heads * head_dim]`.
    pub fn join_heads(output: Tensor<4>) -> Tensor<3> {
        let [batch, heads, seq, head_dim] = output.dims();
        output
            .swap_dims(1, 2)
            .reshape([batch, seq, heads * head_dim])
    }

    /// The output projection of joined heads `[batch, seq, heads * head_dim]`.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the rows do not have the layer's width.
    pub fn output(&self, joined: Tensor<3>) -> Result<Tensor<3>, KernelError> {
        apply(&self.o_proj, joined)
    }
}

/// Applies a linear layer through the kernel that keeps its weight where it lies.
pub(crate) fn apply<const D: usize>(
    layer: &Linear,
    input: Tensor<D>,
) -> Result<Tensor<D>, KernelError> {
    kernels::linear(
        input,
        layer.weight.val(),
        layer.bias.as_ref().map(|bias| bias.val()),
    )
}

/// Flat projections `[batch, seq, heads * head_dim]` normalised per head where the model does so,
/// then rotated: `[batch, heads, seq, head_dim]`.
fn rotated(
    flat: &Tensor<3>,
    norm: Option<&RmsNorm>,
    heads: usize,
    rope: &RopeTables,
) -> Result<Tensor<4>, KernelError> {
    let normed = match norm {
        None => flat.clone(),
        Some(norm) => {
            let [batch, seq, width] = flat.dims();
            let per_head = flat.clone().reshape([batch, seq, heads, width / heads]);
            normalize(norm, per_head)?.reshape([batch, seq, width])
        }
    };
    kernels::rotate(normed, rope.cos.clone(), rope.sin.clone(), heads)
}
