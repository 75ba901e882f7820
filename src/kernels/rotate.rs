//! Rotary position embedding in the half-split order of Hugging Face checkpoints.

use burn::backend::Dispatch;
use burn::tensor::{DType, Tensor};

use super::extension::{Kernels, accelerated};
use super::{KernelError, reference};

/// Rotates a projection head by head and sorts it by heads: element `i` of a head's first half pairs
/// with element `i` of its second half,
///
/// `first' = first cos - second sin`, `second' = second cos + first sin`.
///
/// # Shapes
///
/// - `x`: `[batch, seq, heads * head_dim]`, f32, f16 or bf16
/// - `cos`, `sin`: `[seq, head_dim / 2]`, f32: the rows of these positions, computed in f64 and rounded
/// - output: `[batch, heads, seq, head_dim]`, dtype of `x`, contiguous on the CPU
///
/// # Errors
///
/// [`KernelError`] when the tables do not fit `x` and `heads`.
///
/// # References
///
/// RoFormer, arXiv 2104.09864.
pub fn rotate(
    x: Tensor<3>,
    cos: Tensor<2>,
    sin: Tensor<2>,
    heads: usize,
) -> Result<Tensor<4>, KernelError> {
    let [_, seq, width] = x.dims();
    if heads == 0 || !width.is_multiple_of(2 * heads) {
        return Err(KernelError::Shape {
            operation: "rotate",
            argument: "x",
            expected: format!("[batch, seq, {heads} heads of an even head_dim]"),
            found: x.dims().to_vec(),
        });
    }
    let expected = [seq, width / heads / 2];
    for (argument, table) in [("cos", &cos), ("sin", &sin)] {
        if table.dims() != expected {
            return Err(KernelError::Shape {
                operation: "rotate",
                argument,
                expected: format!("[seq, head_dim / 2] = {expected:?}"),
                found: table.dims().to_vec(),
            });
        }
        if table.dtype() != DType::F32 {
            return Err(KernelError::DType {
                operation: "rotate",
                argument,
                expected: "f32",
                found: table.dtype(),
            });
        }
    }
    if !matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16) {
        return Err(KernelError::DType {
            operation: "rotate",
            argument: "x",
            expected: "f32, f16 or bf16",
            found: x.dtype(),
        });
    }
    if !accelerated(&[&x.device(), &cos.device(), &sin.device()]) {
        return Ok(reference::rotate(x, cos, sin, heads));
    }
    let out = Dispatch::rotate(
        x.into_dispatch(),
        cos.into_dispatch(),
        sin.into_dispatch(),
        heads,
    );
    Ok(Tensor::from_dispatch(out))
}
