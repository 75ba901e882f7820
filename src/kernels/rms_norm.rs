//! Root mean square normalisation.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use super::KernelError;
use super::error::{check_dtype, check_float, check_sizes};
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
    check("rms_norm", &x, &gamma)?;
    let out = Dispatch::rms_norm(x.into_dispatch(), gamma.into_dispatch(), eps);
    Ok(Tensor::from_dispatch(out))
}

/// `x + residual`, rounded to their dtype, and its [`rms_norm`]: a residual connection with the norm behind it.
///
/// # Shapes
///
/// - `x`, `residual`: `[..., width]`, both f32, f16 or bf16
/// - `gamma`: `[width]`
/// - outputs: the sum and its norm, each as `x`
///
/// # Errors
///
/// [`KernelError`] when `residual` differs from `x` in shape or dtype, or as for [`rms_norm`].
pub fn add_rms_norm<const D: usize>(
    x: Tensor<D>,
    residual: Tensor<D>,
    gamma: Tensor<1>,
    eps: f64,
) -> Result<(Tensor<D>, Tensor<D>), KernelError> {
    const OPERATION: &str = "add_rms_norm";
    if residual.dims() != x.dims() {
        let (expected, found) = (format!("the shape of x {:?}", x.dims()), residual.dims());
        return Err(KernelError::shape(OPERATION, "residual", expected, &found));
    }
    check(OPERATION, &x, &gamma)?;
    let (found, expected) = (residual.dtype(), [x.dtype()]);
    check_dtype(OPERATION, "residual", found, "the dtype of x", &expected)?;
    check_devices(OPERATION, &[&x.device(), &residual.device()])?;
    let (x, residual) = (x.into_dispatch(), residual.into_dispatch());
    let added = Dispatch::add_rms_norm(x, residual, gamma.into_dispatch(), eps);
    Ok((
        Tensor::from_dispatch(added.sum),
        Tensor::from_dispatch(added.normed),
    ))
}

fn check<const D: usize>(
    operation: &'static str,
    x: &Tensor<D>,
    gamma: &Tensor<1>,
) -> Result<(), KernelError> {
    if D == 0 || gamma.dims() != [x.dims()[D - 1]] {
        let expected = format!("the last dimension of x {:?}", x.dims());
        let found = gamma.dims();
        return Err(KernelError::shape(operation, "gamma", expected, &found));
    }
    check_float(operation, "x", x.dtype())?;
    check_float(operation, "gamma", gamma.dtype())?;
    check_sizes(operation, &[("x", &x.dims()[..])])?;
    check_devices(operation, &[&x.device(), &gamma.device()])
}
