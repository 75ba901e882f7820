//! Each operation once in plain backend operations: on every backend, differentiable where the backend
//! is. They are the defaults of [`Kernels`](super::extension::Kernels) and, as
//! [`reference`](super::reference), what tests compare with.

use core::ops::Range;

use burn::backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata, get_or_init_device_settings};
use burn::tensor::{DType, FloatDType, IntDType, Shape, Slice, TensorData};

use super::extension::{AttentionPrimitives, Kernels};
use super::{BlockFormat, Regions, q8_0};

/// Scores held at a time by [`attention`]: 64 MiB in f32.
const SCORE_BUDGET: usize = 16 << 20;

/// `(out, lse)` of attention in tiles of rows, each against the keys that any of its rows sees. A value that one row of
/// a tile sees is multiplied by a weight of zero in the others, so it has to be finite.
pub(super) fn attention<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    regions: Regions,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let dtype = float_dtype(q.dtype());
    let device = q.device();
    let [batch, heads, seq_q, head_dim] = q.shape().dims();
    let seq_kv = k.shape()[2];
    let k = wide::<B>(k);
    let v = wide::<B>(v);
    let row_scores = batch.saturating_mul(heads).saturating_mul(seq_kv);
    let tile = (SCORE_BUDGET / row_scores.max(1)).clamp(1, seq_q.max(1));

    let (mut outs, mut lses) = (Vec::new(), Vec::new());
    let mut start = 0;
    while start < seq_q {
        // Rows without any key come first, and have a tile of their own.
        let visible = |row| regions.visible_keys(row, seq_q, seq_kv);
        let blind = visible(start).is_empty();
        let mut end = start + 1;
        while end < seq_q && end < start + tile && visible(end).is_empty() == blind {
            end += 1;
        }
        if blind {
            let rows = end - start;
            outs.push(B::float_full(
                Shape::new([batch, heads, rows, head_dim]),
                0.0f32.into(),
                &device,
                FloatDType::F32,
            ));
            lses.push(B::float_full(
                Shape::new([batch, heads, rows]),
                f32::NEG_INFINITY.into(),
                &device,
                FloatDType::F32,
            ));
        } else {
            let (out, lse) = attend_rows::<B>(&q, &k, &v, regions, start..end);
            outs.push(out);
            lses.push(lse);
        }
        start = end;
    }
    if outs.is_empty() {
        let empty = |shape| B::float_zeros(shape, &device, FloatDType::F32);
        outs.push(empty(Shape::new([batch, heads, 0, head_dim])));
        lses.push(empty(Shape::new([batch, heads, 0])));
    }
    (as_dtype::<B>(join::<B>(outs, 2), dtype), join::<B>(lses, 2))
}

/// One tile of rows, all of which see a key.
fn attend_rows<B: Backend>(
    q: &FloatTensor<B>,
    k: &FloatTensor<B>,
    v: &FloatTensor<B>,
    regions: Regions,
    rows: Range<usize>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let [batch, heads, seq_q, head_dim] = q.shape().dims();
    let [_, kv_heads, seq_kv, _] = k.shape().dims();
    let visible: Vec<_> = rows
        .clone()
        .map(|row| regions.visible_keys(row, seq_q, seq_kv))
        .collect();
    let first = visible.iter().map(|keys| keys.start).min().unwrap_or(0);
    let last = visible.iter().map(|keys| keys.end).max().unwrap_or(0);
    let (count, keys) = (rows.len(), last - first);

    // The heads of a group stand side by side, so a reshape shares each key head among them.
    let grouped = Shape::new([batch, kv_heads, heads / kv_heads * count, head_dim]);
    let q = B::float_slice(q.clone(), &along(2, rows));
    let q = B::float_reshape(wide::<B>(q), grouped);
    let q = B::float_mul_scalar(q, (1.0 / (head_dim as f64).sqrt()).into());
    let k = B::float_slice(k.clone(), &along(2, first..last));
    let v = B::float_slice(v.clone(), &along(2, first..last));
    let scores = B::float_matmul(q, B::float_swap_dims(k, 2, 3));
    let scores = B::float_reshape(scores, Shape::new([batch, heads, count, keys]));
    let scores = match hidden::<B>(&visible, first..last, scores.shape(), &scores.device()) {
        Some(mask) => B::float_mask_fill(scores, mask, f32::NEG_INFINITY.into()),
        None => scores,
    };
    let top = B::float_max_dim(scores.clone(), 3);
    let weights = B::float_exp(B::float_sub(scores, top.clone()));
    let total = B::float_sum_dim(weights.clone(), 3);
    let lse = B::float_add(top, B::float_log(total.clone()));
    let grouped = Shape::new([batch, kv_heads, heads / kv_heads * count, keys]);
    let out = B::float_matmul(B::float_reshape(weights, grouped), v);
    let out = B::float_reshape(out, Shape::new([batch, heads, count, head_dim]));
    (
        B::float_div(out, total),
        B::float_reshape(lse, Shape::new([batch, heads, count])),
    )
}

/// True where a row does not see a key, expanded to `scores`, `[batch, heads, rows, keys]`; `None` when every
/// row sees all.
pub(super) fn hidden<B: Backend>(
    visible: &[Range<usize>],
    keys: Range<usize>,
    scores: Shape,
    device: &B::Device,
) -> Option<BoolTensor<B>> {
    if visible.iter().all(|seen| *seen == keys) {
        return None;
    }
    let settings = get_or_init_device_settings::<B>(device);
    let bounds = |bound: fn(&Range<usize>) -> usize| {
        let values: Vec<i32> = visible.iter().map(|seen| bound(seen) as i32).collect();
        let data = burn::tensor::TensorData::new(values, [visible.len(), 1]);
        B::int_from_data(data.convert_dtype(settings.int_dtype.into()), device)
    };
    let shape = Shape::new([visible.len(), keys.len()]);
    let positions = B::int_arange(
        keys.start as i64..keys.end as i64,
        device,
        settings.int_dtype,
    );
    let positions = B::int_reshape(positions, Shape::new([1, keys.len()]));
    let positions = B::int_expand(positions, shape.clone());
    let start = B::int_expand(bounds(|seen| seen.start), shape.clone());
    let end = B::int_expand(bounds(|seen| seen.end), shape.clone());
    let before = B::int_lower(positions.clone(), start, settings.bool_dtype);
    let after = B::int_greater_equal(positions, end, settings.bool_dtype);
    let mask = B::bool_or(before, after);
    let mask = B::bool_reshape(mask, Shape::new([1, 1, visible.len(), keys.len()]));
    Some(B::bool_expand(mask, scores))
}

/// `rows` rows from `start` on of every head.
pub(super) fn some_rows<B: Backend>(
    x: FloatTensor<B>,
    start: usize,
    rows: usize,
) -> FloatTensor<B> {
    B::float_slice(x, &along(2, start..start + rows))
}

/// `x weight + bias`, computed in f32 and rounded once, to the dtype of `x`.
pub(super) fn linear<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    let dtype = float_dtype(x.dtype());
    as_dtype::<B>(product::<B>(wide::<B>(x), weight, bias), dtype)
}

/// `x weight + bias` in the dtype of `x`: for f16 and bf16 the product is rounded before the bias is
/// added, and how precisely it is summed depends on the backend.
pub(super) fn product<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
) -> FloatTensor<B> {
    let dtype = float_dtype(x.dtype());
    let mut shape = x.shape();
    let rank = shape.num_dims();
    let [d_input, d_output] = weight.shape().dims();
    let rows = shape.iter().take(rank - 1).product();
    let x = B::float_reshape(x, Shape::new([rows, d_input]));
    let mut out = B::float_matmul(x, as_dtype::<B>(weight, dtype));
    if let Some(bias) = bias {
        let bias = B::float_reshape(as_dtype::<B>(bias, dtype), Shape::new([1, d_output]));
        out = B::float_add(out, bias);
    }
    shape[rank - 1] = d_output;
    B::float_reshape(out, shape)
}

/// What blocks `[rows, row_bytes]` stand for, by way of the host.
pub(super) fn dequantize<B: Backend>(
    blocks: IntTensor<B>,
    format: BlockFormat,
    dtype: FloatDType,
) -> FloatTensor<B> {
    let [rows, row_bytes] = blocks.shape().dims();
    let width = format.row_elements(row_bytes).unwrap_or(0);
    let device = blocks.device();
    let bytes = read_int::<B>(blocks).convert::<u8>();
    let mut values = vec![0f32; rows * width];
    format.dequantize(bytes.as_bytes(), &mut values);
    let data = TensorData::new(values, [rows, width]);
    B::float_from_data(data.convert_dtype(dtype.into()), &device)
}

/// Rows as blocks of Q8_0.
pub(super) fn quantize_rows<B: Backend>(x: FloatTensor<B>) -> IntTensor<B> {
    let mut shape: Vec<usize> = x.shape().iter().copied().collect();
    let device = x.device();
    let data = burn::tensor::try_read_sync(B::float_into_data(x));
    let values = data.and_then(Result::ok).map(|data| data.convert::<f32>());
    let values = values.map_or_else(Vec::new, |data| data.iter::<f32>().collect());
    let blocks = values.as_chunks::<32>().0;
    let mut bytes = vec![[0u8; 34]; blocks.len()];
    for (x, block) in blocks.iter().zip(&mut bytes) {
        q8_0(x, block);
    }
    if let Some(last) = shape.last_mut() {
        *last = BlockFormat::Q8_0.row_bytes(*last).unwrap_or(0);
    }
    B::int_from_data(TensorData::new(bytes.concat(), shape), &device)
}

/// Attention over what the blocks stand for, in the dtype of `q`.
pub(super) fn quantized_attention<B: Kernels>(
    q: FloatTensor<B>,
    k: IntTensor<B>,
    v: IntTensor<B>,
    regions: Regions,
) -> AttentionPrimitives<B> {
    let dtype = float_dtype(q.dtype());
    let head_dim = q.shape()[3];
    let floats = |blocks: IntTensor<B>| {
        let [batch, heads, rows, bytes] = blocks.shape().dims();
        let blocks = B::int_reshape(blocks, Shape::new([batch * heads * rows, bytes]));
        let floats = B::dequantize_blocks(blocks, BlockFormat::Q8_0, dtype);
        B::float_reshape(floats, Shape::new([batch, heads, rows, head_dim]))
    };
    <B as Kernels>::attention(q, floats(k), floats(v), regions)
}

/// A tensor's data; nothing where the device fails, which it then says at the next operation too.
fn read_int<B: Backend>(tensor: IntTensor<B>) -> TensorData {
    let data = burn::tensor::try_read_sync(B::int_into_data(tensor));
    let data = data.and_then(Result::ok);
    data.unwrap_or_else(|| TensorData::new(Vec::<i32>::new(), [0]))
}

/// Indices of rows up to the last.
pub(super) fn row_ids<B: Backend>(ids: IntTensor<B>, last: usize) -> Vec<usize> {
    let ids = read_int::<B>(ids);
    ids.iter::<i64>()
        .map(|id| usize::try_from(id).unwrap_or(last).min(last))
        .collect()
}

/// `x weight + bias` with what the blocks stand for in the dtype of `x`.
pub(super) fn quantized_linear<B: Kernels>(
    x: FloatTensor<B>,
    blocks: IntTensor<B>,
    bias: Option<FloatTensor<B>>,
    format: BlockFormat,
) -> FloatTensor<B> {
    let weight = B::dequantize_blocks(blocks, format, float_dtype(x.dtype()));
    product::<B>(x, B::float_swap_dims(weight, 0, 1), bias)
}

/// Rows of what the blocks stand for.
pub(super) fn quantized_rows<B: Kernels>(
    blocks: IntTensor<B>,
    ids: IntTensor<B>,
    format: BlockFormat,
    dtype: FloatDType,
) -> FloatTensor<B> {
    let last = blocks.shape()[0].saturating_sub(1) as i64;
    let ids = B::int_clamp(ids, 0.into(), last.into());
    B::float_select(B::dequantize_blocks(blocks, format, dtype), 0, ids)
}

/// Root mean square normalisation in f32.
pub(super) fn rms_norm<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    eps: f64,
) -> FloatTensor<B> {
    let dtype = float_dtype(x.dtype());
    let rank = x.shape().num_dims();
    let mut broadcast = Shape::new([1; 1]);
    for _ in 1..rank {
        broadcast.push(1);
    }
    broadcast[rank - 1] = gamma.shape()[0];
    let x = wide::<B>(x);
    let mean = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), rank - 1);
    let scaled = B::float_div(x, B::float_sqrt(B::float_add_scalar(mean, eps.into())));
    let gamma = B::float_reshape(wide::<B>(gamma), broadcast);
    as_dtype::<B>(B::float_mul(scaled, gamma), dtype)
}

/// Attention over the keys of two parts, in f32.
pub(super) fn merge<B: Backend>(
    (a, a_lse): (FloatTensor<B>, FloatTensor<B>),
    (b, b_lse): (FloatTensor<B>, FloatTensor<B>),
) -> (FloatTensor<B>, FloatTensor<B>) {
    // The larger of both: where neither part has keys, the shift is a finite number, since -inf minus -inf is NaN.
    let below = B::float_lower(
        a_lse.clone(),
        b_lse.clone(),
        get_or_init_device_settings::<B>(&a_lse.device()).bool_dtype,
    );
    let largest = B::float_mask_where(a_lse.clone(), below, b_lse.clone());
    let shift = B::float_clamp_min(largest, f32::MIN.into());
    let weight = |lse| B::float_exp(B::float_sub(lse, shift.clone()));
    let (a_weight, b_weight) = (weight(a_lse), weight(b_lse));
    let total = B::float_add(a_weight.clone(), b_weight.clone());
    // At least one weight is 1 wherever there are keys, so this changes only rows without any.
    let divisor = B::float_clamp_min(total.clone(), f32::MIN_POSITIVE.into());
    let [batch, heads, rows] = total.shape().dims();
    let share = |out, weight| {
        let share = B::float_div(weight, divisor.clone());
        let share = B::float_reshape(share, Shape::new([batch, heads, rows, 1]));
        B::float_mul(wide::<B>(out), share)
    };
    let out = B::float_add(share(a, a_weight), share(b, b_weight));
    (out, B::float_add(shift, B::float_log(total)))
}

/// `silu(gate) * up` in f32.
pub(super) fn silu_mul<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    let dtype = float_dtype(gate.dtype());
    let gate = wide::<B>(gate);
    let up = wide::<B>(up);
    let silu = B::float_mul(gate.clone(), B::sigmoid(gate));
    as_dtype::<B>(B::float_mul(silu, up), dtype)
}

/// Half-split rotation in f32.
pub(super) fn rotate<B: Backend>(
    x: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
    heads: usize,
) -> FloatTensor<B> {
    let dtype = float_dtype(x.dtype());
    let [batch, seq, width] = x.shape().dims();
    let half = width / heads / 2;
    let x = wide::<B>(x);
    let x = B::float_reshape(x, Shape::new([batch, seq, heads, 2 * half]));
    let x = B::float_swap_dims(x, 1, 2);
    let first = B::float_slice(x.clone(), &along(3, 0..half));
    let second = B::float_slice(x, &along(3, half..2 * half));
    let table = Shape::new([1, 1, seq, half]);
    let cos = B::float_reshape(cos, table.clone());
    let sin = B::float_reshape(sin, table);
    let rotated = vec![
        B::float_sub(
            B::float_mul(first.clone(), cos.clone()),
            B::float_mul(second.clone(), sin.clone()),
        ),
        B::float_add(B::float_mul(second, cos), B::float_mul(first, sin)),
    ];
    as_dtype::<B>(B::float_cat(rotated, 3), dtype)
}

/// `silu(hidden) weight` in f32, sorted by output.
pub(super) fn silu_scores<B: Backend>(
    hidden: FloatTensor<B>,
    weight: FloatTensor<B>,
) -> FloatTensor<B> {
    let [batch, rows, width] = hidden.shape().dims();
    let outputs = weight.shape()[1];
    let hidden = wide::<B>(hidden);
    let hidden = B::float_mul(hidden.clone(), B::sigmoid(hidden));
    let hidden = B::float_reshape(hidden, Shape::new([batch * rows, width]));
    let scores = B::float_matmul(hidden, wide::<B>(weight));
    let scores = B::float_reshape(scores, Shape::new([batch, rows, outputs]));
    B::float_swap_dims(scores, 1, 2)
}

/// The mean over the third dimension, in f32.
pub(super) fn mean_rows<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let [batch, heads, _, width] = x.shape().dims();
    let mean = B::float_mean_dim(wide::<B>(x), 2);
    B::float_reshape(mean, Shape::new([batch, heads, width]))
}

/// A product of each row with its head's query, in f32.
pub(super) fn query_scores<B: Backend>(
    keys: FloatTensor<B>,
    query: FloatTensor<B>,
    scale: f64,
) -> FloatTensor<B> {
    let [batch, heads, rows, width] = keys.shape().dims();
    let column = B::float_reshape(query, Shape::new([batch, heads, width, 1]));
    let scores = B::float_matmul(wide::<B>(keys), column);
    let scores = B::float_reshape(scores, Shape::new([batch, heads, rows]));
    B::float_mul_scalar(scores, scale.into())
}

/// Whether some element is not finite: 0 times an element is 0, or else not a number.
pub(super) fn not_finite<B: Backend>(x: FloatTensor<B>) -> IntTensor<B> {
    let device = x.device();
    let settings = get_or_init_device_settings::<B>(&device);
    let sum = B::float_sum(B::float_mul_scalar(x, 0.0.into()));
    let broken = B::float_not_equal_elem(sum, 0.0.into(), settings.bool_dtype);
    B::bool_into_int(broken, IntDType::I32)
}

/// The named rows of keys, then of values.
pub(super) fn gather_rows<B: Backend>(
    keys: FloatTensor<B>,
    values: FloatTensor<B>,
    rows: IntTensor<B>,
) -> FloatTensor<B> {
    let [batch, kv_heads, seq_kv, head_dim] = keys.shape().dims();
    let count = rows.shape()[2];
    let last = i32::try_from(seq_kv).unwrap_or(i32::MAX).saturating_sub(1);
    let rows = B::int_clamp(rows, 0.into(), last.into());
    let rows = B::int_reshape(rows, Shape::new([batch, kv_heads, count, 1]));
    let rows = B::int_expand(rows, Shape::new([batch, kv_heads, count, head_dim]));
    let parts = vec![
        B::float_gather(2, keys, rows.clone()),
        B::float_gather(2, values, rows),
    ];
    B::float_cat(parts, 0)
}

/// Slices of a rank 4 tensor that restrict one dimension.
pub(super) fn along(dim: usize, range: Range<usize>) -> [Slice; 4] {
    let mut slices = [Slice::full(); 4];
    slices[dim] = Slice::from(range);
    slices
}

pub(super) fn join<B: Backend>(mut parts: Vec<FloatTensor<B>>, dim: usize) -> FloatTensor<B> {
    match parts.len() {
        1 => parts.swap_remove(0),
        _ => B::float_cat(parts, dim),
    }
}

/// The float dtypes that the public functions accept.
pub(super) fn float_dtype(dtype: DType) -> FloatDType {
    match dtype {
        DType::F16 => FloatDType::F16,
        DType::BF16 => FloatDType::BF16,
        _ => FloatDType::F32,
    }
}

/// As f32.
pub(super) fn wide<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    as_dtype::<B>(x, FloatDType::F32)
}

/// As `dtype`. What has it is given back as it is: fusion takes any cast for an operation, which stands between a product
/// and its operands.
fn as_dtype<B: Backend>(x: FloatTensor<B>, dtype: FloatDType) -> FloatTensor<B> {
    match x.dtype() == DType::from(dtype) {
        true => x,
        false => B::float_cast(x, dtype),
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::{Autodiff, AutodiffBackend};
    use burn::tensor::{Device, Tensor};
    use burn_flex::Flex;

    use super::*;

    /// Autodiff, as fusion, records an operation for every cast that it is given.
    #[test]
    fn a_cast_that_changes_nothing_is_no_operation() {
        type Recorded = Autodiff<Flex>;
        let x = Tensor::<1>::zeros([3], &Device::flex());
        let x = Recorded::from_inner(x.try_into_primitive::<Flex>().unwrap());
        let node = x.id();
        assert_eq!(as_dtype::<Recorded>(x.clone(), FloatDType::F32).id(), node);
        assert_eq!(wide::<Recorded>(x.clone()).id(), node);
        assert_ne!(as_dtype::<Recorded>(x, FloatDType::F16).id(), node);
    }
}
