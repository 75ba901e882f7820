//! Attention with regions, as the definition reads: slow, on any backend.

use burn::tensor::{DType, Tensor};

use super::{AttentionOutput, Regions};

/// Attention row by row in plain tensors: `softmax(q k^T / sqrt(head_dim)) v` over the keys that
/// [`Regions::visible_keys`] names, computed in f32.
///
/// Hidden keys are never touched, whatever they hold. `out` has the dtype of `q`; `lse` is f32.
///
/// # Shapes
///
/// - `q`: `[batch, heads, seq_q, head_dim]`
/// - `k`, `v`: `[batch, kv_heads, seq_kv, head_dim]`
///
/// # Panics
///
/// When shapes or regions do not fit; [`attention`](super::attention) checks them first.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, regions: Regions) -> AttentionOutput {
    let [batch, heads, seq_q, head_dim] = q.dims();
    let [_, kv_heads, seq_kv, _] = k.dims();
    let device = q.device();
    let dtype = q.dtype();
    let group = heads / kv_heads;
    let scale = 1.0 / (head_dim as f64).sqrt();
    let (q, k, v) = (q.cast(DType::F32), k.cast(DType::F32), v.cast(DType::F32));

    let (mut out, mut lse) = (Vec::new(), Vec::new());
    for row in 0..seq_q {
        let keys = regions.visible_keys(row, seq_q, seq_kv);
        if keys.is_empty() {
            out.push(Tensor::zeros(
                [batch, heads, 1, head_dim],
                (&device, DType::F32),
            ));
            lse.push(Tensor::full(
                [batch, heads, 1],
                f32::NEG_INFINITY,
                (&device, DType::F32),
            ));
            continue;
        }
        // The query heads of a group stand side by side, so a reshape shares each key head.
        let query = q
            .clone()
            .narrow(2, row, 1)
            .reshape([batch, kv_heads, group, head_dim]);
        let k = k.clone().narrow(2, keys.start, keys.len());
        let v = v.clone().narrow(2, keys.start, keys.len());
        let scores = query.matmul(k.swap_dims(2, 3)) * scale;
        let top = scores.clone().max_dim(3);
        let weights = (scores - top.clone()).exp();
        let total = weights.clone().sum_dim(3);
        out.push((weights.matmul(v) / total.clone()).reshape([batch, heads, 1, head_dim]));
        lse.push((top + total.log()).reshape([batch, heads, 1]));
    }
    if out.is_empty() {
        return AttentionOutput {
            out: Tensor::zeros([batch, heads, 0, head_dim], (&device, dtype)),
            lse: Tensor::zeros([batch, heads, 0], (&device, DType::F32)),
        };
    }
    AttentionOutput {
        out: Tensor::cat(out, 2).cast(dtype),
        lse: Tensor::cat(lse, 2),
    }
}
