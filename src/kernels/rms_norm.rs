//! Root mean square normalisation.

use burn::backend::Dispatch;
use burn::tensor::{DType, Tensor};

use super::extension::{Kernels, accelerated};
use super::{KernelError, reference};

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
        return Ok(reference::rms_norm(x, gamma, eps));
    }
    let out = Dispatch::rms_norm(x.into_dispatch(), gamma.into_dispatch(), eps);
    Ok(Tensor::from_dispatch(out))
}
