//! The operations as one extension of Burn's backends.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, DispatchDevice, ExtensionType, backend_extension};
use burn::tensor::Device;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
use burn::{
    backend::fusion::custom::TensorSpec,
    tensor::{DType, Shape},
};

#[cfg(feature = "cuda")]
use super::tensor_core;
use super::{Regions, RowChoice, plain};
#[cfg(any(feature = "wgpu", feature = "cuda"))]
use super::{cube, fused, portable};

/// Attention's two results as primitives of a backend.
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(any(feature = "wgpu", feature = "cuda")))]
pub struct AttentionPrimitives<B: Backend> {
    /// `[batch, heads, seq_q, head_dim]`.
    pub out: FloatTensor<B>,
    /// `[batch, heads, seq_q]`, f32.
    pub lse: FloatTensor<B>,
}

/// What a backend does for [`kernels`](super). The defaults are correct on every backend; `Flex`
/// replaces all of them. Arguments have been checked by the functions of [`kernels`](super).
#[backend_extension(
    Flex,
    Cube: cfg(any(feature = "wgpu", feature = "cuda")),
    Fusion: cfg(any(feature = "wgpu", feature = "cuda"))
)]
pub trait Kernels: Backend {
    /// See [`attention`](super::attention()).
    // A call of the backend beneath fusion, which may have a kernel of its own.
    #[fusion(meta = attend_meta)]
    fn attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        regions: Regions,
    ) -> AttentionPrimitives<Self> {
        plain::attend::<Self>(q, k, v, regions)
    }

    /// See [`first_rows`](super::first_rows()).
    #[fusion(meta = first_rows_meta)]
    fn first_rows(x: FloatTensor<Self>, rows: usize) -> FloatTensor<Self> {
        plain::first_rows::<Self>(x, rows)
    }

    /// See [`linear`](super::linear()), without bias.
    #[fusion(default)]
    fn linear_plain(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        plain::linear::<Self>(x, weight, None)
    }

    /// See [`linear`](super::linear()), with bias.
    #[fusion(default)]
    fn linear_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        plain::linear::<Self>(x, weight, Some(bias))
    }

    /// See [`rms_norm`](super::rms_norm()).
    #[fusion(default)]
    fn normalise(x: FloatTensor<Self>, gamma: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        plain::normalise::<Self>(x, gamma, eps)
    }

    /// See [`silu_mul`](super::silu_mul()).
    #[fusion(default)]
    fn gate(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        plain::gate::<Self>(gate, up)
    }

    /// See [`rotate`](super::rotate()).
    #[fusion(dtype = x, shape = rotated_shape(x, heads))]
    fn rotate_half(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        plain::rotate_half::<Self>(x, cos, sin, heads)
    }

    /// See [`silu_scores`](super::silu_scores()).
    #[fusion(dtype = DType::F32, shape = score_shape(hidden, weight))]
    fn score_rows(hidden: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        plain::score_rows::<Self>(hidden, weight)
    }

    /// See [`select_rows`](super::select_rows()); `before` may be empty.
    // Plain operations have no selection that says what becomes of ties.
    #[fusion(dtype = DType::I32, shape = choice_shape(scores, choice))]
    fn highest_rows(
        scores: FloatTensor<Self>,
        before: FloatTensor<Self>,
        choice: RowChoice,
    ) -> IntTensor<Self>;

    /// See [`gather_rows`](super::gather_rows()).
    #[fusion(dtype = keys, shape = packed_shape(keys, rows))]
    fn packed_rows(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        rows: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        plain::packed_rows::<Self>(keys, values, rows)
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
fn choice_shape(scores: &Shape, choice: &RowChoice) -> Shape {
    Shape::new([scores[0], scores[1], choice.kept()])
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn packed_shape(keys: &Shape, rows: &Shape) -> Shape {
    Shape::new([2 * keys[0], keys[1], rows[2], keys[3]])
}

/// What [`Kernels::attend`] gives, for fusion to plan with.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn attend_meta(
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

/// What [`Kernels::first_rows`] gives.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn first_rows_meta(x: &TensorSpec, rows: &usize) -> TensorSpec {
    let [batch, heads, _, head_dim] = x.shape.dims();
    TensorSpec::new(Shape::new([batch, heads, *rows, head_dim]), x.dtype)
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl Kernels for burn_cubecl::CubeBackend {
    fn attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        regions: Regions,
    ) -> AttentionPrimitives<Self> {
        #[cfg(feature = "cuda")]
        if let Some((out, lse)) = tensor_core::launch::attend(&q, &k, &v, regions) {
            return AttentionPrimitives { out, lse };
        }
        match portable::launch::attend(&q, &k, &v, regions) {
            Some((out, lse)) => AttentionPrimitives { out, lse },
            None => plain::attend::<Self>(q, k, v, regions),
        }
    }

    fn rotate_half(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        match fused::launch::rotate(&x, &cos, &sin, heads) {
            Some(out) => out,
            None => plain::rotate_half::<Self>(x, cos, sin, heads),
        }
    }

    fn score_rows(hidden: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        match fused::launch::score_rows(&hidden, &weight) {
            Some(scores) => scores,
            None => plain::score_rows::<Self>(hidden, weight),
        }
    }

    fn highest_rows(
        scores: FloatTensor<Self>,
        before: FloatTensor<Self>,
        choice: RowChoice,
    ) -> IntTensor<Self> {
        fused::launch::highest_rows(&scores, &before, &choice)
    }

    fn packed_rows(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        rows: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        fused::launch::gather_rows(&keys, &values, &rows)
    }

    fn first_rows(x: FloatTensor<Self>, rows: usize) -> FloatTensor<Self> {
        cube::tensors::first_rows(x, rows)
    }
}

/// Whether the extension serves these devices. Elsewhere, and wherever gradients are recorded, the
/// references in plain tensors run, so that every operation works and is differentiable.
pub(super) fn accelerated(devices: &[&Device]) -> bool {
    devices.iter().all(|device| match device.as_dispatch() {
        DispatchDevice::Flex(_) => true,
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        DispatchDevice::Cube(_) => true,
        // More variants exist when another crate of the build turns on more backends.
        #[allow(unreachable_patterns)]
        _ => false,
    })
}
