//! The launches on a device's tensors.
//!
//! `None` means that plain operations have to serve: nothing to compute.

use burn::backend::cubecl::dtype_to_elem_type;
use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::tensor::{DType, IntDType, Shape, Slice};
use burn_cubecl::CubeBackend;
#[cfg(feature = "cuda")]
use burn_cubecl::CubeDevice;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use cubecl::{calculate_cube_count_elemwise, tensor_vector_size_parallel};

use super::{
    add_shares, few_rows, gather_rows, not_finite, query_scores, rms_norm, rotate, select_rows,
    silu_mul, silu_scores,
};
use crate::kernels::RowChoice;

/// Units of the cube that serves a head, where the device allows as many; a power of two.
const SELECT_UNITS: u32 = 1024;

pub(super) fn empty(like: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape, dtype)
}

pub(super) fn address(tensors: &[&CubeTensor]) -> AddressType {
    let types = tensors.iter().map(|tensor| tensor.required_address_type());
    types.max().unwrap_or_default()
}

/// Cubes and units for one unit a piece of work.
pub(super) fn units(client: &cubecl::client::Client, work: usize) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new(client, work);
    (calculate_cube_count_elemwise(client, work, dim), dim)
}

/// The widest vectors that `tensors`, contiguous and with rows of `width` elements, can be read as.
fn vector_size(tensors: &[&CubeTensor], width: usize) -> usize {
    // Computed in f32, of which four are a vector on every device.
    vectors_of(tensors, width, 4)
}

/// [`vector_size`] of at most 16 bytes of elements of `least` bytes or more.
fn vectors_of(tensors: &[&CubeTensor], width: usize, least: usize) -> usize {
    let bytes = tensors.iter().map(|tensor| tensor.dtype.size()).max();
    let client = &tensors[0].client;
    let fits = |size: &usize| {
        let aligned = |tensor: &&CubeTensor| {
            let bytes = (size * tensor.dtype.size()) as u64;
            tensor
                .handle
                .offset_start
                .unwrap_or(0)
                .is_multiple_of(bytes)
        };
        width.is_multiple_of(*size) && tensors.iter().all(aligned)
    };
    let sizes = client.io_optimized_vector_sizes(bytes.unwrap_or(least).max(least));
    sizes.filter(fits).max().unwrap_or(1)
}

/// Rows and their width.
fn rows_of(x: &CubeTensor) -> (usize, usize) {
    let shape = x.meta.shape();
    let width = shape.iter().last().copied().unwrap_or(0);
    (shape.num_elements() / width.max(1), width)
}

/// Cubes of [`rms_norm`](rms_norm::rms_norm), one a row, and the units of each.
fn norm_cubes(client: &cubecl::client::Client, rows: usize, vectors: usize) -> (CubeCount, u32) {
    let most = client.properties().hardware.max_units_per_cube.max(1);
    let most = rms_norm::MOST_UNITS.min(1 << most.ilog2());
    let units = u32::try_from(vectors.next_power_of_two()).unwrap_or(most);
    // A grid's first dimension is limited to 65,535 cubes on some devices.
    let count = calculate_cube_count_elemwise(client, rows, CubeDim::new_1d(1));
    (count, units.clamp(most.min(32), most))
}

/// [`rms_norm`](crate::kernels::rms_norm()): `x` `[.., width]` and `gamma` `[width]`.
pub fn rms_norm(x: &CubeTensor, gamma: &CubeTensor, eps: f64) -> Option<CubeTensor> {
    let (rows, width) = rows_of(x);
    if rows * width == 0 {
        return None;
    }
    let (x, gamma) = (into_contiguous(x.clone()), into_contiguous(gamma.clone()));
    let out = empty(&x, x.meta.shape().clone(), x.dtype);
    let vector = vector_size(&[&x, &gamma, &out], width);
    let client = x.client.clone();
    let (count, units) = norm_cubes(&client, rows, width / vector);
    // SAFETY: a cube beyond the last row does nothing; shapes have been checked by the caller.
    unsafe {
        rms_norm::rms_norm::launch_unchecked(
            &client,
            count,
            CubeDim::new_1d(units),
            address(&[&x, &out]),
            vector,
            x.clone().into_buffer_arg(),
            gamma.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            rows,
            width / vector,
            eps as f32,
            units as usize,
            [dtype_to_elem_type(x.dtype), dtype_to_elem_type(gamma.dtype)],
        );
    }
    Some(out)
}

/// [`add_rms_norm`](crate::kernels::add_rms_norm()): `x + residual`, and its norm.
pub fn add_rms_norm(
    x: &CubeTensor,
    residual: &CubeTensor,
    gamma: &CubeTensor,
    eps: f64,
) -> Option<(CubeTensor, CubeTensor)> {
    let (rows, width) = rows_of(x);
    if rows * width == 0 {
        return None;
    }
    let [x, residual, gamma] = [x, residual, gamma].map(|tensor| into_contiguous(tensor.clone()));
    let [sum, out] = [(); 2].map(|()| empty(&x, x.meta.shape().clone(), x.dtype));
    let vector = vector_size(&[&x, &residual, &gamma, &sum, &out], width);
    let client = x.client.clone();
    let (count, units) = norm_cubes(&client, rows, width / vector);
    // SAFETY: a cube beyond the last row does nothing; shapes have been checked by the caller.
    unsafe {
        rms_norm::add_rms_norm::launch_unchecked(
            &client,
            count,
            CubeDim::new_1d(units),
            address(&[&x, &residual, &sum, &out]),
            vector,
            x.clone().into_buffer_arg(),
            residual.into_buffer_arg(),
            gamma.clone().into_buffer_arg(),
            sum.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            rows,
            width / vector,
            eps as f32,
            units as usize,
            [dtype_to_elem_type(x.dtype), dtype_to_elem_type(gamma.dtype)],
        );
    }
    Some((sum, out))
}

/// [`linear`](crate::kernels::linear()) of up to [`MAX_ROWS`](few_rows::MAX_ROWS) rows of `x` `[.., d_input]` by a `weight`
/// `[d_input, d_output]` that is stored as `[d_output, d_input]`. `None` for others.
pub fn few_rows(
    x: &CubeTensor,
    weight: &CubeTensor,
    bias: Option<&CubeTensor>,
) -> Option<CubeTensor> {
    let (rows, width) = rows_of(x);
    let outputs = weight.meta.shape()[1];
    let strides = weight.meta.strides();
    let (inner, pitch) = (strides[0], strides[1]);
    let stored = inner == 1 && pitch >= width && !weight.meta.is_tiled();
    if rows * width * outputs == 0 || rows > few_rows::MAX_ROWS || !stored {
        return None;
    }
    let x = into_contiguous(x.clone());
    // CUDA alone has vectors of eight.
    let least = match x.device {
        #[cfg(feature = "cuda")]
        CubeDevice::Cuda(_) => 2,
        #[allow(unreachable_patterns)]
        _ => 4,
    };
    let vector = vectors_of(&[&x, weight], width, least);
    if !pitch.is_multiple_of(vector) {
        return None;
    }
    let mut shape = x.meta.shape().clone();
    let last = shape.num_dims() - 1;
    shape[last] = outputs;
    let out = empty(&x, shape, x.dtype);
    let biased = bias.is_some();
    // A binding may not be empty: without a bias x stands in, and is not read as such.
    let bias = into_contiguous(bias.unwrap_or(&x).clone());
    let client = x.client.clone();
    let cubes = outputs.div_ceil(add_shares::GROUPS as usize * add_shares::COLUMNS);
    // A grid's first dimension is limited to 65,535 cubes on some devices.
    let count = calculate_cube_count_elemwise(&client, cubes, CubeDim::new_1d(1));
    // SAFETY: rows of the weight are limited to those that there are; shapes have been checked by the caller.
    unsafe {
        few_rows::few_rows::launch_unchecked(
            &client,
            count,
            CubeDim::new_2d(add_shares::LANES, add_shares::GROUPS),
            address(&[&x, weight, &out]),
            vector,
            x.clone().into_buffer_arg(),
            weight.clone().into_buffer_arg(),
            bias.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            width / vector,
            outputs,
            pitch / vector,
            rows,
            biased,
            [x.dtype, weight.dtype, bias.dtype].map(dtype_to_elem_type),
        );
    }
    Some(out)
}

/// [`silu_mul`](crate::kernels::silu_mul()): `gate` and `up` of one shape.
pub fn silu_mul(gate: &CubeTensor, up: &CubeTensor) -> Option<CubeTensor> {
    let elements = gate.meta.shape().num_elements();
    if elements == 0 {
        return None;
    }
    let (gate, up) = (into_contiguous(gate.clone()), into_contiguous(up.clone()));
    let out = empty(&gate, gate.meta.shape().clone(), gate.dtype);
    let vector = vector_size(&[&gate, &up, &out], elements);
    let client = gate.client.clone();
    let (count, dim) = units(&client, elements / vector);
    // SAFETY: a unit beyond the last vector does nothing; shapes have been checked by the caller.
    unsafe {
        silu_mul::silu_mul::launch_unchecked(
            &client,
            count,
            dim,
            address(&[&gate, &up, &out]),
            vector,
            gate.clone().into_buffer_arg(),
            up.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            elements / vector,
            dtype_to_elem_type(gate.dtype),
        );
    }
    Some(out)
}

/// [`rotate`](crate::kernels::rotate()): `x` `[batch, seq, heads * head_dim]` to
/// `[batch, heads, seq, head_dim]`.
pub fn rotate(
    x: &CubeTensor,
    cos: &CubeTensor,
    sin: &CubeTensor,
    heads: usize,
) -> Option<CubeTensor> {
    let [batch, seq, width] = x.meta.shape().dims();
    if batch * seq * width == 0 {
        return None;
    }
    let x = match x.meta.strides()[2] {
        1 => x.clone(),
        _ => into_contiguous(x.clone()),
    };
    let (cos, sin) = (into_contiguous(cos.clone()), into_contiguous(sin.clone()));
    let out = empty(&x, Shape::new([batch, heads, seq, width / heads]), x.dtype);
    // A vector may not cross from one half of a head to the other.
    let half = width / heads / 2;
    let aligned = |tensor: &CubeTensor, size: usize| {
        let bytes = (size * tensor.dtype.size()) as u64;
        tensor
            .handle
            .offset_start
            .unwrap_or(0)
            .is_multiple_of(bytes)
    };
    let sizes = x.client.io_optimized_vector_sizes(x.dtype.size().max(4));
    let widest = tensor_vector_size_parallel(sizes, x.meta.shape(), x.meta.strides(), 2);
    let fits = |size: &usize| {
        half.is_multiple_of(*size) && [&x, &cos, &sin].iter().all(|tensor| aligned(tensor, *size))
    };
    let vector = [widest, 4, 2].into_iter().filter(|size| *size <= widest);
    let vector = vector.into_iter().find(fits).unwrap_or(1);

    let client = x.client.clone();
    let pairs = batch * seq * heads * half / vector;
    let (count, dim) = units(&client, pairs);
    // SAFETY: a unit beyond the last pair does nothing; shapes have been checked by the caller.
    unsafe {
        rotate::rotate::launch_unchecked(
            &client,
            count,
            dim,
            address(&[&x, &out]),
            vector,
            x.clone().into_tensor_arg(),
            cos.into_buffer_arg(),
            sin.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            pairs,
            heads,
            half / vector,
            dtype_to_elem_type(x.dtype),
        );
    }
    Some(out)
}

/// [`silu_scores`](crate::kernels::silu_scores()): `hidden` `[batch, rows, width]` and `weight`
/// `[width, outputs]` to `[batch, outputs, rows]`, f32.
pub fn silu_scores(hidden: &CubeTensor, weight: &CubeTensor) -> Option<CubeTensor> {
    let [batch, rows, width] = hidden.meta.shape().dims();
    let outputs = weight.meta.shape()[1];
    if batch * rows * width * outputs == 0 {
        return None;
    }
    if outputs > silu_scores::MAX_OUTPUTS {
        // Not one product: the backend's may round its inputs, and selection compares scores.
        let starts = (0..outputs).step_by(silu_scores::MAX_OUTPUTS);
        let parts = starts.map(|start| {
            let end = outputs.min(start + silu_scores::MAX_OUTPUTS);
            let some = [Slice::from(0..width), Slice::from(start..end)];
            silu_scores(hidden, &CubeBackend::float_slice(weight.clone(), &some))
        });
        return Some(CubeBackend::float_cat(parts.collect::<Option<_>>()?, 1));
    }
    let hidden = into_contiguous(hidden.clone());
    let mut weight = weight.clone();
    weight.meta.swap(0, 1);
    let weight = into_contiguous(weight);
    let out = empty(&hidden, Shape::new([batch, outputs, rows]), DType::F32);
    let cubes = u32::try_from((batch * rows).div_ceil(silu_scores::ROWS as usize)).ok()?;
    let client = hidden.client.clone();
    // A grid's first dimension is limited to 65,535 cubes on some devices.
    let count = cubecl::calculate_cube_count_elemwise(&client, cubes as usize, CubeDim::new_1d(1));
    // SAFETY: a row beyond the last is neither read nor written; shapes have been checked by the caller.
    unsafe {
        silu_scores::silu_scores::launch_unchecked(
            &client,
            count,
            CubeDim::new_2d(silu_scores::LANES, silu_scores::ROWS),
            address(&[&hidden, &weight, &out]),
            hidden.clone().into_buffer_arg(),
            weight.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            batch * rows,
            rows,
            width,
            outputs,
            [
                dtype_to_elem_type(hidden.dtype),
                dtype_to_elem_type(weight.dtype),
            ],
        );
    }
    Some(out)
}

/// Rows of `[batch, heads, rows, width]` as a kernel reads them where they lie: one head behind another, rows of a head
/// without gaps.
struct HeadRows {
    memory: CubeTensor,
    /// Batch entries times heads.
    heads: usize,
    rows: usize,
    width: usize,
    /// Elements from one head to the next.
    head_stride: usize,
}

impl HeadRows {
    /// Where they lie, or else a copy.
    fn new(x: &CubeTensor) -> Self {
        let [batch, heads, rows, width] = x.meta.shape().dims();
        let strides = x.meta.strides();
        let joined = strides[3] == 1 && strides[2] == width;
        let even = batch == 1 || strides[0] == heads * strides[1];
        let (memory, head_stride) = match joined && even && !x.meta.is_tiled() {
            true => (x.clone(), strides[1]),
            false => (into_contiguous(x.clone()), rows * width),
        };
        Self {
            memory,
            heads: batch * heads,
            rows,
            width,
            head_stride,
        }
    }

    /// The widest vectors of f32 that `other` and the rows can be read as.
    fn vector(&self, other: &[&CubeTensor]) -> usize {
        let all: Vec<&CubeTensor> = other.iter().copied().chain([&self.memory]).collect();
        let vector = vector_size(&all, self.width);
        match self.head_stride.is_multiple_of(vector) {
            true => vector,
            false => 1,
        }
    }
}

/// The mean over the rows of `x` `[batch, heads, rows, width]`: `[batch, heads, width]`, f32.
pub fn mean_rows(x: &CubeTensor) -> Option<CubeTensor> {
    let [batch, heads, rows, width] = x.meta.shape().dims();
    let columns = batch * heads * width;
    if columns * rows == 0 {
        return None;
    }
    let x = into_contiguous(x.clone());
    let out = empty(&x, Shape::new([batch, heads, width]), DType::F32);
    let client = x.client.clone();
    let (count, dim) = units(&client, columns);
    // SAFETY: a unit beyond the last column does nothing.
    unsafe {
        query_scores::mean_rows::launch_unchecked(
            &client,
            count,
            dim,
            address(&[&x, &out]),
            x.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            columns,
            rows,
            width,
            dtype_to_elem_type(x.dtype),
        );
    }
    Some(out)
}

/// `keys` `[batch, heads, rows, width]` by `query` `[batch, heads, width]`, f32, times `scale`: `[batch, heads, rows]`, f32.
pub fn query_scores(keys: &CubeTensor, query: &CubeTensor, scale: f64) -> Option<CubeTensor> {
    let [batch, heads, rows, width] = keys.meta.shape().dims();
    let all_rows = batch * heads * rows;
    if all_rows * width == 0 {
        return None;
    }
    let keys = HeadRows::new(keys);
    let query = into_contiguous(query.clone());
    let out = empty(&query, Shape::new([batch, heads, rows]), DType::F32);
    let vector = keys.vector(&[&query]);
    let client = query.client.clone();
    let (count, dim) = units(&client, all_rows);
    // SAFETY: a unit beyond the last row does nothing; shapes have been checked by the caller.
    unsafe {
        query_scores::query_scores::launch_unchecked(
            &client,
            count,
            dim,
            address(&[&keys.memory, &query, &out]),
            vector,
            keys.memory.clone().into_buffer_arg(),
            query.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            all_rows,
            rows,
            width / vector,
            keys.head_stride / vector,
            scale as f32,
            dtype_to_elem_type(keys.memory.dtype),
        );
    }
    Some(out)
}

/// Whether some element of `x` `[batch, heads, rows, width]` is not finite: 1 or 0, `[1]`, i32.
pub fn not_finite(x: &CubeTensor) -> Option<CubeTensor> {
    /// Elements that a unit looks at, where there are as many.
    const EACH: usize = 64;
    let x = HeadRows::new(x);
    let elements = x.rows * x.width;
    let total = x.heads * elements;
    if total == 0 {
        return None;
    }
    let client = x.memory.client.clone();
    let device = x.memory.device.clone();
    let out = CubeBackend::int_zeros(Shape::new([1]), &device, IntDType::I32);
    let work = total.div_ceil(EACH);
    let (count, dim) = units(&client, work);
    // SAFETY: a unit looks at no element beyond the last.
    unsafe {
        not_finite::not_finite::launch_unchecked(
            &client,
            count,
            dim,
            address(&[&x.memory]),
            x.memory.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            total,
            elements,
            x.head_stride,
            work,
            dtype_to_elem_type(x.memory.dtype),
        );
    }
    Some(out)
}

/// [`select_rows`](crate::kernels::select_rows()): `scores` `[batch, kv_heads, rows]` and `before`
/// `[batch, kv_heads, context]`, f32, to `[batch, kv_heads, kept]`, i32.
///
/// A cube serves a head: heads beyond the first dimension of a grid, 65,535 cubes on some devices, are launched after
/// the others.
pub fn select_rows(scores: &CubeTensor, before: &CubeTensor, choice: &RowChoice) -> CubeTensor {
    let [batch, kv_heads, rows] = scores.meta.shape().dims();
    let context = before.meta.shape()[2];
    let (selectable, kept) = (choice.selectable.len(), choice.kept());
    let out = empty(scores, Shape::new([batch, kv_heads, kept]), DType::I32);
    if batch * kv_heads * kept == 0 {
        return out;
    }
    let client = scores.client.clone();
    let most = client.properties().hardware.max_cube_count.0.max(1);
    let heads = match u32::try_from(batch * kv_heads) {
        Ok(heads) if heads <= most => heads,
        _ => return select_in_parts(scores, before, choice, most as usize),
    };
    let scores = into_contiguous(scores.clone());
    // A binding may not be empty: without rows before, the scores stand in, and are not read as such.
    let before = match context {
        0 => scores.clone(),
        _ => into_contiguous(before.clone()),
    };
    let ordered = Shape::new([batch * kv_heads, selectable]);
    let ordered = empty(&scores, ordered, DType::U32);
    let (count, dim) = units(&client, batch * kv_heads * selectable);
    let most = client.properties().hardware.max_units_per_cube;
    let head_units = SELECT_UNITS.min(1 << most.max(1).ilog2());
    let address = address(&[&scores, &before, &ordered]);
    // A window reaches no further than there are scores: positions fit the address type.
    let reach = (choice.window / 2).min(context + rows);
    // SAFETY: rows stay within their tensors by the caller's checks; the numbers of a head are at least
    // as many as the rows kept of it, so that every place of the output is written once.
    unsafe {
        select_rows::pool_scores::launch_unchecked(
            &client,
            count,
            dim,
            address,
            scores.into_buffer_arg(),
            before.into_buffer_arg(),
            ordered.clone().into_buffer_arg(),
            batch * kv_heads * selectable,
            rows,
            context,
            choice.selectable.start,
            selectable,
            reach,
        );
        select_rows::select_rows::launch_unchecked(
            &client,
            CubeCount::new_1d(heads),
            CubeDim::new_1d(head_units),
            address,
            ordered.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            selectable,
            kept,
            choice.selectable.start,
            head_units as usize,
        );
    }
    out
}

/// [`select_rows()`] of at most `most` heads at a time.
fn select_in_parts(
    scores: &CubeTensor,
    before: &CubeTensor,
    choice: &RowChoice,
    most: usize,
) -> CubeTensor {
    let [batch, kv_heads, rows] = scores.meta.shape().dims();
    let context = before.meta.shape()[2];
    let heads = batch * kv_heads;
    let in_one = |tensor: &CubeTensor, width: usize| {
        CubeBackend::float_reshape(tensor.clone(), Shape::new([1, heads, width]))
    };
    let scores = in_one(scores, rows);
    // Without rows before it is not read.
    let before = match context {
        0 => before.clone(),
        _ => in_one(before, context),
    };
    let parts = (0..heads).step_by(most);
    let parts: Vec<CubeTensor> = parts
        .map(|first| {
            let end = heads.min(first + most);
            let some = [Slice::full(), Slice::from(first..end), Slice::full()];
            let part = |tensor: &CubeTensor| CubeBackend::float_slice(tensor.clone(), &some);
            match context {
                0 => select_rows(&part(&scores), &before, choice),
                _ => select_rows(&part(&scores), &part(&before), choice),
            }
        })
        .collect();
    let kept = CubeBackend::int_cat(parts, 1);
    CubeBackend::int_reshape(kept, Shape::new([batch, kv_heads, choice.kept()]))
}

/// [`gather_rows`](crate::kernels::gather_rows()): `keys`, `values` `[batch, kv_heads, seq_kv, head_dim]`
/// and `rows` `[batch, kv_heads, count]`, i32, to `[2 * batch, kv_heads, count, head_dim]`.
pub fn gather_rows(keys: &CubeTensor, values: &CubeTensor, rows: &CubeTensor) -> CubeTensor {
    let [batch, kv_heads, _, head_dim] = keys.meta.shape().dims();
    let count = rows.meta.shape()[2];
    let shape = Shape::new([2 * batch, kv_heads, count, head_dim]);
    let out = empty(keys, shape, keys.dtype);
    let work = 2 * batch * kv_heads * count * head_dim;
    if work == 0 {
        return out;
    }
    let rows = into_contiguous(rows.clone());
    let client = keys.client.clone();
    let (cubes, dim) = units(&client, work);
    // SAFETY: rows are clamped to the keys' own, and a unit beyond the output does nothing.
    unsafe {
        gather_rows::gather_rows::launch_unchecked(
            &client,
            cubes,
            dim,
            address(&[keys, values, &out]),
            keys.clone().into_tensor_arg(),
            values.clone().into_tensor_arg(),
            rows.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            count,
            dtype_to_elem_type(keys.dtype),
        );
    }
    out
}
