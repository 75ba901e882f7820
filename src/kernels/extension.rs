//! The operations as one extension of Burn's backends.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, DispatchDevice, ExtensionType, backend_extension};
use burn::tensor::{Device, FloatDType};
#[cfg(any(feature = "wgpu", feature = "cuda"))]
use burn::{
    backend::fusion::custom::TensorSpec,
    tensor::{DType, Shape},
};

use super::{BlockFormat, KernelError, Regions, RowChoice, plain};
#[cfg(any(feature = "wgpu", feature = "cuda"))]
use super::{cube, fused, portable};
#[cfg(feature = "cuda")]
use super::{cublaslt, tensor_core};

/// Attention's two results as primitives of a backend.
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(any(feature = "wgpu", feature = "cuda")))]
pub struct AttentionPrimitives<B: Backend> {
    /// `[batch, heads, seq_q, head_dim]`.
    pub out: FloatTensor<B>,
    /// `[batch, heads, seq_q]`, f32.
    pub lse: FloatTensor<B>,
}

/// A sum and its norm as primitives of a backend.
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(any(feature = "wgpu", feature = "cuda")))]
pub struct AddedPrimitives<B: Backend> {
    /// As the operands.
    pub sum: FloatTensor<B>,
    /// As the operands.
    pub normed: FloatTensor<B>,
}

/// The operations of [`kernels`](super) on a backend. The defaults are [`plain`]'s; `Flex` replaces all
/// but one of them, CubeCL's runtimes those that it has a kernel for, `Autodiff` in [`autodiff`].
/// Arguments have been checked by the functions of [`kernels`](super).
#[backend_extension(
    Flex,
    Cube: cfg(any(feature = "wgpu", feature = "cuda")),
    Fusion: cfg(any(feature = "wgpu", feature = "cuda")),
    Autodiff
)]
pub trait Kernels: Backend {
    /// See [`attention`](super::attention()).
    // Fusion passes the call on to the backend beneath, which may have a kernel for it.
    #[fusion(meta = attention_meta)]
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        regions: Regions,
    ) -> AttentionPrimitives<Self> {
        let (out, lse) = plain::attention::<Self>(q, k, v, regions);
        AttentionPrimitives { out, lse }
    }

    /// See [`quantized_attention`](super::quantized_attention()).
    #[fusion(default)]
    fn quantized_attention(
        q: FloatTensor<Self>,
        k: IntTensor<Self>,
        v: IntTensor<Self>,
        regions: Regions,
    ) -> AttentionPrimitives<Self> {
        plain::quantized_attention::<Self>(q, k, v, regions)
    }

    /// See [`quantize_rows`](super::quantize_rows()).
    #[fusion(default)]
    fn quantize_rows(x: FloatTensor<Self>) -> IntTensor<Self> {
        plain::quantize_rows::<Self>(x)
    }

    /// See [`first_rows`](super::first_rows()); here `rows` rows from any `start` on.
    #[fusion(meta = some_rows_meta)]
    fn some_rows(x: FloatTensor<Self>, start: usize, rows: usize) -> FloatTensor<Self> {
        plain::some_rows::<Self>(x, start, rows)
    }

    /// The mean over the rows of `x` `[batch, heads, rows, width]`: `[batch, heads, width]`, f32.
    #[fusion(dtype = DType::F32, shape = mean_shape(x))]
    fn mean_rows(x: FloatTensor<Self>) -> FloatTensor<Self> {
        plain::mean_rows::<Self>(x)
    }

    /// `keys` `[batch, heads, rows, width]` by `query` `[batch, heads, width]`, f32, times `scale`: `[batch, heads, rows]`,
    /// f32.
    #[fusion(dtype = DType::F32, shape = rows_shape(keys))]
    fn query_scores(
        keys: FloatTensor<Self>,
        query: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        plain::query_scores::<Self>(keys, query, scale)
    }

    /// Whether some element of `x` `[batch, heads, rows, width]` is infinite or not a number: 1 or 0, `[1]`, i32.
    #[fusion(dtype = DType::I32, shape = one_element(x))]
    fn not_finite(x: FloatTensor<Self>) -> IntTensor<Self> {
        plain::not_finite::<Self>(x)
    }

    /// See [`linear`](super::linear()), without bias.
    // CubeCL sums products of f16 and bf16 in f32, on tensor cores.
    #[fusion(default)]
    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        plain::product::<Self>(x, weight, None)
    }

    /// See [`linear`](super::linear()), with bias.
    #[fusion(default)]
    fn linear_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        plain::product::<Self>(x, weight, Some(bias))
    }

    /// [`linear`](Self::linear) as one operation, which fusion passes on: few rows are for a kernel of ours, others for
    /// cuBLASLt, and Burn's product serves where neither does.
    // Not in place of `linear`: fusion sees no product here to put operations behind.
    #[fusion(meta = linear_meta)]
    fn unfused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        plain::product::<Self>(x, weight, None)
    }

    /// [`linear_bias`](Self::linear_bias) likewise.
    #[fusion(meta = linear_bias_meta)]
    fn unfused_linear_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        plain::product::<Self>(x, weight, Some(bias))
    }

    /// See [`dequantize`](super::dequantize()).
    #[fusion(meta = dequantized_meta)]
    fn dequantize_blocks(
        blocks: IntTensor<Self>,
        format: BlockFormat,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        plain::dequantize::<Self>(blocks, format, dtype)
    }

    /// See [`quantized_linear`](super::quantized_linear()), without bias.
    #[fusion(dtype = x, shape = product_shape(x, blocks))]
    fn quantized_linear(
        x: FloatTensor<Self>,
        blocks: IntTensor<Self>,
        format: BlockFormat,
    ) -> FloatTensor<Self> {
        plain::quantized_linear::<Self>(x, blocks, None, format)
    }

    /// See [`quantized_linear`](super::quantized_linear()), with bias.
    #[fusion(dtype = x, shape = product_shape(x, blocks))]
    fn quantized_linear_bias(
        x: FloatTensor<Self>,
        blocks: IntTensor<Self>,
        bias: FloatTensor<Self>,
        format: BlockFormat,
    ) -> FloatTensor<Self> {
        plain::quantized_linear::<Self>(x, blocks, Some(bias), format)
    }

    /// See [`quantized_rows`](super::quantized_rows()).
    #[fusion(meta = named_meta)]
    fn quantized_rows(
        blocks: IntTensor<Self>,
        ids: IntTensor<Self>,
        format: BlockFormat,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        plain::quantized_rows::<Self>(blocks, ids, format, dtype)
    }

    /// See [`rms_norm`](super::rms_norm()).
    #[fusion(dtype = x, shape = x)]
    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        plain::rms_norm::<Self>(x, gamma, eps)
    }

    /// See [`add_rms_norm`](super::add_rms_norm()).
    #[fusion(meta = added_meta)]
    fn add_rms_norm(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        eps: f64,
    ) -> AddedPrimitives<Self> {
        let sum = Self::float_add(x, residual);
        let normed = Self::rms_norm(sum.clone(), gamma, eps);
        AddedPrimitives { sum, normed }
    }

    /// The sum of tensors of one shape and dtype.
    #[fusion(default)]
    fn add(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_add(x, y)
    }

    /// Two parts of [`merge`](super::merge()): `out` in f32, `other_out` in any dtype.
    #[fusion(default)]
    fn merge(
        out: FloatTensor<Self>,
        lse: FloatTensor<Self>,
        other_out: FloatTensor<Self>,
        other_lse: FloatTensor<Self>,
    ) -> AttentionPrimitives<Self> {
        let (out, lse) = plain::merge::<Self>((out, lse), (other_out, other_lse));
        AttentionPrimitives { out, lse }
    }

    /// See [`silu_mul`](super::silu_mul()).
    #[fusion(dtype = gate, shape = gate)]
    fn silu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        plain::silu_mul::<Self>(gate, up)
    }

    /// See [`rotate`](super::rotate()).
    #[fusion(dtype = x, shape = rotated_shape(x, heads))]
    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        plain::rotate::<Self>(x, cos, sin, heads)
    }

    /// See [`silu_scores`](super::silu_scores()).
    #[fusion(dtype = DType::F32, shape = score_shape(hidden, weight))]
    fn silu_scores(hidden: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        plain::silu_scores::<Self>(hidden, weight)
    }

    /// See [`select_rows`](super::select_rows()); `before` may be empty.
    // Plain operations have no selection that defines the order of ties.
    #[fusion(dtype = DType::I32, shape = selected_shape(scores, choice))]
    fn select_rows(
        scores: FloatTensor<Self>,
        before: FloatTensor<Self>,
        choice: RowChoice,
    ) -> IntTensor<Self>;

    /// See [`gather_rows`](super::gather_rows()).
    #[fusion(dtype = keys, shape = gathered_shape(keys, rows))]
    fn gather_rows(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        rows: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        plain::gather_rows::<Self>(keys, values, rows)
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn rotated_shape(x: &Shape, heads: &usize) -> Shape {
    Shape::new([x[0], *heads, x[1], x[2] / heads])
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn score_shape(hidden: &Shape, weight: &Shape) -> Shape {
    Shape::new([hidden[0], weight[1], hidden[1]])
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn selected_shape(scores: &Shape, choice: &RowChoice) -> Shape {
    Shape::new([scores[0], scores[1], choice.kept()])
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn gathered_shape(keys: &Shape, rows: &Shape) -> Shape {
    Shape::new([2 * keys[0], keys[1], rows[2], keys[3]])
}

/// Of [`Kernels::mean_rows`].
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn mean_shape(x: &Shape) -> Shape {
    Shape::new([x[0], x[1], x[3]])
}

/// Of [`Kernels::query_scores`].
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn rows_shape(keys: &Shape) -> Shape {
    Shape::new([keys[0], keys[1], keys[2]])
}

/// Of [`Kernels::not_finite`].
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn one_element(_x: &Shape) -> Shape {
    Shape::new([1])
}

/// The rows of `x`, each as long as there are rows of blocks.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn product_shape(x: &Shape, blocks: &Shape) -> Shape {
    let mut shape = x.clone();
    let last = shape.num_dims() - 1;
    shape[last] = blocks[0];
    shape
}

/// The output of [`Kernels::dequantize_blocks`].
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn dequantized_meta(blocks: &TensorSpec, format: &BlockFormat, dtype: &FloatDType) -> TensorSpec {
    let [rows, row_bytes] = blocks.shape.dims();
    let width = format.row_elements(row_bytes).unwrap_or(0);
    TensorSpec::new(Shape::new([rows, width]), (*dtype).into())
}

/// The output of [`Kernels::quantized_rows`].
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn named_meta(
    blocks: &TensorSpec,
    ids: &TensorSpec,
    format: &BlockFormat,
    dtype: &FloatDType,
) -> TensorSpec {
    let mut named = dequantized_meta(blocks, format, dtype);
    named.shape[0] = ids.shape[0];
    named
}

/// The outputs of [`Kernels::attention`], for fusion to plan with.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn attention_meta(
    q: &TensorSpec,
    _k: &TensorSpec,
    _v: &TensorSpec,
    _regions: &Regions,
) -> AttentionPrimitivesMetadata {
    let [batch, heads, seq_q, _] = q.shape.dims();
    AttentionPrimitivesMetadata {
        out: q.clone(),
        lse: TensorSpec::new(Shape::new([batch, heads, seq_q]), DType::F32),
    }
}

/// The output of [`Kernels::unfused_linear`].
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn linear_meta(x: &TensorSpec, weight: &TensorSpec) -> TensorSpec {
    let mut shape = x.shape.clone();
    let last = shape.num_dims() - 1;
    shape[last] = weight.shape[1];
    TensorSpec::new(shape, x.dtype)
}

/// The output of [`Kernels::unfused_linear_bias`].
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn linear_bias_meta(x: &TensorSpec, weight: &TensorSpec, _bias: &TensorSpec) -> TensorSpec {
    linear_meta(x, weight)
}

/// The outputs of [`Kernels::add_rms_norm`].
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn added_meta(
    x: &TensorSpec,
    _residual: &TensorSpec,
    _gamma: &TensorSpec,
    _eps: &f64,
) -> AddedPrimitivesMetadata {
    AddedPrimitivesMetadata {
        sum: x.clone(),
        normed: x.clone(),
    }
}

/// The output of [`Kernels::some_rows`].
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn some_rows_meta(x: &TensorSpec, _start: &usize, rows: &usize) -> TensorSpec {
    let [batch, heads, _, head_dim] = x.shape.dims();
    TensorSpec::new(Shape::new([batch, heads, *rows, head_dim]), x.dtype)
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl Kernels for burn_cubecl::CubeBackend {
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        regions: Regions,
    ) -> AttentionPrimitives<Self> {
        #[cfg(feature = "cuda")]
        if let Some((out, lse)) = tensor_core::launch::attention(&q, &k, &v, regions) {
            return AttentionPrimitives { out, lse };
        }
        let attended = portable::launch::attention(&q, &k, &v, regions);
        let (out, lse) = attended.unwrap_or_else(|| plain::attention::<Self>(q, k, v, regions));
        AttentionPrimitives { out, lse }
    }

    fn unfused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let product = few_rows_or_cublaslt(&x, &weight, None);
        product.unwrap_or_else(|| plain::product::<Self>(x, weight, None))
    }

    fn unfused_linear_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let product = few_rows_or_cublaslt(&x, &weight, Some(&bias));
        product.unwrap_or_else(|| plain::product::<Self>(x, weight, Some(bias)))
    }

    fn dequantize_blocks(
        blocks: IntTensor<Self>,
        format: BlockFormat,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        match fused::quantized::launch::dequantize(&blocks, format, dtype.into()) {
            Some(out) => out,
            None => plain::dequantize::<Self>(blocks, format, dtype),
        }
    }

    fn quantized_linear(
        x: FloatTensor<Self>,
        blocks: IntTensor<Self>,
        format: BlockFormat,
    ) -> FloatTensor<Self> {
        match fused::quantized::launch::linear(&x, &blocks, None, format) {
            Some(out) => out,
            None => plain::quantized_linear::<Self>(x, blocks, None, format),
        }
    }

    fn quantized_linear_bias(
        x: FloatTensor<Self>,
        blocks: IntTensor<Self>,
        bias: FloatTensor<Self>,
        format: BlockFormat,
    ) -> FloatTensor<Self> {
        match fused::quantized::launch::linear(&x, &blocks, Some(&bias), format) {
            Some(out) => out,
            None => plain::quantized_linear::<Self>(x, blocks, Some(bias), format),
        }
    }

    fn quantized_rows(
        blocks: IntTensor<Self>,
        ids: IntTensor<Self>,
        format: BlockFormat,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        match fused::quantized::launch::rows(&blocks, &ids, format, dtype.into()) {
            Some(out) => out,
            None => plain::quantized_rows::<Self>(blocks, ids, format, dtype),
        }
    }

    fn rms_norm(x: FloatTensor<Self>, gamma: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        match fused::launch::rms_norm(&x, &gamma, eps) {
            Some(out) => out,
            None => plain::rms_norm::<Self>(x, gamma, eps),
        }
    }

    fn add_rms_norm(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        eps: f64,
    ) -> AddedPrimitives<Self> {
        match fused::launch::add_rms_norm(&x, &residual, &gamma, eps) {
            Some((sum, normed)) => AddedPrimitives { sum, normed },
            // Nothing to compute.
            None => AddedPrimitives {
                sum: x.clone(),
                normed: x,
            },
        }
    }

    fn silu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        match fused::launch::silu_mul(&gate, &up) {
            Some(out) => out,
            None => plain::silu_mul::<Self>(gate, up),
        }
    }

    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        match fused::launch::rotate(&x, &cos, &sin, heads) {
            Some(out) => out,
            None => plain::rotate::<Self>(x, cos, sin, heads),
        }
    }

    fn silu_scores(hidden: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        match fused::launch::silu_scores(&hidden, &weight) {
            Some(scores) => scores,
            None => plain::silu_scores::<Self>(hidden, weight),
        }
    }

    fn select_rows(
        scores: FloatTensor<Self>,
        before: FloatTensor<Self>,
        choice: RowChoice,
    ) -> IntTensor<Self> {
        fused::launch::select_rows(&scores, &before, &choice)
    }

    fn gather_rows(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        rows: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        fused::launch::gather_rows(&keys, &values, &rows)
    }

    fn some_rows(x: FloatTensor<Self>, start: usize, rows: usize) -> FloatTensor<Self> {
        match cube::tensors::some_rows(&x, start, rows) {
            Some(view) => view,
            None => plain::some_rows::<Self>(x, start, rows),
        }
    }

    fn mean_rows(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match fused::launch::mean_rows(&x) {
            Some(mean) => mean,
            None => plain::mean_rows::<Self>(x),
        }
    }

    fn query_scores(
        keys: FloatTensor<Self>,
        query: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        match fused::launch::query_scores(&keys, &query, scale) {
            Some(scores) => scores,
            None => plain::query_scores::<Self>(keys, query, scale),
        }
    }

    fn not_finite(x: FloatTensor<Self>) -> IntTensor<Self> {
        match fused::launch::not_finite(&x) {
            Some(found) => found,
            None => plain::not_finite::<Self>(x),
        }
    }
}

/// The product of few rows by a kernel of ours, of more by cuBLASLt; `None` where Burn's serves.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn few_rows_or_cublaslt(
    x: &burn_cubecl::tensor::CubeTensor,
    weight: &burn_cubecl::tensor::CubeTensor,
    bias: Option<&burn_cubecl::tensor::CubeTensor>,
) -> Option<burn_cubecl::tensor::CubeTensor> {
    let few = fused::launch::few_rows(x, weight, bias);
    #[cfg(feature = "cuda")]
    return few.or_else(|| cublaslt::linear(x, weight, bias));
    #[cfg(not(feature = "cuda"))]
    few
}

/// The device below autodiff.
fn without_autodiff(device: &DispatchDevice) -> &DispatchDevice {
    match device {
        DispatchDevice::Autodiff(device) => without_autodiff(device),
        device => device,
    }
}

/// Whether tensors on the device are in the memory of the host.
pub(crate) fn is_cpu(device: &Device) -> bool {
    matches!(
        without_autodiff(device.as_dispatch()),
        DispatchDevice::Flex(_)
    )
}

/// Whether the device is a GPU of CUDA's.
pub(crate) fn is_cuda(device: &Device) -> bool {
    #[cfg(feature = "cuda")]
    return matches!(
        without_autodiff(device.as_dispatch()),
        DispatchDevice::Cube(burn_cubecl::CubeDevice::Cuda(_))
    );
    #[cfg(not(feature = "cuda"))]
    {
        let _ = device;
        false
    }
}

/// Whether the operations are implemented on the device.
pub(crate) fn has_kernels(device: &Device) -> bool {
    implemented(without_autodiff(device.as_dispatch()))
}

fn implemented(device: &DispatchDevice) -> bool {
    match device {
        DispatchDevice::Flex(_) => true,
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        DispatchDevice::Cube(_) => true,
        // More variants exist when another crate of the build turns on more backends.
        #[allow(unreachable_patterns)]
        _ => false,
    }
}

/// Refuses devices that the extension is not implemented for, and tensors on different devices.
pub(super) fn check_devices(
    operation: &'static str,
    devices: &[&Device],
) -> Result<(), KernelError> {
    let mut first = None;
    for device in devices {
        let device = without_autodiff(device.as_dispatch());
        if !implemented(device) {
            let device = format!("{device:?}");
            return Err(KernelError::Backend { operation, device });
        }
        if *first.get_or_insert(device) != device {
            return Err(KernelError::Devices {
                operation,
                first: format!("{:?}", first.unwrap_or(device)),
                other: format!("{device:?}"),
            });
        }
    }
    Ok(())
}
