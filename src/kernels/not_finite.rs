//! Whether all elements are finite.

use burn::backend::Dispatch;
use burn::tensor::{Int, Tensor};

use super::KernelError;
use super::error::{check_float, check_sizes};
use super::extension::{Kernels, check_devices};

/// Whether some element of `x` `[batch, heads, rows, width]` is infinite or not a number: 1 or 0.
///
/// # Errors
///
/// [`KernelError`] when `x` holds no floats, or is on a device without the operation.
pub fn not_finite(x: Tensor<4>) -> Result<Tensor<1, Int>, KernelError> {
    const OPERATION: &str = "not_finite";
    check_float(OPERATION, "x", x.dtype())?;
    check_sizes(OPERATION, &[("x", &x.dims()[..])])?;
    check_devices(OPERATION, &[&x.device()])?;
    Ok(Tensor::from_dispatch(Dispatch::not_finite(
        x.into_dispatch(),
    )))
}
