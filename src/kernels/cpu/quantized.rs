//! Linear layers on quantised weights, whose blocks are read where they lie: for few rows of `x` as dot products of
//! codes with `x` in eight bits (in fifteen, where the codes have eight; [in floats](super::float_codes), where the codes
//! are floats), for more [packed](super::packed) into panels of f32.

use core::marker::PhantomData;
use core::mem::MaybeUninit;

use burn::tensor::DType;
use burn_flex::{FlexTensor, Layout};
use rayon::prelude::*;

use super::activations::Rounded;
use super::float_codes;
use super::linear::STREAM_ROWS;
use super::packed::{Panels, multiply};
use super::scratch::{LINE, Scratch};
use super::simd::{Elem, Job, Level, Simd, X_GROUP, by_dtype};
use super::stream::{PREFETCH_BYTES, over_columns, write_sums};
use super::tiles::{self, TILE, TILE_DEPTH, TILE_ROWS, round, transpose_pairs};
use super::view::{Output, Shared, contiguous, to_f32};
use crate::kernels::quantized::{BlockFormat, Blocks, CHUNK, ForBlocks, GROUPS, Unpacked, Vectors};

/// Groups of `x` in a chunk.
const X_GROUPS: usize = CHUNK / X_GROUP;
/// Lanes of the widest panel.
const WIDEST: usize = 48;

/// A quantised weight's rows.
pub(super) struct Stored<F> {
    pub(super) ptr: *const u8,
    /// Bytes of a row.
    pub(super) row: usize,
    pub(super) d_input: usize,
    pub(super) d_output: usize,
    format: PhantomData<F>,
}

impl<F> Clone for Stored<F> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<F> Copy for Stored<F> {}

// SAFETY: only read through, and the tensor it borrows is shared memory.
unsafe impl<F> Send for Stored<F> {}
// SAFETY: as above.
unsafe impl<F> Sync for Stored<F> {}

impl<F: Blocks> Stored<F> {
    /// Elements of the chunk that begins at `element`, and where in a row its blocks are.
    #[inline(always)]
    pub(super) fn chunk(&self, element: usize) -> (usize, usize) {
        let len = CHUNK.min(self.d_input - element);
        (len, element / F::LEN * F::BYTES)
    }
}

/// [`quantized_linear`](crate::kernels::quantized_linear()) on Flex.
pub(super) fn linear(
    x: FlexTensor,
    blocks: FlexTensor,
    bias: Option<FlexTensor>,
    format: BlockFormat,
    level: Level,
) -> FlexTensor {
    let (blocks, bias) = (contiguous_bytes(blocks), bias.map(|bias| to_f32(&bias)));
    by_dtype!(
        x.dtype(),
        linear_as(x, &blocks, bias.as_deref(), format, level)
    )
}

/// A tensor of bytes in row-major order.
fn contiguous_bytes(tensor: FlexTensor) -> FlexTensor {
    match tensor.is_contiguous() {
        true => tensor,
        false => tensor.to_contiguous(),
    }
}

/// The bytes of a contiguous tensor.
fn bytes(tensor: &FlexTensor) -> &[u8] {
    let layout = tensor.layout();
    let start = layout.start_offset();
    let storage: &[u8] = tensor.storage();
    &storage[start..start + layout.num_elements()]
}

fn linear_as<X: Elem>(
    x: FlexTensor,
    blocks: &FlexTensor,
    bias: Option<&[f32]>,
    format: BlockFormat,
    level: Level,
) -> FlexTensor {
    let x = contiguous(x);
    let mut shape = x.layout().shape().clone();
    let rank = shape.num_dims();
    let d_input = shape[rank - 1];
    let [d_output, row] = blocks.layout().shape().dims();
    let rows: usize = shape.iter().take(rank - 1).product();
    shape[rank - 1] = d_output;
    let start = x.layout().start_offset();
    let storage: &[X] = x.storage();
    let mut out = Output::<X>::new(rows * d_output);
    if rows * d_output > 0 {
        format.run(Product {
            x: &storage[start..start + rows * d_input],
            rows,
            blocks: bytes(blocks),
            row,
            d_input,
            d_output,
            bias,
            out: out.ptr(),
            level,
        });
    }
    // SAFETY: every element was written.
    unsafe { out.finish(Layout::contiguous(shape)) }
}

struct Product<'a, X> {
    x: &'a [X],
    rows: usize,
    blocks: &'a [u8],
    row: usize,
    d_input: usize,
    d_output: usize,
    bias: Option<&'a [f32]>,
    out: Shared<X>,
    level: Level,
}

impl<X: Elem> ForBlocks for Product<'_, X> {
    type Output = ();

    fn run<F: Blocks>(self) {
        let weight = Stored::<F> {
            ptr: self.blocks.as_ptr(),
            row: self.row,
            d_input: self.d_input,
            d_output: self.d_output,
            format: PhantomData,
        };
        if self.rows <= STREAM_ROWS && F::FLOATS {
            float_codes::stream(self.x, self.rows, weight, self.bias, self.out, self.level);
        } else if self.rows <= STREAM_ROWS {
            stream(self.x, self.rows, weight, self.bias, self.out, self.level);
        } else if self.level.has_tiles() && X::dtype() != DType::F16 {
            tiles::multiply(self.x, self.rows, weight, self.bias, self.out, self.level);
        } else {
            multiply(self.x, self.rows, weight, self.bias, self.out, self.level);
        }
    }
}

impl<F: Blocks> Panels for Stored<F> {
    fn shape(&self) -> [usize; 2] {
        [self.d_input, self.d_output]
    }

    #[inline(always)]
    unsafe fn pack<S: Simd>(self, column: usize, dst: *mut f32) {
        let width = S::PANEL * S::LANES;
        let columns = width.min(self.d_output - column);
        let mut unpacked = Unpacked::new();
        let mut wide = MaybeUninit::<[[f32; CHUNK]; WIDEST]>::uninit();
        let wide = wide.as_mut_ptr().cast::<[f32; CHUNK]>();
        for lane in 0..width {
            wide.add(lane).write([0.0; CHUNK]);
        }
        let mut element = 0;
        while element < self.d_input {
            let (len, at) = self.chunk(element);
            for lane in 0..columns {
                let row = self.ptr.add((column + lane) * self.row + at);
                unpacked.fill::<F, Of<S>>(row, len);
                let row = wide.add(lane).cast::<f32>();
                // The lanes of blocks are a multiple of any vector's.
                unpacked.dequantize::<F>(core::slice::from_raw_parts_mut(row, len));
            }
            for vector in 0..S::PANEL {
                let src = wide.add(vector * S::LANES).cast::<f32>();
                let dst = dst.add(element * width + vector * S::LANES);
                for i in (0..len).step_by(S::LANES) {
                    S::transpose::<f32>(src.add(i), CHUNK, dst.add(i * width), width);
                }
            }
            element += len;
        }
    }

    #[inline(always)]
    unsafe fn pack_tiles<S: Simd>(self, column: usize, dst: *mut u16) {
        // The second of a pair of tiles may be past the last column.
        let columns = TILE_ROWS.min(self.d_output.saturating_sub(column));
        let mut unpacked = Unpacked::new();
        let mut rows = [[0u16; CHUNK]; TILE_ROWS];
        let mut element = 0;
        while element < self.d_input {
            let (len, at) = self.chunk(element);
            for (lane, row) in rows.iter_mut().enumerate().take(columns) {
                let blocks = self.ptr.add((column + lane) * self.row + at);
                unpacked.fill::<F, Of<S>>(blocks, len);
                round_unpacked::<F, S>(&unpacked, len, row.as_mut_ptr());
            }
            let dst = dst.wrapping_add(element / TILE_DEPTH * TILE);
            transpose_pairs::<S>(rows.as_ptr().cast(), CHUNK, len / TILE_DEPTH, dst);
            element += len;
        }
    }
}

/// What `len` unpacked elements stand for, rounded to bf16.
#[inline(always)]
unsafe fn round_unpacked<F: Blocks, S: Simd>(unpacked: &Unpacked, len: usize, dst: *mut u16) {
    if F::FLOATS {
        let mut wide = [0f32; CHUNK];
        unpacked.dequantize::<F>(&mut wide[..len]);
        return round::<S, f32>(wide.as_ptr(), dst, len);
    }
    for group in 0..len / F::GROUP {
        let scale = unpacked.scales[group];
        let minimum = match F::MINIMUMS {
            true => unpacked.minimums[group],
            false => scale * f32::from(F::OFFSET),
        };
        let (scale, minimum) = (S::splat(scale), S::splat(-minimum));
        let mut i = group * F::GROUP;
        let end = i + F::GROUP;
        while i < end {
            let codes = match F::SIGNED {
                true => S::load_codes::<true>(unpacked.codes.as_ptr().wrapping_add(i)),
                false => S::load_codes::<false>(unpacked.codes.as_ptr().wrapping_add(i)),
            };
            S::store_bf16(dst.wrapping_add(i), S::fma(codes, scale, minimum));
            i += S::LANES;
        }
    }
}

/// The instructions of `S`, for unpacking.
#[derive(Clone, Copy)]
pub(super) struct Of<S>(PhantomData<S>);

impl<S: Simd> Vectors for Of<S> {
    #[inline(always)]
    unsafe fn half(bits: u16) -> f32 {
        S::widen_half(bits)
    }

    #[inline(always)]
    unsafe fn halves(p: *const u8, apart: usize) -> [f32; 8] {
        S::widen_halves(p, apart)
    }

    #[inline(always)]
    unsafe fn nibbles(packed: [u8; 16]) -> [u8; 32] {
        S::nibbles(packed)
    }

    #[inline(always)]
    unsafe fn look_up(values: &[i8; 16], codes: [u8; 32]) -> [u8; 32] {
        S::look_up(values, codes)
    }

    #[inline(always)]
    unsafe fn spread(bits: u32) -> [u8; 32] {
        S::spread(bits)
    }
}

/// `x weight + bias` for at most 8 `rows`.
fn stream<X: Elem, F: Blocks>(
    x: &[X],
    rows: usize,
    weight: Stored<F>,
    bias: Option<&[f32]>,
    out: Shared<X>,
    level: Level,
) {
    let (d_input, d_output) = (weight.d_input, weight.d_output);
    let [codes, scales, sums] = Rounded::<F>::lengths(rows, d_input);
    let scratch = Scratch::new([codes, scales, sums, rows * d_output]);
    let [codes, scales, sums, products] = scratch.areas;
    let x = Rounded::<F>::new(x, d_input, [codes, scales, sums], level);
    let products = Shared(products);
    over_columns([d_input, d_output], |columns| {
        level.run_dots(Stream {
            x,
            rows,
            weight,
            out: products,
            from: columns.start,
            to: columns.end,
        });
    });
    // SAFETY: the area has `rows * d_output` elements, all written.
    unsafe { write_sums(products, [rows, d_output], bias, out) };
}

/// Rows of the weight against all rows of `x`.
struct Stream<F> {
    x: Rounded<F>,
    rows: usize,
    weight: Stored<F>,
    /// `[rows, d_output]`.
    out: Shared<f32>,
    from: usize,
    to: usize,
}

impl<F: Blocks> Job for Stream<F> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        match self.rows {
            // So many sums that none waits for the last.
            1 => self.all::<S, 1, 4>(),
            2..=4 => self.all::<S, 4, 2>(),
            _ => self.all::<S, 8, 2>(),
        }
    }
}

impl<F: Blocks> Stream<F> {
    #[inline(always)]
    unsafe fn all<S: Simd, const M: usize, const N: usize>(&self) {
        let mut unpacked = Unpacked::new();
        for column in self.from..self.to {
            let mut dots = [[S::no_dots(); N]; M];
            let row = self
                .weight
                .ptr
                .wrapping_add(column.wrapping_mul(self.weight.row));
            let (mut element, mut at) = (0usize, row);
            // Whole chunks apart: their length is known when compiling.
            while self.weight.d_input - element >= CHUNK {
                let bytes = CHUNK / F::LEN * F::BYTES;
                for line in (0..bytes).step_by(64) {
                    S::prefetch(at.wrapping_add(PREFETCH_BYTES).wrapping_add(line));
                }
                unpacked.fill::<F, Of<S>>(at, CHUNK);
                self.add_chunk::<S, M, N>(&unpacked, element, CHUNK, &mut dots);
                element += CHUNK;
                at = at.wrapping_add(CHUNK / F::LEN * F::BYTES);
            }
            if element < self.weight.d_input {
                let len = self.weight.d_input - element;
                unpacked.fill::<F, Of<S>>(at, len);
                self.add_chunk::<S, M, N>(&unpacked, element, len, &mut dots);
            }
            for (m, dots) in dots.into_iter().enumerate().take(self.rows) {
                let at = m * self.weight.d_output + column;
                let mut sum = 0.0;
                for dots in dots {
                    sum += S::sum_dots(dots);
                }
                self.out.at(at).write(sum);
            }
        }
    }

    /// The chunk of `len` elements at `element`.
    #[inline(always)]
    unsafe fn add_chunk<S: Simd, const M: usize, const N: usize>(
        &self,
        unpacked: &Unpacked,
        element: usize,
        len: usize,
        dots: &mut [[S::Dots; N]; M],
    ) {
        // What is subtracted for every unit of the sum of a group of `x`; 0 beyond the end.
        let mut lowered = [0f32; GROUPS];
        let shifted = F::MINIMUMS || F::OFFSET > 0;
        if shifted {
            for (group, lowered) in lowered.iter_mut().enumerate().take(len / F::GROUP) {
                *lowered = match F::MINIMUMS {
                    true => unpacked.minimums[group],
                    false => unpacked.scales[group] * f32::from(F::OFFSET),
                };
            }
        }
        for (m, dots) in dots.iter_mut().enumerate().take(self.rows) {
            let codes = self.x.codes(m, element);
            let scales = self.x.scales(m, element);
            let of_x = scales.cast::<[f32; X_GROUPS]>().read();
            let halves = X_GROUP / F::GROUP;
            let mut scales = [0f32; GROUPS];
            for i in 0..halves * (len / X_GROUP) {
                scales[i] = unpacked.scales[i] * of_x[i / halves];
            }
            let of_weight = unpacked.codes.as_ptr();
            if F::FINE {
                for i in 0..len / X_GROUP {
                    let (of_weight, of_x) = (i * X_GROUP, 2 * i * X_GROUP);
                    let of_weight = unpacked.codes.as_ptr().wrapping_add(of_weight);
                    let dots = &mut dots[i % N];
                    *dots = S::add_fine_dots(*dots, of_weight, codes.wrapping_add(of_x), scales[i]);
                }
                continue;
            }
            // Two groups at a time. Beside the last of an odd number is one whose scales are 0.
            for i in 0..len.div_ceil(2 * X_GROUP) {
                let of_weight = of_weight.wrapping_add(2 * i * X_GROUP);
                let of_x = codes.wrapping_add(2 * i * X_GROUP).cast();
                let scales = scales.as_ptr().wrapping_add(2 * i * halves);
                let dots = &mut dots[i % N];
                *dots = match (F::SIGNED, F::GROUP == X_GROUP) {
                    (true, true) => S::add_dots::<true, false>(*dots, of_weight, of_x, scales),
                    (true, false) => S::add_dots::<true, true>(*dots, of_weight, of_x, scales),
                    (false, true) => S::add_dots::<false, false>(*dots, of_weight, of_x, scales),
                    (false, false) => S::add_dots::<false, true>(*dots, of_weight, of_x, scales),
                };
            }
            if shifted {
                let sums = self.x.sums(m, element);
                for part in (0..CHUNK / F::GROUP).step_by(8) {
                    let (a, b) = (lowered.as_ptr().add(part), sums.add(part));
                    dots[0] = S::subtract_products(dots[0], a, b);
                }
            }
        }
    }
}

/// [`quantized_rows`](crate::kernels::quantized_rows()) on Flex: rows of a quantised matrix, in `dtype`.
pub(super) fn rows(
    blocks: FlexTensor,
    ids: &[usize],
    format: BlockFormat,
    dtype: DType,
) -> FlexTensor {
    let blocks = contiguous_bytes(blocks);
    by_dtype!(dtype, rows_as(&blocks, ids, format))
}

fn rows_as<E: Elem>(blocks: &FlexTensor, ids: &[usize], format: BlockFormat) -> FlexTensor {
    let [_, row] = blocks.layout().shape().dims();
    let width = format.row_elements(row).unwrap_or(0);
    let bytes = bytes(blocks);
    let mut out = Output::<E>::new(ids.len() * width);
    let mut wide = vec![0f32; width];
    for (i, &id) in ids.iter().enumerate() {
        format.dequantize(&bytes[id * row..][..row], &mut wide);
        for (j, &value) in wide.iter().enumerate() {
            // SAFETY: the output has a row of `width` for each id.
            unsafe { out.ptr().at(i * width + j).write(E::narrow(value)) };
        }
    }
    // SAFETY: every element was written.
    unsafe { out.finish(super::view::row_major([ids.len(), width])) }
}

/// [`dequantize`](crate::kernels::dequantize()) on Flex.
pub(super) fn dequantize(blocks: FlexTensor, format: BlockFormat, dtype: DType) -> FlexTensor {
    let blocks = contiguous_bytes(blocks);
    by_dtype!(dtype, dequantize_as(&blocks, format))
}

fn dequantize_as<E: Elem>(blocks: &FlexTensor, format: BlockFormat) -> FlexTensor {
    let [rows, row] = blocks.layout().shape().dims();
    let width = format.row_elements(row).unwrap_or(0);
    let bytes = bytes(blocks);
    let mut out = Output::<E>::new(rows * width);
    let to = out.ptr();
    (0..rows)
        .into_par_iter()
        .for_each_init(Vec::new, |wide, id| {
            wide.resize(width, 0.0);
            format.dequantize(&bytes[id * row..][..row], wide);
            for (j, &value) in wide.iter().enumerate() {
                // SAFETY: the output has a row of `width` for each row of blocks.
                unsafe { to.at(id * width + j).write(E::narrow(value)) };
            }
        });
    // SAFETY: every element was written.
    unsafe { out.finish(super::view::row_major([rows, width])) }
}

const _: () = assert!(
    WIDEST >= 3 * LINE,
    "the widest panel has three vectors of a line"
);

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Int, Tensor, TensorData};
    use burn_flex::Flex;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// Rows of blocks with any codes, scales of groups at the ends of their ranges among them, and finite scales of
    /// blocks.
    fn random_blocks(format: BlockFormat, rows: usize, width: usize, rng: &mut StdRng) -> Vec<u8> {
        struct Fill<'a>(&'a mut [u8], &'a mut StdRng);
        impl ForBlocks for Fill<'_> {
            type Output = ();
            fn run<F: Blocks>(self) {
                let Fill(bytes, rng) = self;
                for (i, block) in bytes.chunks_exact_mut(F::BYTES).enumerate() {
                    match i % 4 {
                        0 => block.fill(0xff),
                        1 => block.fill(0x80),
                        _ => rng.fill(&mut *block),
                    }
                    let mut scale = || rng.random_range(-1f32..1.0);
                    for &at in F::HALVES {
                        block[at..at + 2]
                            .copy_from_slice(&half::f16::from_f32(scale()).to_le_bytes());
                    }
                    if F::HALVES.is_empty() {
                        block[..4].copy_from_slice(&scale().to_le_bytes());
                    }
                    if F::FLOATS {
                        // No code that is no number.
                        block[4..].iter_mut().for_each(|code| *code &= 0xfe);
                    }
                }
            }
        }
        let mut bytes = vec![0; rows * format.row_bytes(width).unwrap()];
        format.run(Fill(&mut bytes, rng));
        assert_eq!(format.first_not_finite(&bytes), None);
        bytes
    }

    fn flex<const D: usize>(values: &[f32], shape: [usize; D]) -> FlexTensor {
        let data = TensorData::new(values.to_vec(), shape);
        let tensor = Tensor::<D>::from_data(data, &Device::flex());
        tensor.try_into_primitive::<Flex>().unwrap()
    }

    /// Against float64, for every format, instruction set and kernel. Up to 8 rows `x` is in whole numbers of which
    /// one in each group of 32 is 127, so that eight bits hold it exactly.
    #[test]
    fn every_format_equals_float64() {
        let rng = &mut StdRng::seed_from_u64(7);
        for &format in BlockFormat::ALL {
            let width = match format.block_len() {
                32 => 256 + 96,
                len if len < CHUNK => 3 * len,
                len => 2 * len,
            };
            let columns = 53;
            let bytes = random_blocks(format, columns, width, rng);
            let mut weight = vec![0f32; columns * width];
            format.dequantize(&bytes, &mut weight);
            let row = bytes.len() / columns;
            let data = TensorData::new(bytes, [columns, row]);
            let blocks = Tensor::<2, Int>::from_data(data, (&Device::flex(), DType::U8));
            let blocks: FlexTensor = blocks.try_into_primitive::<Flex>().unwrap();
            let bias: Vec<f32> = (0..columns).map(|i| i as f32 / 8.0).collect();
            for rows in [1, 2, 3, 7, 8, 9, 30] {
                let mut x: Vec<f32> = (0..rows * width)
                    .map(|_| rng.random_range(-127i32..=127) as f32)
                    .collect();
                x.iter_mut().step_by(X_GROUP).for_each(|x| *x = 127.0);
                for level in Level::available() {
                    // Tiles hold the weight in bf16.
                    let in_tiles = level.has_tiles() && rows > STREAM_ROWS;
                    let rounded = |w: f32| match in_tiles {
                        true => half::bf16::from_f32(w).to_f64(),
                        false => w.into(),
                    };
                    let allowed = if in_tiles { 1e-4 } else { 2e-6 };
                    // And `x`, which need not be whole there.
                    let x: Vec<f32> = match in_tiles {
                        true => x.iter().map(|x| x * 1.013).collect(),
                        false => x.clone(),
                    };
                    let bias_given = flex(&bias, [columns]);
                    let x_given = flex(&x, [rows, width]);
                    let out = linear(x_given, blocks.clone(), Some(bias_given), format, level);
                    let out: &[f32] = out.storage();
                    for (i, &found) in out.iter().enumerate() {
                        let (x, weight) =
                            (&x[i / columns * width..], &weight[i % columns * width..]);
                        let products = || {
                            (x.iter().zip(weight).take(width))
                                .map(|(&x, &w)| rounded(x) * rounded(w))
                        };
                        let expected = products().sum::<f64>() + f64::from(bias[i % columns]);
                        let size = products().map(f64::abs).sum::<f64>() + 1.0;
                        let error = (f64::from(found) - expected).abs() / size;
                        assert!(
                            error < allowed,
                            "{format}, {rows} rows, {level:?}, {i}: {found}, not {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn rows_without_elements_are_the_bias() {
        let bias = [1.0, 2.0, 3.0];
        let data = TensorData::new(Vec::<u8>::new(), [3, 0]);
        let blocks = Tensor::<2, Int>::from_data(data, (&Device::flex(), DType::U8));
        let blocks: FlexTensor = blocks.try_into_primitive::<Flex>().unwrap();
        for level in Level::available() {
            for rows in [2, 40] {
                // Leaves what is no zero in the memory that kernels work with.
                let scratch = Scratch::new([1 << 16]);
                // SAFETY: the area has so many elements.
                unsafe { core::slice::from_raw_parts_mut(scratch.areas[0], 1 << 16).fill(7.0) };
                drop(scratch);
                let given = flex(&bias, [3]);
                let x = flex(&[], [rows, 0]);
                let out = linear(x, blocks.clone(), Some(given), BlockFormat::Q8_0, level);
                let out: &[f32] = out.storage();
                assert_eq!(out, bias.repeat(rows), "{level:?}, {rows} rows");
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let format = BlockFormat::Q8_0;
        let rng = &mut StdRng::seed_from_u64(8);
        let bytes = random_blocks(format, 4, 64, rng);
        let data = TensorData::new(bytes, [4, format.row_bytes(64).unwrap()]);
        let blocks = Tensor::<2, Int>::from_data(data, (&Device::flex(), DType::U8));
        let blocks: FlexTensor = blocks.try_into_primitive::<Flex>().unwrap();
        for level in Level::available() {
            for odd in [f32::NAN, f32::INFINITY] {
                let mut x = vec![1f32; 64];
                x[40] = odd;
                let out = linear(flex(&x, [1, 64]), blocks.clone(), None, format, level);
                let out: &[f32] = out.storage();
                assert!(
                    out.iter().all(|x| !x.is_finite()),
                    "{level:?} {odd}: {out:?}"
                );
            }
            for tiny in [0.0, 1e-44, f32::MIN_POSITIVE] {
                let out = linear(
                    flex(&[tiny; 64], [1, 64]),
                    blocks.clone(),
                    None,
                    format,
                    level,
                );
                let out: &[f32] = out.storage();
                assert!(
                    out.iter().all(|x| x.abs() < 1e-30),
                    "{level:?} {tiny}: {out:?}"
                );
            }
        }
    }

    #[test]
    fn rows_are_looked_up_and_dequantised() {
        let rng = &mut StdRng::seed_from_u64(9);
        for &format in BlockFormat::ALL {
            let bytes = random_blocks(format, 6, 256, rng);
            let mut weight = vec![0f32; 6 * 256];
            format.dequantize(&bytes, &mut weight);
            let data = TensorData::new(bytes, [6, format.row_bytes(256).unwrap()]);
            let blocks = Tensor::<2, Int>::from_data(data, (&Device::flex(), DType::U8));
            // A view: rows 1 to 4.
            let view = blocks.slice([1..5, 0..format.row_bytes(256).unwrap()]);
            let view: FlexTensor = view.try_into_primitive::<Flex>().unwrap();
            let found = rows(view.clone(), &[3, 0], format, DType::F32);
            assert_eq!(
                found.storage::<f32>()[..256],
                weight[4 * 256..5 * 256],
                "{format}"
            );
            assert_eq!(
                found.storage::<f32>()[256..],
                weight[256..2 * 256],
                "{format}"
            );
            let all = dequantize(view, format, DType::F32);
            assert_eq!(all.storage::<f32>(), &weight[256..5 * 256], "{format}");
        }
    }
}
