//! Attention over keys and values in codes of eight bits, and how they are made.

use burn::backend::Dispatch;
use burn::tensor::{DType, Int, Tensor};

use super::attention::check_shapes;
use super::error::{check_dtype, check_float, check_sizes};
use super::extension::{AttentionPrimitives, Kernels, check_devices};
use super::{AttentionOutput, BlockFormat, KernelError, Regions};

/// The format of keys and values.
const FORMAT: BlockFormat = BlockFormat::Q8_0;

/// Rounds rows to blocks of [`BlockFormat::Q8_0`]: eight bits an element and a scale for 32. A block whose elements are
/// not all finite has no finite scale.
///
/// # Shapes
///
/// - `x`: `[batch, heads, rows, width]`, f32, f16 or bf16
/// - output: `[batch, heads, rows, width / 32 * 34]`, `u8`
///
/// # Errors
///
/// [`KernelError`] when `width` is no multiple of 32, or `x` of another dtype.
pub fn quantize_rows(x: Tensor<4>) -> Result<Tensor<4, Int>, KernelError> {
    const OPERATION: &str = "quantize_rows";
    check_float(OPERATION, "x", x.dtype())?;
    check_devices(OPERATION, &[&x.device()])?;
    let [batch, heads, rows, width] = x.dims();
    let Some(row_bytes) = FORMAT.row_bytes(width) else {
        let expected = format!("[batch, heads, rows, a multiple of {}]", FORMAT.block_len());
        return Err(KernelError::shape(OPERATION, "x", expected, &x.dims()));
    };
    let output = [batch, heads, rows, row_bytes];
    check_sizes(
        OPERATION,
        &[("x", &x.dims()[..]), ("the output", &output[..])],
    )?;
    let blocks = Dispatch::quantize_rows(x.into_dispatch());
    Ok(Tensor::from_dispatch(blocks))
}

/// [`attention`](super::attention()) over keys and values that [`quantize_rows`] made. On a CPU they are read as they
/// are, and a part of them at a time stands in floats: in the dtype of the queries, and for many f32 queries in bf16 where
/// the processor multiplies bf16. Elsewhere all of them are dequantised first. Gradients pass to the queries alone.
///
/// # Shapes
///
/// - `q`: `[batch, heads, seq_q, head_dim]`, f32, f16 or bf16
/// - `k`, `v`: `[batch, kv_heads, seq_kv, head_dim / 32 * 34]`, `u8`
///
/// # Errors
///
/// [`KernelError`] when shapes, dtypes, heads or regions do not fit.
pub fn quantized_attention(
    q: Tensor<4>,
    k: Tensor<4, Int>,
    v: Tensor<4, Int>,
    regions: Regions,
) -> Result<AttentionOutput, KernelError> {
    const OPERATION: &str = "quantized_attention";
    for (argument, blocks) in [("k", &k), ("v", &v)] {
        check_dtype(OPERATION, argument, blocks.dtype(), "u8", &[DType::U8])?;
    }
    check_float(OPERATION, "q", q.dtype())?;
    let width = |blocks: &Tensor<4, Int>| {
        let [batch, heads, rows, bytes] = blocks.dims();
        let width = FORMAT.row_elements(bytes);
        width.map(|width| [batch, heads, rows, width])
    };
    match (width(&k), width(&v)) {
        (Some(keys), Some(values)) => {
            check_shapes(OPERATION, q.dims(), keys, values, regions)?;
            // The output has the shape of q; there are more bytes than elements.
            check_sizes(
                OPERATION,
                &[
                    ("q", &q.dims()[..]),
                    ("k", &k.dims()[..]),
                    ("v", &v.dims()[..]),
                ],
            )?;
        }
        (keys, _) => {
            let (argument, found) = match keys {
                None => ("k", k.dims()),
                Some(_) => ("v", v.dims()),
            };
            let expected = format!(
                "rows of whole {FORMAT} blocks of {} bytes",
                FORMAT.block_bytes()
            );
            return Err(KernelError::shape(OPERATION, argument, expected, &found));
        }
    }
    check_devices(OPERATION, &[&q.device(), &k.device(), &v.device()])?;
    let AttentionPrimitives { out, lse } = Dispatch::quantized_attention(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        regions,
    );
    Ok(AttentionOutput {
        out: Tensor::from_dispatch(out),
        lse: Tensor::from_dispatch(lse),
    })
}
