//! Rotary position embedding in the half-split order of Hugging Face checkpoints.

use burn::backend::Dispatch;
use burn::tensor::{DType, Tensor};

use super::KernelError;
use super::error::{check_dtype, check_float, check_sizes};
use super::extension::{Kernels, check_devices};

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
    if heads == 0 || width % 2 != 0 || !(width / 2).is_multiple_of(heads) {
        let expected = format!("[batch, seq, {heads} heads of an even head_dim]");
        return Err(KernelError::shape(OPERATION, "x", expected, &x.dims()));
    }
    let expected = [seq, width / heads / 2];
    for (argument, table) in [("cos", &cos), ("sin", &sin)] {
        if table.dims() != expected {
            let expected = format!("[seq, head_dim / 2] = {expected:?}");
            return Err(KernelError::shape(
                OPERATION,
                argument,
                expected,
                &table.dims(),
            ));
        }
        check_dtype(OPERATION, argument, table.dtype(), "f32", &[DType::F32])?;
    }
    check_float(OPERATION, "x", x.dtype())?;
    // The tables have half a head's elements for each row, the output as many elements as x.
    check_sizes(OPERATION, &[("x", &x.dims()[..]), ("cos", &cos.dims()[..])])?;
    check_devices(OPERATION, &[&x.device(), &cos.device(), &sin.device()])?;
    let out = Dispatch::rotate(
        x.into_dispatch(),
        cos.into_dispatch(),
        sin.into_dispatch(),
        heads,
    );
    Ok(Tensor::from_dispatch(out))
}

/// Its name in errors.
const OPERATION: &str = "rotate";
