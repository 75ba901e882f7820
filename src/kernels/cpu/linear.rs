//! Linear layers on weights stored `[d_output, d_input]`, read in place: for few rows of `x`
//! [streamed](super::stream), for more [packed](super::packed), in bf16 into [tiles](super::tiles) where the processor
//! has them.

use burn::tensor::DType;
use burn_flex::{Flex, FlexTensor};

use super::packed::multiply;
use super::simd::{Elem, Level, by_dtype};
use super::stored::Stored;
use super::stream::stream;
use super::tiles;
use super::view::{Output, View, contiguous, to_f32};
use crate::kernels::plain;

/// Rows of `x` up to which the weight is streamed rather than packed.
pub(super) const STREAM_ROWS: usize = 8;

/// Whether a weight `[d_input, d_output]` lies in rows of `d_input`, as the kernels here need it.
fn is_stored_by_output(weight: &FlexTensor) -> bool {
    let layout = weight.layout();
    let (shape, strides) = (layout.shape(), layout.strides());
    (strides[0] == 1 || shape[0] == 1) && (strides[1] > 0 || shape[1] == 1)
}

/// [`linear`](crate::kernels::linear()) on Flex; weights stored otherwise go through Burn's matrix product.
pub(super) fn linear(
    x: FlexTensor,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    level: Level,
) -> FlexTensor {
    if !is_stored_by_output(&weight) {
        return plain::linear::<Flex>(x, weight, bias);
    }
    let (weight, bias) = (&weight, bias.as_ref());
    by_dtype!(x.dtype(), linear_from(x, weight, bias, level))
}

fn linear_from<X: Elem>(
    x: FlexTensor,
    weight: &FlexTensor,
    bias: Option<&FlexTensor>,
    level: Level,
) -> FlexTensor {
    match weight.dtype() {
        DType::F16 => linear_as::<X, half::f16>(x, weight, bias, level),
        DType::BF16 => linear_as::<X, half::bf16>(x, weight, bias, level),
        _ => linear_as::<X, f32>(x, weight, bias, level),
    }
}

fn linear_as<X: Elem, W: Elem>(
    x: FlexTensor,
    weight: &FlexTensor,
    bias: Option<&FlexTensor>,
    level: Level,
) -> FlexTensor {
    let x = contiguous(x);
    let mut shape = x.layout().shape().clone();
    let rank = shape.num_dims();
    let view = View::<W, 2>::new(weight);
    let [d_input, d_output] = view.shape;
    let weight = Stored {
        ptr: view.ptr,
        stride: view.strides[1].unsigned_abs(),
        d_input,
        d_output,
    };
    let rows: usize = shape.iter().take(rank - 1).product();
    shape[rank - 1] = d_output;
    let bias = bias.map(to_f32);

    let start = x.layout().start_offset();
    let storage: &[X] = x.storage();
    let elements = &storage[start..start + rows * d_input];
    let mut out = Output::<X>::new(rows * d_output);
    let to = out.ptr();
    if rows * d_output > 0 {
        if rows <= STREAM_ROWS {
            stream(elements, rows, weight, bias.as_deref(), to, level);
        } else if level.has_tiles() && X::dtype() == DType::BF16 && W::dtype() == DType::BF16 {
            tiles::multiply(elements, rows, weight, bias.as_deref(), to, level);
        } else {
            multiply(elements, rows, weight, bias.as_deref(), to, level);
        }
    }
    // SAFETY: every element was written.
    unsafe { out.finish(burn_flex::Layout::contiguous(shape)) }
}
