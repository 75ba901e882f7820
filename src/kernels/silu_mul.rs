//! The gate of a SwiGLU block.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use super::KernelError;
use super::error::{check_dtype, check_float, check_sizes};
use super::extension::{Kernels, check_devices};

/// `silu(gate) * up`, computed in f32.
///
/// # Shapes
///
/// - `gate`, `up`, output: the same shape and dtype (f32, f16 or bf16)
///
/// # Errors
///
/// [`KernelError`] when the two differ in shape or dtype.
pub fn silu_mul<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Result<Tensor<D>, KernelError> {
    if gate.dims() != up.dims() {
        let expected = format!("the shape of gate {:?}", gate.dims());
        return Err(KernelError::shape(OPERATION, "up", expected, &up.dims()));
    }
    check_float(OPERATION, "gate", gate.dtype())?;
    check_dtype(
        OPERATION,
        "up",
        up.dtype(),
        "the dtype of gate",
        &[gate.dtype()],
    )?;
    check_sizes(OPERATION, &[("gate", &gate.dims()[..])])?;
    check_devices(OPERATION, &[&gate.device(), &up.device()])?;
    let out = Dispatch::silu_mul(gate.into_dispatch(), up.into_dispatch());
    Ok(Tensor::from_dispatch(out))
}

/// Its name in errors.
const OPERATION: &str = "silu_mul";
