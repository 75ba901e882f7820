//! The gate of a SwiGLU block.

use burn::backend::Dispatch;
use burn::tensor::{DType, Tensor};

use super::extension::{Kernels, accelerated};
use super::{KernelError, reference};

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
        return Err(KernelError::Shape {
            operation: "silu_mul",
            argument: "up",
            expected: format!("the shape of gate {:?}", gate.dims()),
            found: up.dims().to_vec(),
        });
    }
    let dtype = gate.dtype();
    if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
        return Err(KernelError::DType {
            operation: "silu_mul",
            argument: "gate",
            expected: "f32, f16 or bf16",
            found: dtype,
        });
    }
    if up.dtype() != dtype {
        return Err(KernelError::DType {
            operation: "silu_mul",
            argument: "up",
            expected: "the dtype of gate",
            found: up.dtype(),
        });
    }
    if !accelerated(&[&gate.device(), &up.device()]) {
        return Ok(reference::silu_mul(gate, up));
    }
    let out = Dispatch::silu_mul(gate.into_dispatch(), up.into_dispatch());
    Ok(Tensor::from_dispatch(out))
}
