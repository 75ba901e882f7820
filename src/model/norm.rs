//! RMS normalisation (Zhang and Sennrich 2019, arXiv 1910.07467) of Burn's module by our kernel.

use burn::nn::RmsNorm;
use burn::tensor::Tensor;

use crate::kernels::{self, KernelError};

/// `x / sqrt(mean(x^2) + eps) * gamma` over the last dimension, statistics in f32.
pub(crate) fn normalize<const D: usize>(
    norm: &RmsNorm,
    x: Tensor<D>,
) -> Result<Tensor<D>, KernelError> {
    kernels::rms_norm(x, norm.gamma.val(), norm.epsilon)
}
