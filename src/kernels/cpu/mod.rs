//! The operations on Flex: vector instructions chosen at run time, work shared by rayon's threads.
//!
//! Everything under here is pointers and strides of tensors that have been checked, so whole functions
//! are unsafe, and what they rely on stands in their documentation.
#![allow(unsafe_op_in_unsafe_fn)]
// Kernels walk several short arrays of vectors at once, which reads best by index.
#![allow(clippy::needless_range_loop)]

mod activations;
mod attention;
mod dots;
mod float_codes;
mod gather;
mod kv_blocks;
mod linear;
mod packed;
mod panels;
mod piece;
mod quantized;
mod rows;
mod scratch;
mod selection;
mod simd;
mod stored;
mod stream;
mod tile;
mod tiles;
mod view;
#[cfg(target_arch = "x86_64")]
mod x86;

use burn::tensor::FloatDType;
use burn_flex::{Flex, FlexTensor};

use self::simd::Level;
use super::extension::{AddedPrimitives, AttentionPrimitives, Kernels};
use super::{BlockFormat, KernelError, Regions, RowChoice, plain};

impl Kernels for Flex {
    fn attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        regions: Regions,
    ) -> AttentionPrimitives<Self> {
        attention::attention(q, k, v, regions, Level::best())
    }

    fn quantized_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        regions: Regions,
    ) -> AttentionPrimitives<Self> {
        kv_blocks::attention(q, &k, &v, regions, Level::best())
    }

    fn quantize_rows(x: FlexTensor) -> FlexTensor {
        kv_blocks::quantize(x, Level::best())
    }

    fn linear(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        linear::linear(x, weight, None, Level::best())
    }

    fn linear_bias(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        linear::linear(x, weight, Some(bias), Level::best())
    }

    fn dequantize_blocks(blocks: FlexTensor, format: BlockFormat, dtype: FloatDType) -> FlexTensor {
        quantized::dequantize(blocks, format, dtype.into())
    }

    fn quantized_linear(x: FlexTensor, blocks: FlexTensor, format: BlockFormat) -> FlexTensor {
        quantized::linear(x, blocks, None, format, Level::best())
    }

    fn quantized_linear_bias(
        x: FlexTensor,
        blocks: FlexTensor,
        bias: FlexTensor,
        format: BlockFormat,
    ) -> FlexTensor {
        quantized::linear(x, blocks, Some(bias), format, Level::best())
    }

    fn quantized_rows(
        blocks: FlexTensor,
        ids: FlexTensor,
        format: BlockFormat,
        dtype: FloatDType,
    ) -> FlexTensor {
        let last = blocks.layout().shape()[0].saturating_sub(1);
        quantized::rows(
            blocks,
            &plain::row_ids::<Flex>(ids, last),
            format,
            dtype.into(),
        )
    }

    fn rms_norm(x: FlexTensor, gamma: FlexTensor, eps: f64) -> FlexTensor {
        rows::rms_norm(x, &gamma, eps, Level::best())
    }

    fn add_rms_norm(
        x: FlexTensor,
        residual: FlexTensor,
        gamma: FlexTensor,
        eps: f64,
    ) -> AddedPrimitives<Self> {
        let [sum, normed] = rows::add_rms_norm(x, residual, &gamma, eps, Level::best());
        AddedPrimitives { sum, normed }
    }

    fn add(x: FlexTensor, y: FlexTensor) -> FlexTensor {
        rows::add(x, y, Level::best())
    }

    fn merge(
        out: FlexTensor,
        lse: FlexTensor,
        other_out: FlexTensor,
        other_lse: FlexTensor,
    ) -> AttentionPrimitives<Self> {
        let [out, lse] = rows::merge([out, lse], [other_out, other_lse], Level::best());
        AttentionPrimitives { out, lse }
    }

    fn silu_mul(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        rows::silu_mul(gate, up, Level::best())
    }

    fn rotate(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, heads: usize) -> FlexTensor {
        rows::rotate(x, cos, sin, heads, Level::best())
    }

    fn silu_scores(hidden: FlexTensor, weight: FlexTensor) -> FlexTensor {
        selection::silu_scores(hidden, &weight, Level::best())
    }

    fn select_rows(scores: FlexTensor, before: FlexTensor, choice: RowChoice) -> FlexTensor {
        selection::select_rows(scores, before, &choice)
    }

    fn gather_rows(keys: FlexTensor, values: FlexTensor, rows: FlexTensor) -> FlexTensor {
        selection::gather_rows(&keys, &values, rows)
    }
}

/// The instruction set that the CPU kernels use: the best of this processor, or the one that the variable `APB_CPU`
/// names (`amx`, `avx512bf16`, `avx512vnni`, `avx512`, `avx2` or `portable`).
///
/// # Errors
///
/// [`KernelError::InstructionSet`] when `APB_CPU` names none that this processor has; the kernels then use the best.
pub fn simd_name() -> Result<&'static str, KernelError> {
    Level::chosen().map(Level::name)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, Distribution, Int, Tensor};
    use burn_flex::{Flex, FlexTensor};

    use super::simd::Level;
    use super::{attention, kv_blocks, linear, rows};
    use crate::kernels::{BlockFormat, Regions, plain, reference};

    const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

    /// A smaller size under Miri, which takes a thousand times as long.
    const fn size(usual: usize, under_miri: usize) -> usize {
        if cfg!(miri) { under_miri } else { usual }
    }

    fn random<const D: usize>(shape: [usize; D], dtype: DType) -> Tensor<D> {
        let values: Tensor<D> =
            Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex());
        values.cast(dtype)
    }

    fn primitive<const D: usize>(tensor: &Tensor<D>) -> FlexTensor {
        tensor.clone().try_into_primitive::<Flex>().unwrap()
    }

    /// The largest difference, allowing for the rounding of the result's type.
    fn check<const D: usize>(got: FlexTensor, expected: Tensor<D>, label: &str) {
        let dtype = expected.dtype();
        check_as(got, expected, dtype, label);
    }

    /// As [`check`], allowing for the rounding of `rounded`.
    fn check_as<const D: usize>(got: FlexTensor, expected: Tensor<D>, rounded: DType, label: &str) {
        let dtype = expected.dtype();
        assert_eq!(got.dtype(), dtype, "{label}");
        let got = Tensor::<D>::from_primitive::<Flex>(got);
        let got = got.cast(DType::F32);
        let expected = expected.cast(DType::F32);
        let largest: f32 = expected.clone().abs().max().into_scalar();
        let error: f32 = (got - expected).abs().max().into_scalar();
        let unit = match rounded {
            DType::F32 => 3e-6,
            DType::F16 => 1e-3,
            _ => 8e-3,
        };
        assert!(error <= unit * largest.max(1.0), "{label}: off by {error}");
    }

    /// The tests of the whole crate see the best instruction set only.
    #[test]
    fn every_instruction_set_equals_the_references() {
        for level in Level::available() {
            for dtype in DTYPES {
                let label = format!("{level:?} {dtype:?}");
                let (width, keys) = (size(64, 16), size(130, 40));
                for (heads, rows, head_dim) in [
                    (6, 1, width),
                    (6, 2, size(80, 24)),
                    (6, size(37, 6), width),
                    (8, size(50, 7), 20),
                ] {
                    let regions = Regions {
                        passing: 21,
                        anchor: 11,
                        causal: true,
                    };
                    let q = random([2, heads, rows, head_dim], dtype);
                    let [k, v] = [(); 2].map(|()| random([2, 2, keys, head_dim], dtype));
                    let expected = reference::attention(q.clone(), k.clone(), v.clone(), regions);
                    let [q, k, v] = [q, k, v].map(|x| primitive(&x));
                    let got = attention::attention(q, k, v, regions, level);
                    let label = format!("{label} attention of {rows} rows of {head_dim}");
                    check(got.out, expected.out, &label);
                    check(got.lse, expected.lse, &label);
                }
                for (rows, head_dim) in [(1, 64), (size(300, 9), size(80, 24)), (7, 20)] {
                    let [out, other] =
                        [DType::F32, dtype].map(|dtype| random([2, 3, rows, head_dim], dtype));
                    // Rows of which one part, or neither, has keys.
                    let [lse, other_lse] = [3, 5].map(|each| {
                        let lse = random([2, 3, rows], DType::F32) * 20.0;
                        let places = Tensor::<1, Int>::arange(0..6 * rows as i64, &Device::flex());
                        let none = places
                            .remainder_scalar(each)
                            .equal_scalar(0)
                            .reshape([2, 3, rows]);
                        lse.mask_fill(none, f32::NEG_INFINITY)
                    });
                    let part = |out: &Tensor<4>, lse: &Tensor<3>| (primitive(out), primitive(lse));
                    let (expected, expected_lse) =
                        plain::merge::<Flex>(part(&out, &lse), part(&other, &other_lse));
                    let [got, got_lse] = rows::merge(
                        [primitive(&out), primitive(&lse)],
                        [primitive(&other), primitive(&other_lse)],
                        level,
                    );
                    let label = format!("{label} merge of {rows} rows of {head_dim}");
                    let visible = |lse| Tensor::<3>::from_primitive::<Flex>(lse).clamp_min(-1e30);
                    let got_lse = visible(got_lse).try_into_primitive::<Flex>().unwrap();
                    check(got, Tensor::<4>::from_primitive::<Flex>(expected), &label);
                    check(got_lse, visible(expected_lse), &label);
                }
                // Keys and values of a cache in another dtype.
                for kv_dtype in DTYPES.into_iter().filter(|_| dtype == DType::F32) {
                    for rows in [1, size(40, 6)] {
                        let q = random([1, 4, rows, width], dtype);
                        let kv = [1, 2, size(90, 30), width];
                        let [k, v] = [(); 2].map(|()| random(kv, kv_dtype));
                        let [wide_k, wide_v] = [&k, &v].map(|x| x.clone().cast(dtype));
                        let regions = Regions::causal();
                        let expected = reference::attention(q.clone(), wide_k, wide_v, regions);
                        let [q, k, v] = [q, k, v].map(|x| primitive(&x));
                        let got = attention::attention(q, k, v, regions, level);
                        let label = format!("{label} attention over {kv_dtype:?}");
                        // Tiles take queries in the dtype of the keys.
                        let rounded = match level.has_tiles() && rows > 1 {
                            true => kv_dtype,
                            false => dtype,
                        };
                        check_as(got.out, expected.out, rounded, &label);
                    }
                }
                // In blocks; the second is several parts long.
                let (few, many) = (size(90, 40), size(1300, 520));
                for (rows, keys, head_dim) in [
                    (1, few, 64),
                    (3, many, 32),
                    (size(40, 5), many, size(64, 32)),
                ] {
                    let q = random([2, 4, rows, head_dim], dtype);
                    // As rows of a cache, which has room behind them.
                    let room = [2, 2, keys + 5, head_dim];
                    let [k, v] = [(); 2].map(|()| random(room, DType::F32)).map(|x| {
                        let blocks = kv_blocks::quantize(primitive(&x), level);
                        let blocks = Tensor::<4, Int>::from_primitive::<Flex>(blocks);
                        let held = blocks.narrow(2, 0, keys);
                        held.try_into_primitive::<Flex>().unwrap()
                    });
                    let regions = Regions {
                        passing: 21,
                        anchor: 11,
                        causal: true,
                    };
                    let [q, k, v] = [primitive(&q), k, v];
                    let (given, blocks) = (q.clone(), [k.clone(), v.clone()]);
                    let expected = plain::quantized_attention::<Flex>(q, k, v, regions);
                    let [k, v] = &blocks;
                    let got = kv_blocks::attention(given, k, v, regions, level);
                    let label = format!("{label} attention of {rows} rows over blocks");
                    // Tiles take values in bf16.
                    let rounded = match level.has_tiles() && dtype == DType::F32 && rows > 4 {
                        true => DType::BF16,
                        false => dtype,
                    };
                    let out = Tensor::<4>::from_primitive::<Flex>(expected.out);
                    check_as(got.out, out, rounded, &label);
                    let lse = Tensor::<3>::from_primitive::<Flex>(expected.lse);
                    check_as(got.lse, lse, rounded, &label);
                }
                // Halves, signs, zeros and what is no number.
                let mut values: Vec<f32> = (0..96).map(|i| (i as f32 - 40.0) * 0.5).collect();
                values[0] = 127.0 * 0.5;
                values[32..64].fill(0.0);
                let whole = Tensor::<1>::from_floats(&values[..64], &Device::flex());
                let whole = whole.reshape([1, 1, 2, 32]).cast(dtype);
                let expected = plain::quantize_rows::<Flex>(primitive(&whole));
                let got = kv_blocks::quantize(primitive(&whole), level);
                let bytes = |blocks| Tensor::<4, Int>::from_primitive::<Flex>(blocks).into_data();
                assert_eq!(bytes(got), bytes(expected), "{label} blocks");
                for bad in [f32::NAN, f32::INFINITY] {
                    values[95] = bad;
                    let row = Tensor::<1>::from_floats(&values[64..], &Device::flex());
                    let row = row.reshape([1, 1, 1, 32]).cast(dtype);
                    let block = bytes(kv_blocks::quantize(primitive(&row), level));
                    let block = block.as_bytes();
                    assert_eq!(
                        BlockFormat::Q8_0.first_not_finite(block),
                        Some(0),
                        "{label}"
                    );
                }
                for (rows, d_input, d_output) in [
                    (1, 100, size(90, 9)),
                    (3, 70, size(33, 5)),
                    (7, 64, 9),
                    (size(45, 18), 70, size(101, 33)),
                ] {
                    for weight_dtype in DTYPES {
                        let x = random([rows, d_input], dtype);
                        let weight = random([d_output, d_input], weight_dtype).transpose();
                        let bias = random([d_output], DType::F32);
                        let expected =
                            reference::linear(x.clone(), weight.clone(), Some(bias.clone()));
                        let got = linear::linear(
                            primitive(&x),
                            primitive(&weight),
                            Some(primitive(&bias)),
                            level,
                        );
                        let label = format!("{label} linear {rows} x {d_input} x {d_output}");
                        check(got, expected, &label);
                    }
                }
                let x = random([2, 5, 78], dtype);
                let y = random([2, 5, 78], dtype);
                let gamma = random([78], DType::F32);
                let expected = reference::rms_norm(x.clone(), gamma.clone(), 1e-5);
                let got = rows::rms_norm(primitive(&x), &primitive(&gamma), 1e-5, level);
                check(got, expected, &format!("{label} norm"));
                let sum = x.clone() + y.clone();
                let expected = reference::rms_norm(sum.clone(), gamma.clone(), 1e-5);
                let [x_given, y_given] = [&x, &y].map(primitive);
                let got = rows::add_rms_norm(x_given, y_given, &primitive(&gamma), 1e-5, level);
                let [got_sum, got] = got;
                check(got_sum, sum.clone(), &format!("{label} sum before a norm"));
                check(got, expected, &format!("{label} norm of a sum"));
                let got = rows::add(primitive(&x), primitive(&y), level);
                check(got, sum, &format!("{label} sum"));
                let expected = reference::silu_mul(x.clone(), y.clone());
                let got = rows::silu_mul(primitive(&x), primitive(&y), level);
                check(got, expected, &format!("{label} gate"));
                let [cos, sin] = [(); 2].map(|()| random([5, 13], DType::F32));
                let expected = reference::rotate(x.clone(), cos.clone(), sin.clone(), 3);
                let got = rows::rotate(primitive(&x), primitive(&cos), primitive(&sin), 3, level);
                check(got, expected, &format!("{label} rotation"));
            }
        }
    }

    #[test]
    fn powers_of_two_are_exact_to_a_few_units() {
        use super::simd::{Job, Simd};
        struct Exp2(f32);
        impl Job for Exp2 {
            type Output = f32;
            #[inline(always)]
            unsafe fn run<S: Simd>(self) -> f32 {
                let mut lanes = [0f32; 16];
                S::store(lanes.as_mut_ptr(), S::exp2(S::splat(self.0)));
                lanes[0]
            }
        }
        for level in Level::available() {
            for i in (-12_500..=0).step_by(size(1, 500)) {
                let x = i as f32 * 0.01;
                let exact = (x as f64).exp2();
                let error = (level.run(Exp2(x)) as f64 - exact).abs() / exact;
                assert!(error < 1.5e-7, "{level:?}: 2^{x} off by {error}");
            }
            assert_eq!(level.run(Exp2(f32::NEG_INFINITY)), 0.0);
            assert_eq!(level.run(Exp2(f32::MIN)), 0.0);
            assert_eq!(level.run(Exp2(200.0)), f32::INFINITY);
            assert!(level.run(Exp2(f32::NAN)).is_nan());
        }
    }
}
