//! Grouped-query attention: its projections, and the causal attention between them. Attention over
//! ranks is in [`apb`](crate::apb).

use std::ops::Range;

use burn::module::Module;
use burn::nn::{Initializer, Linear, LinearConfig, LinearLayout, RmsNorm};
use burn::tensor::{Device, Tensor};

use super::config::DecoderConfig;
use super::norm::{normalize, rms_norm};
use super::projection::Projection;
use super::rope::RopeTables;
use crate::kernels::{self, KernelError, Regions};

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
    /// Causal attention of the rows over themselves: the joined heads
    /// `[batch, seq, heads * head_dim]`.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when shapes or dtypes do not go together.
    pub fn attend(self) -> Result<Tensor<3>, KernelError> {
        let attended = kernels::attention(self.query, self.key, self.value, Regions::causal())?;
        Ok(join_heads(attended.out))
    }

    /// The projections of some of the rows; views.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when there are no such rows.
    pub fn rows(&self, rows: Range<usize>) -> Result<Self, KernelError> {
        if rows.start > rows.end || rows.end > self.query_flat.dims()[1] {
            let expected = format!("[batch, at least {} rows, width]", rows.end.max(rows.start));
            let found = self.query_flat.dims();
            return Err(KernelError::shape("rows", "projections", expected, &found));
        }
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
        Ok(Self {
            query_flat: flat(&self.query_flat),
            key_flat: flat(&self.key_flat),
            value_flat: flat(&self.value_flat),
            query: heads(&self.query),
            key: heads(&self.key),
            value: heads(&self.value),
        })
    }
}

/// The four projections of grouped-query attention, with Qwen3's norms on query and key heads.
#[derive(Module, Debug)]
pub struct Attention {
    /// Queries: `hidden -> heads * head_dim`.
    pub q_proj: Projection,
    /// Keys: `hidden -> kv_heads * head_dim`.
    pub k_proj: Projection,
    /// Values: `hidden -> kv_heads * head_dim`.
    pub v_proj: Projection,
    /// Output: `heads * head_dim -> hidden`.
    pub o_proj: Projection,
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
    let mut config = LinearConfig::new(d_input, d_output)
        .with_bias(bias)
        .with_layout(LinearLayout::Col);
    if d_input == 0 {
        // The usual range is 1 / sqrt(d_input), which Burn panics at.
        config.initializer = Initializer::Zeros;
    }
    config.init(device)
}

impl Attention {
    /// Initialises the layer with random weights.
    pub fn new(config: &DecoderConfig, device: &Device) -> Self {
        let hidden = config.hidden_size;
        let q_width = config.num_attention_heads * config.head_dim;
        let kv_width = config.num_key_value_heads * config.head_dim;
        let head_norm =
            || (config.qk_norm).then(|| rms_norm(config.head_dim, config.rms_norm_eps, device));
        Self {
            q_proj: linear(hidden, q_width, config.qkv_bias, device).into(),
            k_proj: linear(hidden, kv_width, config.qkv_bias, device).into(),
            v_proj: linear(hidden, kv_width, config.qkv_bias, device).into(),
            o_proj: linear(q_width, hidden, config.output_bias, device).into(),
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
        let norms = [self.q_norm.as_ref(), self.k_norm.as_ref()];
        let flat = [
            self.q_proj.forward(hidden.clone())?,
            self.k_proj.forward(hidden.clone())?,
            self.v_proj.forward(hidden)?,
        ];
        project(flat, norms, [self.heads, self.kv_heads], rope)
    }

    /// Causal attention over normalised hidden rows `[batch, seq, hidden]`, with a gradient:
    /// `[batch, seq, hidden]`.
    ///
    /// # Errors
    ///
    /// As [`Self::project`].
    pub fn forward(&self, hidden: Tensor<3>, rope: &RopeTables) -> Result<Tensor<3>, KernelError> {
        self.output(self.project(hidden, rope)?.attend()?)
    }

    /// The output projection of joined heads `[batch, seq, heads * head_dim]`.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the rows do not have the layer's width.
    pub fn output(&self, joined: Tensor<3>) -> Result<Tensor<3>, KernelError> {
        self.o_proj.forward(joined)
    }
}

/// Queries, keys and values of some rows, from the outputs of three linear layers: by the norms of query and key
/// heads, and the numbers of heads and KV heads.
pub(crate) fn project(
    [query_flat, key_flat, value_flat]: [Tensor<3>; 3],
    [q_norm, k_norm]: [Option<&RmsNorm>; 2],
    [heads, kv_heads]: [usize; 2],
    rope: &RopeTables,
) -> Result<Projections, KernelError> {
    let query = rotated(&query_flat, q_norm, heads, rope)?;
    let key = rotated(&key_flat, k_norm, kv_heads, rope)?;
    let [batch, seq, width] = value_flat.dims();
    check_heads("value", &value_flat, kv_heads)?;
    let value = value_flat
        .clone()
        .reshape([batch, seq, kv_heads, width / kv_heads])
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

/// The heads' outputs `[batch, heads, seq, head_dim]` side by side: `[batch, seq, heads * head_dim]`.
pub fn join_heads(output: Tensor<4>) -> Tensor<3> {
    let [batch, heads, seq, head_dim] = output.dims();
    output
        .swap_dims(1, 2)
        .reshape([batch, seq, heads * head_dim])
}

/// Refuses rows that are not of some heads of some width.
fn check_heads(argument: &'static str, flat: &Tensor<3>, heads: usize) -> Result<(), KernelError> {
    let width = flat.dims()[2];
    if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
        let expected = format!("[batch, seq, {heads} heads of a head_dim above 0]");
        return Err(KernelError::shape(
            "project",
            argument,
            expected,
            &flat.dims(),
        ));
    }
    Ok(())
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
            check_heads("flat", flat, heads)?;
            let per_head = flat.clone().reshape([batch, seq, heads, width / heads]);
            normalize(norm, per_head)?.reshape([batch, seq, width])
        }
    };
    kernels::rotate(normed, rope.cos.clone(), rope.sin.clone(), heads)
}
