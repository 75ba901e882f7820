//! A linear layer on weights as checkpoints store them.

use burn::backend::Dispatch;
use burn::tensor::{DType, Tensor};

use super::extension::{Kernels, accelerated};
use super::{KernelError, reference};

/// `x weight + bias`, summed in f32 and rounded to the dtype of `x`; on GPUs once before and once after the
/// bias is added, elsewhere once.
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
    if !accelerated(&[&x.device(), &weight.device()]) {
        return Ok(reference::linear(x, weight, bias));
    }
    let out = match bias {
        Some(bias) => Dispatch::linear_bias(
            x.into_dispatch(),
            weight.into_dispatch(),
            bias.into_dispatch(),
        ),
        None => Dispatch::linear(x.into_dispatch(), weight.into_dispatch()),
    };
    Ok(Tensor::from_dispatch(out))
}

fn check<const D: usize>(
    x: &Tensor<D>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<1>>,
) -> Result<(), KernelError> {
    const FLOATS: &str = "f32, f16 or bf16";
    let [d_input, d_output] = weight.dims();
    let shape = |argument, expected, found| {
        Err(KernelError::Shape {
            operation: "linear",
            argument,
            expected,
            found,
        })
    };
    if D == 0 || x.dims()[D - 1] != d_input {
        let expected = format!("[..., {d_input}] beside a weight {:?}", weight.dims());
        return shape("x", expected, x.dims().to_vec());
    }
    if let Some(bias) = bias
        && bias.dims() != [d_output]
    {
        return shape("bias", format!("[{d_output}]"), bias.dims().to_vec());
    }
    let dtypes = [
        ("x", Some(x.dtype())),
        ("weight", Some(weight.dtype())),
        ("bias", bias.map(|bias| bias.dtype())),
    ];
    for (argument, found) in dtypes {
        if let Some(found) = found
            && !matches!(found, DType::F32 | DType::F16 | DType::BF16)
        {
            return Err(KernelError::DType {
                operation: "linear",
                argument,
                expected: FLOATS,
                found,
            });
        }
    }
    Ok(())
}
