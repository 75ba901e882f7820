//! What a cache holds so far, as a view.

use std::ops::Range;

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use super::KernelError;
use super::error::check_sizes;
use super::extension::{Kernels, check_devices};

/// The first `rows` rows of every head, without a copy: `x.narrow(2, 0, rows)`, which on GPUs copies
/// wherever the rows left out are not a multiple of the memory's alignment, for a cache in f16 with
/// `head_dim` 64 three times of four.
///
/// # Shapes
///
/// - `x`: `[batch, heads, capacity, head_dim]`
/// - output: `[batch, heads, rows, head_dim]`
///
/// # Errors
///
/// [`KernelError`] when there are fewer rows.
pub fn first_rows(x: Tensor<4>, rows: usize) -> Result<Tensor<4>, KernelError> {
    if rows > x.dims()[2] {
        let expected = format!("[batch, heads, at least {rows}, head_dim]");
        return Err(KernelError::shape("first_rows", "x", expected, &x.dims()));
    }
    check_sizes("first_rows", &[("x", &x.dims()[..])])?;
    check_devices("first_rows", &[&x.device()])?;
    let held = Dispatch::some_rows(x.into_dispatch(), 0, rows);
    Ok(Tensor::from_dispatch(held))
}

/// Some rows of every head, likewise: a copy only where the device allows no buffer to begin at the first of them.
pub(crate) fn some_rows(x: Tensor<4>, rows: Range<usize>) -> Result<Tensor<4>, KernelError> {
    if rows.start > rows.end || rows.end > x.dims()[2] {
        let expected = format!(
            "[batch, heads, at least {} rows, head_dim]",
            rows.end.max(rows.start)
        );
        return Err(KernelError::shape("some_rows", "x", expected, &x.dims()));
    }
    check_sizes("some_rows", &[("x", &x.dims()[..])])?;
    check_devices("some_rows", &[&x.device()])?;
    let held = Dispatch::some_rows(x.into_dispatch(), rows.start, rows.len());
    Ok(Tensor::from_dispatch(held))
}
