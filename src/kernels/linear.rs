//! A linear layer on weights as checkpoints store them.

use burn::backend::Dispatch;
use burn::tensor::{Device, Tensor};

use super::KernelError;
use super::error::{check_float, check_sizes};
#[cfg(feature = "cuda")]
use super::extension::is_cuda;
use super::extension::{Kernels, check_devices};

/// `x weight + bias`, summed in f32 and rounded to the dtype of `x`; by Burn's products on GPUs once before and once
/// after the bias is added, elsewhere once.
///
/// Fast where `weight` is a transposed view of `[d_output, d_input]` storage, which is what
/// `burn::nn::Linear` holds under `LinearLayout::Col` and what checkpoints store; the storage may be
/// memory-mapped, it is read in place. Weights may be f16 or bf16 under f32 activations.
///
/// # Shapes
///
/// - `x`: `[..., d_input]`, f32, f16 or bf16
/// - `weight`: `[d_input, d_output]`, f32, f16 or bf16
/// - `bias`: `[d_output]`
/// - output: `[..., d_output]`, dtype of `x`
///
/// # Errors
///
/// [`KernelError`] when shapes or dtypes do not fit.
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Result<Tensor<D>, KernelError> {
    check(&x, &weight, bias.as_ref())?;
    check_devices(OPERATION, &[&x.device(), &weight.device()])?;
    if let Some(bias) = &bias {
        check_devices(OPERATION, &[&x.device(), &bias.device()])?;
    }
    let rows = x.dims().iter().rev().skip(1).product();
    let unfused = is_unfused(&x.device(), rows);
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    let out = match (bias.map(Tensor::into_dispatch), unfused) {
        (None, false) => Dispatch::linear(x, weight),
        (Some(bias), false) => Dispatch::linear_bias(x, weight, bias),
        (None, true) => Dispatch::unfused_linear(x, weight),
        (Some(bias), true) => Dispatch::unfused_linear_bias(x, weight, bias),
    };
    Ok(Tensor::from_dispatch(out))
}

/// Whether a product of so many rows is for a kernel of ours or for cuBLASLt, which fusion puts no operations behind.
fn is_unfused(device: &Device, rows: usize) -> bool {
    #[cfg(feature = "cuda")]
    return is_cuda(device)
        && (rows <= super::fused::few_rows::MAX_ROWS || super::cublaslt::version().is_ok());
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (device, rows);
        false
    }
}

fn check<const D: usize>(
    x: &Tensor<D>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<1>>,
) -> Result<(), KernelError> {
    let [d_input, d_output] = weight.dims();
    if D == 0 || x.dims()[D - 1] != d_input {
        let expected = format!("[..., {d_input}] beside a weight {:?}", weight.dims());
        return Err(KernelError::shape(OPERATION, "x", expected, &x.dims()));
    }
    check_float(OPERATION, "x", x.dtype())?;
    check_float(OPERATION, "weight", weight.dtype())?;
    if let Some(bias) = bias {
        check_bias(OPERATION, bias, d_output)?;
    }
    let mut output = x.dims();
    output[D - 1] = d_output;
    check_sizes(
        OPERATION,
        &[
            ("x", &x.dims()[..]),
            ("weight", &weight.dims()[..]),
            ("the output", &output[..]),
        ],
    )
}

/// Refuses a bias of another length than the output's, or that holds no floats.
pub(super) fn check_bias(
    operation: &'static str,
    bias: &Tensor<1>,
    d_output: usize,
) -> Result<(), KernelError> {
    if bias.dims() != [d_output] {
        let expected = format!("[{d_output}]");
        let found = bias.dims();
        return Err(KernelError::shape(operation, "bias", expected, &found));
    }
    check_float(operation, "bias", bias.dtype())
}

/// Its name in errors.
const OPERATION: &str = "linear";
