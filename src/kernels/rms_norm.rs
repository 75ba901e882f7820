//! Root mean square normalisation.

use burn::backend::Dispatch;
use burn::tensor::{DType, Tensor};

use super::KernelError;
use super::extension::{Kernels, accelerated};

/// `x / sqrt(mean(x^2) + eps) * gamma` over the last dimension, computed in f32.
///
/// # Shapes
///
/// - `x`: `[..., width]`, f32, f16 or bf16
/// - `gamma`: `[width]`
/// - output: as `x`
///
/// # Errors
///
/// [`KernelError`] when `gamma` does not fit the last dimension, or `x` is of another dtype.
///
/// # References
///
/// Root Mean Square Layer Normalization, arXiv 1910.07467.
pub fn rms_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    eps: f64,
) -> Result<Tensor<D>, KernelError> {
    if D == 0 || gamma.dims() != [x.dims()[D - 1]] {
        return Err(KernelError::Shape {
            operation: "rms_norm",
            argument: "gamma",
            expected: format!("the last dimension of x {:?}", x.dims()),
            found: gamma.dims().to_vec(),
        });
    }
    for (argument, found) in [("x", x.dtype()), ("gamma", gamma.dtype())] {
        if !matches!(found, DType::F32 | DType::F16 | DType::BF16) {
            return Err(KernelError::DType {
                operation: "rms_norm",
                argument,
                expected: "f32, f16 or bf16",
                found,
            });
        }
    }
    if !accelerated(&[&x.device(), &gamma.device()]) {
        return Ok(rms_norm_reference(x, gamma, eps));
    }
    let out = Dispatch::normalise(x.into_dispatch(), gamma.into_dispatch(), eps);
    Ok(Tensor::from_dispatch(out))
}

/// [`rms_norm`] in plain tensors.
///
/// # Panics
///
/// When shapes do not fit.
pub fn rms_norm_reference<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, eps: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let mean = x.clone().square().mean_dim(D - 1);
    let scaled = x / (mean + eps).sqrt();
    (scaled * gamma.cast(DType::F32).unsqueeze()).cast(dtype)
}
