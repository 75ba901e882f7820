//! Root mean square normalisation.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use super::KernelError;
use super::error::check_float;
use super::extension::{Kernels, check_devices};

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
        let expected = format!("the last dimension of x {:?}", x.dims());
        return Err(KernelError::shape(
            OPERATION,
            "gamma",
            expected,
            &gamma.dims(),
        ));
    }
    check_float(OPERATION, "x", x.dtype())?;
    check_float(OPERATION, "gamma", gamma.dtype())?;
    check_devices(OPERATION, &[&x.device(), &gamma.device()])?;
    let out = Dispatch::rms_norm(x.into_dispatch(), gamma.into_dispatch(), eps);
    Ok(Tensor::from_dispatch(out))
}

/// Its name in errors.
const OPERATION: &str = "rms_norm";
