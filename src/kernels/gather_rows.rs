//! Chosen keys and values, packed to travel together.

use burn::backend::Dispatch;
use burn::tensor::{DType, Int, Tensor};

use super::KernelError;
use super::error::{check_dtype, check_float, check_sizes};
use super::extension::{Kernels, check_devices};

/// The rows of keys and values that `rows` names, head by head, in one tensor: the keys of all
/// sequences, then the values.
///
/// # Shapes
///
/// - `keys`, `values`: `[batch, kv_heads, seq_kv, head_dim]`, one dtype (f32, f16 or bf16); views are
///   read in place
/// - `rows`: `[batch, kv_heads, count]`, i32, each below `seq_kv`, as
///   [`select_rows`](super::select_rows()) gives them; what lies outside is clamped to the last row
/// - output: `[2 * batch, kv_heads, count, head_dim]`, contiguous
///
/// # Errors
///
/// [`KernelError`] when shapes or dtypes do not fit, or rows are asked of no keys.
pub fn gather_rows(
    keys: Tensor<4>,
    values: Tensor<4>,
    rows: Tensor<3, Int>,
) -> Result<Tensor<4>, KernelError> {
    check(&keys, &values, &rows)?;
    check_devices(
        OPERATION,
        &[&keys.device(), &values.device(), &rows.device()],
    )?;
    let packed = Dispatch::gather_rows(
        keys.into_dispatch(),
        values.into_dispatch(),
        rows.into_dispatch(),
    );
    Ok(Tensor::from_dispatch(packed))
}

fn check(keys: &Tensor<4>, values: &Tensor<4>, rows: &Tensor<3, Int>) -> Result<(), KernelError> {
    let [batch, kv_heads, seq_kv, head_dim] = keys.dims();
    if values.dims() != keys.dims() {
        let expected = format!("the shape of keys {:?}", keys.dims());
        return Err(KernelError::shape(
            OPERATION,
            "values",
            expected,
            &values.dims(),
        ));
    }
    let count = rows.dims()[2];
    if rows.dims()[..2] != [batch, kv_heads] || (seq_kv == 0 && count > 0) {
        let expected = format!("[{batch}, {kv_heads}, count] of {seq_kv} keys");
        return Err(KernelError::shape(
            OPERATION,
            "rows",
            expected,
            &rows.dims(),
        ));
    }
    check_float(OPERATION, "keys", keys.dtype())?;
    check_dtype(
        OPERATION,
        "values",
        values.dtype(),
        "the dtype of keys",
        &[keys.dtype()],
    )?;
    check_dtype(OPERATION, "rows", rows.dtype(), "i32", &[DType::I32])?;
    // The values have the shape of the keys.
    check_sizes(
        OPERATION,
        &[
            ("keys", &keys.dims()[..]),
            ("rows", &rows.dims()[..]),
            ("the output", &[2, batch, kv_heads, count, head_dim][..]),
        ],
    )
}

/// Its name in errors.
const OPERATION: &str = "gather_rows";

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let device = Device::flex();
        let keys = Tensor::<4>::zeros([1, 2, 3, 4], &device);
        let rows = |shape: [usize; 3]| Tensor::<3, Int>::zeros(shape, (&device, DType::I32));
        let short = Tensor::<4>::zeros([1, 2, 2, 4], &device);
        for (values, rows, wrong) in [
            (short.clone(), rows([1, 2, 1]), "values"),
            (keys.clone(), rows([1, 1, 1]), "rows"),
        ] {
            match gather_rows(keys.clone(), values, rows) {
                Err(KernelError::Shape { argument, .. }) => assert_eq!(argument, wrong),
                other => panic!("{other:?}"),
            }
        }
        let wide = rows([1, 2, 1]).cast(DType::I64);
        let refused = gather_rows(keys.clone(), keys, wide);
        assert!(matches!(
            refused,
            Err(KernelError::DType {
                argument: "rows",
                ..
            })
        ));
        let none = Tensor::<4>::zeros([1, 2, 0, 4], &device);
        assert!(gather_rows(none.clone(), none, rows([1, 2, 1])).is_err());
    }
}
