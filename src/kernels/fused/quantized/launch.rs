//! The launches on a device's tensors.
//!
//! Blocks are tensors of bytes, as on a processor: records and files have one form. A runtime without bytes (WGSL has
//! none) still holds and moves them; only kernels over them would not compile there, so these bind the same memory as
//! words. `None` means that there is nothing to compute.

use burn::backend::cubecl::dtype_to_elem_type;
use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::tensor::{DType, IntDType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

use super::layout::{Layout, PIECE, WORDS};
use super::{compact, dequantize, product};
use crate::kernels::BlockFormat;
use crate::kernels::extension::Kernels;
use crate::kernels::fused::add_shares;
use crate::kernels::fused::launch::{address, empty, units};
use crate::kernels::plain::float_dtype;

/// Blocks of rows with whole words at both ends of the memory, an even number of bytes from one row to the next.
struct Blocks {
    memory: CubeTensor,
    layout: Layout,
    rows: usize,
    /// Elements of a row.
    width: usize,
    /// Bytes from one row to the next.
    stride: usize,
}

impl Blocks {
    /// `blocks` `[rows, row_bytes]`, u8, where they lie, or else a copy. None where there are no elements.
    fn new(blocks: &CubeTensor, format: BlockFormat) -> Option<Self> {
        let [rows, row_bytes] = blocks.meta.shape().dims();
        let width = format.row_elements(row_bytes)?;
        if rows * width == 0 {
            return None;
        }
        let strides = blocks.meta.strides();
        let (row_stride, stride) = (strides[0], strides[1]);
        let whole = blocks.handle.offset_start.unwrap_or(0).is_multiple_of(4);
        let in_rows = stride == 1 && row_stride.is_multiple_of(2) && !blocks.meta.is_tiled();
        let (memory, stride) = match whole && in_rows {
            true => (blocks.clone(), row_stride),
            false => (compacted(blocks), row_bytes),
        };
        let aligned = stride.is_multiple_of(4) && format.block_bytes().is_multiple_of(4);
        Some(Self {
            memory,
            layout: Layout { format, aligned },
            rows,
            width,
            stride,
        })
    }

    /// Their memory as words.
    fn words(&self) -> BufferArg {
        words(&self.memory)
    }

    /// Pieces of a row.
    fn pieces(&self) -> usize {
        self.width / PIECE
    }
}

/// All that a tensor's handle reaches, as words.
fn words(tensor: &CubeTensor) -> BufferArg {
    let len = (tensor.handle.size_in_used() as usize).div_ceil(4);
    // SAFETY: memory is allocated in whole words.
    unsafe { BufferArg::from_raw_parts(tensor.handle.clone(), len) }
}

/// Bytes `[rows, row_bytes]` one row behind the other.
fn compacted(bytes: &CubeTensor) -> CubeTensor {
    let [rows, row_bytes] = bytes.meta.shape().dims();
    let (row_stride, stride) = (bytes.meta.strides()[0], bytes.meta.strides()[1]);
    let total = rows * row_bytes;
    let out = empty(bytes, Shape::new([total.div_ceil(4)]), DType::U32);
    let client = bytes.client.clone();
    let (count, dim) = units(&client, total.div_ceil(4));
    // SAFETY: strides are those of the memory, and a unit beyond the last word does nothing.
    unsafe {
        compact::compact::launch_unchecked(
            &client,
            count,
            dim,
            address(&[bytes, &out]),
            words(bytes),
            out.clone().into_buffer_arg(),
            total,
            row_bytes,
            row_stride,
            stride,
        );
    }
    out
}

/// [`dequantize`](crate::kernels::dequantize()): `blocks` `[rows, row_bytes]`, u8, to `[rows, width]`.
pub fn dequantize(blocks: &CubeTensor, format: BlockFormat, dtype: DType) -> Option<CubeTensor> {
    let blocks = Blocks::new(blocks, format)?;
    let out = empty(
        &blocks.memory,
        Shape::new([blocks.rows, blocks.width]),
        dtype,
    );
    let client = out.client.clone();
    let total = blocks.rows * blocks.pieces() * WORDS;
    let (count, dim) = units(&client, total);
    // SAFETY: rows are whole blocks, and a unit beyond the last word does nothing.
    unsafe {
        dequantize::dequantize::launch_unchecked(
            &client,
            count,
            dim,
            address(&[&blocks.memory, &out]),
            blocks.words(),
            out.clone().into_buffer_arg(),
            total,
            blocks.pieces(),
            blocks.stride,
            blocks.layout,
            dtype_to_elem_type(dtype),
        );
    }
    Some(out)
}

/// [`quantized_rows`](crate::kernels::quantized_rows()): `ids` `[count]` to `[count, width]`.
pub fn rows(
    blocks: &CubeTensor,
    ids: &CubeTensor,
    format: BlockFormat,
    dtype: DType,
) -> Option<CubeTensor> {
    let blocks = Blocks::new(blocks, format)?;
    let [named] = ids.meta.shape().dims();
    if named == 0 {
        return None;
    }
    let ids = match ids.dtype {
        DType::I32 => ids.clone(),
        _ => {
            // What 32 bits do not hold is no row either.
            let most = i64::from(i32::MAX);
            let ids = CubeBackend::int_clamp(ids.clone(), (-1).into(), most.into());
            CubeBackend::int_cast(ids, IntDType::I32)
        }
    };
    let ids = into_contiguous(ids);
    let out = empty(&blocks.memory, Shape::new([named, blocks.width]), dtype);
    let client = out.client.clone();
    let total = named * blocks.pieces() * WORDS;
    let (count, dim) = units(&client, total);
    // SAFETY: ids are limited to the rows, which are whole blocks, and a unit beyond the last word does nothing.
    unsafe {
        dequantize::look_up::launch_unchecked(
            &client,
            count,
            dim,
            address(&[&blocks.memory, &out]),
            blocks.words(),
            ids.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            total,
            blocks.pieces(),
            blocks.stride,
            blocks.rows,
            blocks.layout,
            dtype_to_elem_type(dtype),
        );
    }
    Some(out)
}

/// [`quantized_linear`](crate::kernels::quantized_linear()): `x` `[.., width]` and `blocks` `[outputs, row_bytes]` to
/// `[.., outputs]`. More than [`MAX_ROWS`](product::MAX_ROWS) rows are multiplied by the backend with what the blocks
/// stand for in the dtype of `x`, which is freed then.
pub fn linear(
    x: &CubeTensor,
    blocks: &CubeTensor,
    bias: Option<&CubeTensor>,
    format: BlockFormat,
) -> Option<CubeTensor> {
    let weight = Blocks::new(blocks, format)?;
    let rows = x.meta.shape().num_elements() / weight.width;
    match rows {
        0 => None,
        1..=product::MAX_ROWS => Some(few_rows(x, &weight, bias, rows)),
        _ => {
            let x = x.clone();
            let weight = dequantize(blocks, format, x.dtype)?;
            let weight = CubeBackend::float_swap_dims(weight, 0, 1);
            Some(match bias {
                None => CubeBackend::unfused_linear(x, weight),
                Some(bias) => {
                    // A library takes one dtype.
                    let bias = CubeBackend::float_cast(bias.clone(), float_dtype(x.dtype));
                    CubeBackend::unfused_linear_bias(x, weight, bias)
                }
            })
        }
    }
}

/// The product of up to [`MAX_ROWS`](product::MAX_ROWS) rows.
fn few_rows(x: &CubeTensor, weight: &Blocks, bias: Option<&CubeTensor>, rows: usize) -> CubeTensor {
    let mut shape = x.meta.shape().clone();
    let last = shape.num_dims() - 1;
    shape[last] = weight.rows;
    let out = empty(x, shape, x.dtype);
    let x = into_contiguous(x.clone());
    let biased = bias.is_some();
    // A binding may not be empty: without a bias x stands in, and is not read as such.
    let bias = into_contiguous(bias.unwrap_or(&x).clone());
    let client = x.client.clone();
    let cubes = (weight.rows).div_ceil(add_shares::GROUPS as usize * add_shares::COLUMNS);
    // A grid's first dimension is limited to 65,535 cubes on some devices.
    let count = calculate_cube_count_elemwise(&client, cubes, CubeDim::new_1d(1));
    // SAFETY: rows of the weight are limited to those that there are; shapes have been checked by the caller.
    unsafe {
        product::product::launch_unchecked(
            &client,
            count,
            CubeDim::new_2d(add_shares::LANES, add_shares::GROUPS),
            address(&[&x, &weight.memory, &out]),
            x.clone().into_buffer_arg(),
            weight.words(),
            bias.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            weight.pieces(),
            weight.rows,
            weight.stride,
            rows,
            biased,
            weight.layout,
            [dtype_to_elem_type(x.dtype), dtype_to_elem_type(bias.dtype)],
        );
    }
    out
}
