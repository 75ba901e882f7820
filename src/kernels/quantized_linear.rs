//! Products with, and rows of, weights that stay quantised.

use burn::backend::Dispatch;
use burn::tensor::{DType, FloatDType, Int, Tensor};

use super::error::{check_dtype, check_float, check_sizes};
use super::extension::{Kernels, check_devices};
use super::quantized::BlockFormat;
use super::{KernelError, linear};

/// `x weight + bias` with a quantised weight, whose blocks are read where they lie. The dtype of the output is that
/// of `x`.
///
/// On a CPU, with up to 8 rows, `x` is rounded to eight bits with a scale for 32 elements, and to fifteen bits beside
/// formats of eight; with more, elements are those that the codes stand for, in f32, or rounded to bf16, as `x` is, where
/// the processor multiplies bf16, by AMX or AVX-512 (sums are in f32). On CubeCL's runtimes elements are those that the codes stand for, and with up
/// to 8 rows in f32, as `x` and sums are; with more, the weight is dequantised to the dtype of `x` for the device's
/// product. With autodiff it is so in any case.
///
/// # Shapes
///
/// - `x`: `[..., d_input]`, f32, f16 or bf16
/// - `blocks`: `[d_output, row_bytes]`, `u8`: the [`BlockFormat::row_bytes`] of `d_input` elements
/// - `bias`: `[d_output]`
/// - output: `[..., d_output]`, dtype of `x`
///
/// # Errors
///
/// [`KernelError`] when shapes or dtypes do not fit.
pub fn quantized_linear<const D: usize>(
    x: Tensor<D>,
    blocks: Tensor<2, Int>,
    format: BlockFormat,
    bias: Option<Tensor<1>>,
) -> Result<Tensor<D>, KernelError> {
    let width = check_quantized(&blocks, format, bias.as_ref())?;
    if D == 0 || x.dims()[D - 1] != width {
        let expected = format!("[..., {width}] beside {format} blocks {:?}", blocks.dims());
        return Err(KernelError::shape(OPERATION, "x", expected, &x.dims()));
    }
    check_float(OPERATION, "x", x.dtype())?;
    let d_output = blocks.dims()[0];
    let mut output = x.dims();
    output[D - 1] = d_output;
    check_sizes(
        OPERATION,
        &[
            ("x", &x.dims()[..]),
            ("blocks", &blocks.dims()[..]),
            ("what the blocks stand for", &[d_output, width][..]),
            ("the output", &output[..]),
        ],
    )?;
    check_devices(OPERATION, &[&x.device(), &blocks.device()])?;
    if let Some(bias) = &bias {
        check_devices(OPERATION, &[&x.device(), &bias.device()])?;
    }
    let (x, blocks) = (x.into_dispatch(), blocks.into_dispatch());
    let out = match bias.map(Tensor::into_dispatch) {
        None => Dispatch::quantized_linear(x, blocks, format),
        Some(bias) => Dispatch::quantized_linear_bias(x, blocks, bias, format),
    };
    Ok(Tensor::from_dispatch(out))
}

/// The elements of a row of `x` beside these blocks and bias.
pub(crate) fn check_quantized(
    blocks: &Tensor<2, Int>,
    format: BlockFormat,
    bias: Option<&Tensor<1>>,
) -> Result<usize, KernelError> {
    let width = check_blocks(OPERATION, blocks, format)?;
    if let Some(bias) = bias {
        linear::check_bias(OPERATION, bias, blocks.dims()[0])?;
    }
    Ok(width)
}

/// Its name in errors.
const OPERATION: &str = "quantized_linear";

/// Rows of a quantised matrix, as an embedding looks them up. Rows that are not there are the last one.
///
/// # Shapes
///
/// - `blocks`: `[rows, row_bytes]`, `u8`
/// - `ids`: `[count]`
/// - output: `[count, width]`, `dtype`
///
/// # Errors
///
/// [`KernelError`] when shapes or dtypes do not fit.
pub fn quantized_rows(
    blocks: Tensor<2, Int>,
    ids: Tensor<1, Int>,
    format: BlockFormat,
    dtype: FloatDType,
) -> Result<Tensor<2>, KernelError> {
    const OPERATION: &str = "quantized_rows";
    let width = check_blocks(OPERATION, &blocks, format)?;
    check_float(OPERATION, "the output", dtype.into())?;
    check_sizes(
        OPERATION,
        &[
            ("blocks", &blocks.dims()[..]),
            ("what the blocks stand for", &[blocks.dims()[0], width][..]),
            ("the output", &[ids.dims()[0], width][..]),
        ],
    )?;
    check_devices(OPERATION, &[&blocks.device(), &ids.device()])?;
    if blocks.dims()[0] == 0 && ids.dims()[0] > 0 {
        let expected = "a row for each id".to_string();
        return Err(KernelError::shape(
            OPERATION,
            "blocks",
            expected,
            &blocks.dims(),
        ));
    }
    let (blocks, ids) = (blocks.into_dispatch(), ids.into_dispatch());
    Ok(Tensor::from_dispatch(Dispatch::quantized_rows(
        blocks, ids, format, dtype,
    )))
}

/// What the blocks stand for: `[rows, row_bytes]` as `[rows, width]`, rounded to `dtype`.
///
/// # Errors
///
/// [`KernelError`] when shapes or dtypes do not fit.
pub fn dequantize(
    blocks: Tensor<2, Int>,
    format: BlockFormat,
    dtype: FloatDType,
) -> Result<Tensor<2>, KernelError> {
    const OPERATION: &str = "dequantize";
    let width = check_blocks(OPERATION, &blocks, format)?;
    check_float(OPERATION, "the output", dtype.into())?;
    check_sizes(
        OPERATION,
        &[
            ("blocks", &blocks.dims()[..]),
            ("the output", &[blocks.dims()[0], width][..]),
        ],
    )?;
    check_devices(OPERATION, &[&blocks.device()])?;
    let out = Dispatch::dequantize_blocks(blocks.into_dispatch(), format, dtype);
    Ok(Tensor::from_dispatch(out))
}

/// Elements of a row.
fn check_blocks(
    operation: &'static str,
    blocks: &Tensor<2, Int>,
    format: BlockFormat,
) -> Result<usize, KernelError> {
    check_dtype(operation, "blocks", blocks.dtype(), "u8", &[DType::U8])?;
    format.row_elements(blocks.dims()[1]).ok_or_else(|| {
        let expected = format!(
            "[rows, whole {format} blocks of {} bytes]",
            format.block_bytes()
        );
        KernelError::shape(operation, "blocks", expected, &blocks.dims())
    })
}
