//! The operations under autodiff: attention with a backward pass of its own, the others from the plain
//! operations, whose backward passes are Burn's.

use core::ops::Range;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, Backend, TensorMetadata};
use burn::tensor::{FloatDType, Shape};

use super::extension::{AttentionPrimitives, Kernels};
use super::plain::{self, along, float_dtype, hidden, join, wide};
use super::{BlockFormat, Regions, RowChoice};

/// Rows and keys of a tile of the backward pass. Its scores of all heads are alive at a time.
const TILE: usize = 256;

impl<B: Kernels, C: CheckpointStrategy> Kernels for Autodiff<B, C> {
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        regions: Regions,
    ) -> AttentionPrimitives<Self> {
        let dtype = float_dtype(q.dtype());
        let [batch, heads, seq_q, head_dim] = q.shape().dims();
        let forward = <B as Kernels>::attention(
            q.primitive().clone(),
            k.primitive().clone(),
            v.primitive().clone(),
            regions,
        );
        // An operation of the graph has one output: the normaliser is a column beside the values.
        let column = Shape::new([batch, heads, seq_q, 1]);
        let columns = vec![
            wide::<B>(forward.out.clone()),
            B::float_reshape(forward.lse.clone(), column),
        ];
        let both = B::float_cat(columns, 3);
        let nodes = [q.node(), k.node(), v.node()];
        let both = match AttentionBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prepared) => {
                let saved = Saved {
                    inputs: [&q, &k, &v].map(|x| prepared.checkpoint(x)),
                    out: forward.out,
                    lse: forward.lse,
                    regions,
                };
                prepared.finish(saved, both)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(both),
        };
        let out = Self::float_slice(both.clone(), &along(3, 0..head_dim));
        let lse = Self::float_slice(both, &along(3, head_dim..head_dim + 1));
        AttentionPrimitives {
            out: Self::float_cast(out, dtype),
            lse: Self::float_reshape(lse, Shape::new([batch, heads, seq_q])),
        }
    }

    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        plain::linear::<Self>(x, weight, None)
    }

    fn linear_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        plain::linear::<Self>(x, weight, Some(bias))
    }

    // Where only one of the arguments has gradients.
    fn unfused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        plain::linear::<Self>(x, weight, None)
    }

    fn unfused_linear_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        plain::linear::<Self>(x, weight, Some(bias))
    }

    // What is looked up or dequantised has no gradient.
    fn dequantize_blocks(
        blocks: IntTensor<Self>,
        format: BlockFormat,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        Self::from_inner(B::dequantize_blocks(blocks, format, dtype))
    }

    fn quantized_rows(
        blocks: IntTensor<Self>,
        ids: IntTensor<Self>,
        format: BlockFormat,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        Self::from_inner(B::quantized_rows(blocks, ids, format, dtype))
    }

    // Indices have no gradient.
    fn select_rows(
        scores: FloatTensor<Self>,
        before: FloatTensor<Self>,
        choice: RowChoice,
    ) -> IntTensor<Self> {
        B::select_rows(scores.into_primitive(), before.into_primitive(), choice)
    }
}

/// Gradients of attention for q, k and v, from the scores computed anew tile by tile.
#[derive(Debug)]
struct AttentionBackward;

/// What the backward pass needs of the forward pass: nothing of `seq_q x seq_kv` elements.
#[derive(Clone, Debug)]
struct Saved<B: Backend> {
    /// q, k and v.
    inputs: [NodeId; 3],
    /// `[batch, heads, seq_q, head_dim]`.
    out: FloatTensor<B>,
    /// `[batch, heads, seq_q]`, f32.
    lse: FloatTensor<B>,
    regions: Regions,
}

impl<B: Backend> Backward<B, 3> for AttentionBackward {
    type State = Saved<B>;

    fn backward(
        self,
        ops: Ops<Saved<B>, 3>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let grad = grads.consume::<B>(&ops.node);
        let saved = ops.state;
        let inputs: [FloatTensor<B>; 3] = saved
            .inputs
            .map(|input| checkpointer.retrieve_node_output(input));
        let dtype = float_dtype(inputs[0].dtype());
        let tiles = Tiles::<B>::new(inputs, saved.out, saved.lse, grad, saved.regions);
        for (node, gradient) in ops.parents.into_iter().zip(tiles.gradients()) {
            if let Some(node) = node {
                grads.register::<B>(node.id, B::float_cast(gradient, dtype));
            }
        }
    }
}

/// The backward pass of FlashAttention-2, arXiv 2307.08691, algorithm 2, in f32.
///
/// With `p = exp(s - lse)` of a tile's scores `s`: `dv = p^T dout` and `ds = p (dout v^T - delta)`, where
/// `delta = sum(dout out) - dlse` of each row.
struct Tiles<B: Backend> {
    /// `[batch, heads, seq_q, head_dim]`, scaled by `1 / sqrt(head_dim)`.
    q: FloatTensor<B>,
    /// `[batch, kv_heads, seq_kv, head_dim]`.
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    /// `[batch, heads, seq_q, head_dim]`.
    dout: FloatTensor<B>,
    /// `[batch, heads, seq_q, 1]`.
    lse: FloatTensor<B>,
    delta: FloatTensor<B>,
    regions: Regions,
    scale: f64,
}

impl<B: Backend> Tiles<B> {
    /// `grad` is that of out and lse side by side: `[batch, heads, seq_q, head_dim + 1]`.
    fn new(
        [q, k, v]: [FloatTensor<B>; 3],
        out: FloatTensor<B>,
        lse: FloatTensor<B>,
        grad: FloatTensor<B>,
        regions: Regions,
    ) -> Self {
        let [batch, heads, seq_q, head_dim] = q.shape().dims();
        let scale = 1.0 / (head_dim as f64).sqrt();
        let dout = B::float_slice(grad.clone(), &along(3, 0..head_dim));
        let dlse = B::float_slice(grad, &along(3, head_dim..head_dim + 1));
        let products = B::float_mul(dout.clone(), wide::<B>(out));
        Self {
            q: B::float_mul_scalar(wide::<B>(q), scale.into()),
            k: wide::<B>(k),
            v: wide::<B>(v),
            dout,
            lse: B::float_reshape(lse, Shape::new([batch, heads, seq_q, 1])),
            delta: B::float_sub(B::float_sum_dim(products, 3), dlse),
            regions,
            scale,
        }
    }

    /// Those of q, k and v, f32, in the inputs' shapes.
    fn gradients(&self) -> [FloatTensor<B>; 3] {
        let [_, _, seq_q, _] = self.q.shape().dims::<4>();
        let [_, _, seq_kv, _] = self.k.shape().dims::<4>();
        let mut dq: Vec<Option<FloatTensor<B>>> = vec![None; seq_q.div_ceil(TILE)];
        let (mut dk, mut dv) = (Vec::new(), Vec::new());
        for first in (0..seq_kv).step_by(TILE) {
            let keys = first..seq_kv.min(first + TILE);
            let (mut dk_tile, mut dv_tile) = (None, None);
            for (index, dq_tile) in dq.iter_mut().enumerate() {
                let rows = index * TILE..seq_q.min((index + 1) * TILE);
                if let Some([dq, dk, dv]) = self.tile(rows, keys.clone()) {
                    add::<B>(dq_tile, dq);
                    add::<B>(&mut dk_tile, dk);
                    add::<B>(&mut dv_tile, dv);
                }
            }
            dk.push((dk_tile, keys.clone()));
            dv.push((dv_tile, keys));
        }
        let rows = (0..seq_q).step_by(TILE);
        let rows = rows.map(|first| first..seq_q.min(first + TILE));
        let dq = dq.into_iter().zip(rows).collect();
        [
            B::float_mul_scalar(joined::<B>(dq, &self.q), self.scale.into()),
            joined::<B>(dk, &self.k),
            joined::<B>(dv, &self.v),
        ]
    }

    /// A tile's share of the gradients of its rows and keys; `None` where no row sees any of the keys.
    fn tile(&self, rows: Range<usize>, keys: Range<usize>) -> Option<[FloatTensor<B>; 3]> {
        let [batch, heads, seq_q, head_dim] = self.q.shape().dims();
        let [_, kv_heads, seq_kv, _] = self.k.shape().dims();
        let visible: Vec<_> = rows
            .clone()
            .map(|row| {
                let seen = self.regions.visible_keys(row, seq_q, seq_kv);
                let start = seen.start.clamp(keys.start, keys.end);
                start..seen.end.clamp(start, keys.end)
            })
            .collect();
        if visible.iter().all(|seen| seen.is_empty()) {
            return None;
        }
        let (count, width) = (rows.len(), keys.len());
        // The heads of a group share their keys: they are rows of one matrix.
        let group = heads / kv_heads;
        let grouped = |x: FloatTensor<B>, last| {
            B::float_reshape(x, Shape::new([batch, kv_heads, group * count, last]))
        };
        let of_rows = |x: &FloatTensor<B>| B::float_slice(x.clone(), &along(2, rows.clone()));
        let of_keys = |x: &FloatTensor<B>| B::float_slice(x.clone(), &along(2, keys.clone()));
        let (q, dout) = (
            grouped(of_rows(&self.q), head_dim),
            grouped(of_rows(&self.dout), head_dim),
        );
        let (lse, delta) = (
            grouped(of_rows(&self.lse), 1),
            grouped(of_rows(&self.delta), 1),
        );
        let (k, v) = (of_keys(&self.k), of_keys(&self.v));

        let scores = B::float_matmul(q.clone(), B::float_swap_dims(k.clone(), 2, 3));
        let mut p = B::float_exp(B::float_sub(scores, lse));
        let dp = B::float_matmul(dout.clone(), B::float_swap_dims(v, 2, 3));
        let mut ds = B::float_sub(dp, delta);
        // Of rows without any key lse is -inf, so that p is not a number before it is hidden.
        let by_head = Shape::new([batch, heads, count, width]);
        if let Some(mask) = hidden::<B>(&visible, keys, by_head, &p.device()) {
            let mask = B::bool_reshape(mask, p.shape());
            p = B::float_mask_fill(p, mask.clone(), 0.0f32.into());
            ds = B::float_mask_fill(ds, mask, 0.0f32.into());
        }
        let ds = B::float_mul(ds, p.clone());
        let dq = B::float_reshape(
            B::float_matmul(ds.clone(), k),
            Shape::new([batch, heads, count, head_dim]),
        );
        let dk = B::float_matmul(B::float_swap_dims(ds, 2, 3), q);
        let dv = B::float_matmul(B::float_swap_dims(p, 2, 3), dout);
        Some([dq, dk, dv])
    }
}

fn add<B: Backend>(sum: &mut Option<FloatTensor<B>>, part: FloatTensor<B>) {
    *sum = Some(match sum.take() {
        Some(sum) => B::float_add(sum, part),
        None => part,
    });
}

/// The tiles of a gradient along the rows of `like`, zero where no tile was computed.
fn joined<B: Backend>(
    tiles: Vec<(Option<FloatTensor<B>>, Range<usize>)>,
    like: &FloatTensor<B>,
) -> FloatTensor<B> {
    let zeros = |rows: usize| {
        let mut shape = like.shape();
        shape[2] = rows;
        B::float_zeros(shape, &like.device(), FloatDType::F32)
    };
    match tiles.is_empty() {
        true => zeros(0),
        false => join::<B>(
            tiles
                .into_iter()
                .map(|(tile, rows)| tile.unwrap_or_else(|| zeros(rows.len())))
                .collect(),
            2,
        ),
    }
}
