//! The operations as one extension of Burn's backends.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DispatchDevice, ExtensionType, backend_extension};
use burn::tensor::Device;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
use burn::{
    backend::fusion::custom::TensorSpec,
    tensor::{DType, Shape},
};

#[cfg(feature = "cuda")]
use super::tensor_core;
use super::{Regions, plain};
#[cfg(any(feature = "wgpu", feature = "cuda"))]
use super::{cube, portable};

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
    #[fusion(default)]
    fn rotate_half(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        plain::rotate_half::<Self>(x, cos, sin, heads)
    }
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
