//! The operations in plain tensors, on any device: what tests compare kernels with, and what runs on
//! backends without kernels. All are differentiable but [`select_rows`].
//!
//! Each computes in f32 whatever the dtypes, and rounds its result once.
//!
//! # Panics
//!
//! When shapes do not fit; the functions of [`kernels`](super) check them first.

use core::cmp::Ordering;

use burn::backend::Dispatch;
use burn::tensor::{DType, Int, Tensor, TensorData};

use super::{AttentionOutput, Regions, RowChoice, plain};

/// [`attention`](super::attention()) in tiles of rows. A hidden key or value that shares a tile with a row
/// that sees it has to be finite.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, regions: Regions) -> AttentionOutput {
    let [q, k, v] = [q, k, v].map(|x| x.into_dispatch());
    let (out, lse) = plain::attention::<Dispatch>(q, k, v, regions);
    AttentionOutput {
        out: Tensor::from_dispatch(out),
        lse: Tensor::from_dispatch(lse),
    }
}

/// [`linear`](super::linear()).
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let bias = bias.map(|bias| bias.into_dispatch());
    let out = plain::linear::<Dispatch>(x.into_dispatch(), weight.into_dispatch(), bias);
    Tensor::from_dispatch(out)
}

/// [`rms_norm`](super::rms_norm()).
pub fn rms_norm<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, eps: f64) -> Tensor<D> {
    let out = plain::rms_norm::<Dispatch>(x.into_dispatch(), gamma.into_dispatch(), eps);
    Tensor::from_dispatch(out)
}

/// [`silu_mul`](super::silu_mul()).
pub fn silu_mul<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    let out = plain::silu_mul::<Dispatch>(gate.into_dispatch(), up.into_dispatch());
    Tensor::from_dispatch(out)
}

/// [`rotate`](super::rotate()).
pub fn rotate(x: Tensor<3>, cos: Tensor<2>, sin: Tensor<2>, heads: usize) -> Tensor<4> {
    let [cos, sin] = [cos, sin].map(|table| table.into_dispatch());
    Tensor::from_dispatch(plain::rotate::<Dispatch>(
        x.into_dispatch(),
        cos,
        sin,
        heads,
    ))
}

/// [`silu_scores`](super::silu_scores()).
pub fn silu_scores(hidden: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    let scores = plain::silu_scores::<Dispatch>(hidden.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(scores)
}

/// [`gather_rows`](super::gather_rows()).
pub fn gather_rows(keys: Tensor<4>, values: Tensor<4>, rows: Tensor<3, Int>) -> Tensor<4> {
    let [keys, values] = [keys, values].map(|x| x.into_dispatch());
    let out = plain::gather_rows::<Dispatch>(keys, values, rows.into_dispatch());
    Tensor::from_dispatch(out)
}

/// [`select_rows`](super::select_rows()) on the host, by a stable sort of each head's rows. `before` may be
/// empty.
pub fn select_rows(scores: Tensor<3>, before: Tensor<3>, choice: RowChoice) -> Tensor<3, Int> {
    let [batch, kv_heads, rows] = scores.dims();
    let context = before.dims()[2];
    let device = scores.device();
    let all = Tensor::cat(vec![before, scores], 2).cast(DType::F32);
    let values: Vec<f32> = all.into_data().iter::<f32>().collect();
    let reach = choice.window / 2;
    let mut kept = Vec::with_capacity(batch * kv_heads * choice.kept());
    for head in values.chunks_exact((context + rows).max(1)) {
        let pooled = |row: usize| {
            let at = context + row;
            let window = &head[at.saturating_sub(reach)..(at + reach + 1).min(head.len())];
            window.iter().copied().fold(f32::NEG_INFINITY, f32::max)
        };
        let mut order: Vec<usize> = choice.selectable.clone().collect();
        // A stable sort leaves ties in the order of their indices.
        order.sort_by(|a, b| {
            pooled(*b)
                .partial_cmp(&pooled(*a))
                .unwrap_or(Ordering::Equal)
        });
        order.truncate(choice.count);
        order.sort_unstable();
        kept.extend(order.into_iter().map(|row| row as i32));
    }
    let shape = [batch, kv_heads, choice.kept()];
    Tensor::from_data(TensorData::new(kept, shape), (&device, DType::I32))
}
