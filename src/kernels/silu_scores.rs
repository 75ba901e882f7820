//! The second half of a retaining head.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use super::KernelError;
use super::error::{check_float, check_sizes};
use super::extension::{Kernels, check_devices};

/// `silu(hidden) weight`, a few numbers a row, sorted by output: nothing of the size of `hidden` is
/// written. Computed in f32 whatever the dtypes.
///
/// # Shapes
///
/// - `hidden`: `[batch, rows, width]`, f32, f16 or bf16
/// - `weight`: `[width, outputs]`, f32, f16 or bf16; fast where it is a transposed view of
///   `[outputs, width]`, as checkpoints store it
/// - output: `[batch, outputs, rows]`, f32
///
/// # Errors
///
/// [`KernelError`] when shapes or dtypes do not fit.
pub fn silu_scores(hidden: Tensor<3>, weight: Tensor<2>) -> Result<Tensor<3>, KernelError> {
    let [batch, rows, width] = hidden.dims();
    if weight.dims()[0] != width {
        let expected = format!("[{width}, outputs] beside hidden {:?}", hidden.dims());
        return Err(KernelError::shape(
            OPERATION,
            "weight",
            expected,
            &weight.dims(),
        ));
    }
    check_float(OPERATION, "hidden", hidden.dtype())?;
    check_float(OPERATION, "weight", weight.dtype())?;
    let output = [batch, weight.dims()[1], rows];
    check_sizes(
        OPERATION,
        &[
            ("hidden", &hidden.dims()[..]),
            ("weight", &weight.dims()[..]),
            ("the output", &output[..]),
        ],
    )?;
    check_devices(OPERATION, &[&hidden.device(), &weight.device()])?;
    let scores = Dispatch::silu_scores(hidden.into_dispatch(), weight.into_dispatch());
    Ok(Tensor::from_dispatch(scores))
}

/// Its name in errors.
const OPERATION: &str = "silu_scores";

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let device = Device::flex();
        let hidden = Tensor::<3>::zeros([1, 2, 3], &device);
        let refused = silu_scores(hidden, Tensor::zeros([4, 1], &device));
        assert!(matches!(
            refused,
            Err(KernelError::Shape {
                argument: "weight",
                ..
            })
        ));
        let nothing = Tensor::<3>::zeros([1, 2, 0], &device);
        let none = silu_scores(nothing, Tensor::zeros([0, 2], &device)).unwrap();
        assert_eq!(none.into_data().try_to_vec::<f32>().unwrap(), [0.0; 4]);
    }
}
