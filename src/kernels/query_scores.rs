//! Scores of rows against the mean of a query.

use burn::backend::Dispatch;
use burn::tensor::{DType, Tensor};

use super::KernelError;
use super::error::{check_float, check_sizes};
use super::extension::{Kernels, check_devices};

/// The mean over the rows of `x` `[batch, heads, rows, width]`: `[batch, heads, width]`, f32.
///
/// # Errors
///
/// [`KernelError`] when `x` holds no floats, or is on a device without the operation.
pub(crate) fn mean_rows(x: Tensor<4>) -> Result<Tensor<3>, KernelError> {
    const OPERATION: &str = "mean_rows";
    check_float(OPERATION, "x", x.dtype())?;
    check_sizes(OPERATION, &[("x", &x.dims()[..])])?;
    check_devices(OPERATION, &[&x.device()])?;
    Ok(Tensor::from_dispatch(Dispatch::mean_rows(
        x.into_dispatch(),
    )))
}

/// `keys` `[batch, heads, rows, width]` by `query` `[batch, heads, width]`, times `scale`: `[batch, heads, rows]`. Computed
/// in f32 whatever the dtypes.
///
/// # Errors
///
/// [`KernelError`] when shapes or dtypes do not fit.
pub(crate) fn query_scores(
    keys: Tensor<4>,
    query: Tensor<3>,
    scale: f64,
) -> Result<Tensor<3>, KernelError> {
    const OPERATION: &str = "query_scores";
    let [batch, heads, _, width] = keys.dims();
    if query.dims() != [batch, heads, width] {
        let expected = format!("[{batch}, {heads}, {width}]");
        return Err(KernelError::shape(
            OPERATION,
            "query",
            expected,
            &query.dims(),
        ));
    }
    check_float(OPERATION, "keys", keys.dtype())?;
    check_float(OPERATION, "query", query.dtype())?;
    check_sizes(OPERATION, &[("keys", &keys.dims()[..])])?;
    check_devices(OPERATION, &[&keys.device(), &query.device()])?;
    let query = query.cast(DType::F32);
    let scores = Dispatch::query_scores(keys.into_dispatch(), query.into_dispatch(), scale);
    Ok(Tensor::from_dispatch(scores))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn a_mean_and_its_products() {
        let device = Device::flex();
        let x = Tensor::<4>::from_data(
            [[[[1.0, 2.0], [3.0, 6.0]], [[0.0, 1.0], [-2.0, 1.0]]]],
            &device,
        );
        let mean = mean_rows(x.clone()).unwrap();
        let values = |x: Tensor<3>| x.into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(values(mean.clone()), [2.0, 4.0, -1.0, 1.0]);
        assert_eq!(
            values(query_scores(x, mean.clone(), 0.5).unwrap()),
            [5.0, 15.0, 0.5, 1.5]
        );
        let other = Tensor::<4>::zeros([1, 1, 3, 2], &device);
        let refused = query_scores(other, mean, 1.0);
        assert!(matches!(
            refused,
            Err(KernelError::Shape {
                argument: "query",
                ..
            })
        ));
    }
}
