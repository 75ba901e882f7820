//! RMS normalisation (Zhang and Sennrich 2019, arXiv 1910.07467) of Burn's module by our kernel.

use burn::nn::{RmsNorm, RmsNormConfig};
use burn::tensor::{Device, Tensor};

use crate::kernels::{self, KernelError};

/// A norm with gains of 1. An epsilon that is not above 0, which Burn's configuration refuses with a panic,
/// counts as the smallest that is.
pub(crate) fn rms_norm(width: usize, epsilon: f64, device: &Device) -> RmsNorm {
    RmsNormConfig::new(width)
        .with_epsilon(epsilon.max(f64::MIN_POSITIVE))
        .init(device)
}

/// `x / sqrt(mean(x^2) + eps) * gamma` over the last dimension, statistics in f32.
pub(crate) fn normalize<const D: usize>(
    norm: &RmsNorm,
    x: Tensor<D>,
) -> Result<Tensor<D>, KernelError> {
    kernels::rms_norm(x, norm.gamma.val(), norm.epsilon)
}

/// `hidden + added`, and its norm.
pub(crate) fn add_normalize<const D: usize>(
    norm: &RmsNorm,
    hidden: Tensor<D>,
    added: Tensor<D>,
) -> Result<(Tensor<D>, Tensor<D>), KernelError> {
    kernels::add_rms_norm(hidden, added, norm.gamma.val(), norm.epsilon)
}
