//! Weights that stay quantised: every format on every device, beside what a processor makes of its blocks.

use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use burn_apb::kernels::{BlockFormat, dequantize, quantized_linear, quantized_rows};
use burn_apb::model::{QuantizedLinear, QuantizedLinearConfig};

use crate::places::{Place, places};
use crate::tensors::{noise, values};

/// Of the largest output, in f32: other orders of sums.
const SUMS: f32 = 1e-4;

/// Where the f16 of a block are; none where it begins with an f32.
fn halves(format: BlockFormat) -> &'static [usize] {
    match format.name() {
        "Q4_0" | "Q5_0" | "Q8_0" | "IQ4_NL" | "IQ4_XS" => &[0],
        "Q4_1" | "Q5_1" | "Q4_K" | "Q5_K" => &[0, 2],
        "Q2_K" => &[80, 82],
        "Q3_K" => &[108],
        "Q6_K" => &[208],
        _ => &[],
    }
}

/// Rows of blocks of any bytes, with scales of either sign: below 1 and not small, or `wide`, of every exponent.
fn blocks(format: BlockFormat, rows: usize, width: usize, wide: bool, seed: u64) -> Vec<u8> {
    let len = rows * format.row_bytes(width).unwrap();
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as u8
    };
    let mut bytes: Vec<u8> = (0..len).map(|_| next()).collect();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        let any = next();
        for &half in halves(format) {
            block[half + 1] = match wide {
                // Not infinite, and below the first exponent often.
                true if any & 0x7c == 0x7c || any & 7 == 0 => any & 0x80,
                true => any,
                false => any & 0x83 | 0x28,
            };
        }
        if halves(format).is_empty() {
            // As large or small as that numbers below the first exponent of f32 do not arise: devices may make them 0.
            block[3] = match wide {
                true => any & 0x80 | [0x20, 0x30, 0x3c, 0x4a, 0x5e][usize::from(any) % 5],
                false => any & 0x80 | 0x3c,
            };
            for code in block[4..].iter_mut().filter(|code| **code & 0x7f == 0x7f) {
                *code -= 1;
            }
        }
    }
    assert_eq!(format.first_not_finite(&bytes), None, "{format}");
    bytes
}

fn tensor(bytes: &[u8], rows: usize, device: &Device) -> Tensor<2, Int> {
    let data = TensorData::new(bytes.to_vec(), [rows, bytes.len() / rows]);
    Tensor::from_data(data, (device, DType::U8))
}

/// What a processor makes of blocks.
fn elements(format: BlockFormat, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / format.block_bytes() * format.block_len()];
    format.dequantize(bytes, &mut out);
    out
}

/// What is off at most by rounding to a type, of a number.
fn rounding(dtype: DType) -> f32 {
    match dtype {
        DType::F16 => 2f32.powi(-10),
        DType::BF16 => 2f32.powi(-7),
        _ => 0.0,
    }
}

#[test]
fn every_format_is_what_a_processor_makes_of_it() {
    for place in places() {
        for (seed, &format) in BlockFormat::ALL.iter().enumerate() {
            // Rows of one block, whose ends are not those of words, and of several.
            for (rows, blocks_of_row) in [(1, 1), (3, 1), (5, 3)] {
                let width = blocks_of_row * format.block_len();
                let bytes = blocks(format, rows, width, true, seed as u64);
                let expected = elements(format, &bytes);
                let on_device = tensor(&bytes, rows, &place.device);
                let got = dequantize(on_device, format, FloatDType::F32).unwrap();
                assert_eq!(got.dims(), [rows, width]);
                for (at, (got, expected)) in values(got).into_iter().zip(&expected).enumerate() {
                    let name = place.name;
                    assert_eq!(
                        got.to_bits(),
                        expected.to_bits(),
                        "{name} {format} at {at}: {got}, {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn elements_are_rounded_to_the_type_asked_for() {
    for place in places() {
        for &dtype in &place.dtypes {
            for format in [BlockFormat::Q4_0, BlockFormat::Q6K, BlockFormat::Int4x64] {
                let width = 2 * format.block_len();
                let bytes = blocks(format, 3, width, false, 7);
                let on_device = tensor(&bytes, 3, &place.device);
                let got = dequantize(on_device, format, dtype.into()).unwrap();
                assert_eq!(got.dtype(), dtype);
                for (got, expected) in values(got).into_iter().zip(elements(format, &bytes)) {
                    let error = (got - expected).abs();
                    assert!(
                        // Beside numbers below the type's first exponent.
                        error <= rounding(dtype) * expected.abs() + 1e-7,
                        "{} {format} {dtype:?}: {got}, {expected}",
                        place.name
                    );
                }
            }
        }
    }
}

/// Compares a product on a device with one of f64.
fn check_product(place: &Place, format: BlockFormat, dtype: DType, rows: usize, bias: bool) {
    // More pieces than units share, and an odd number of outputs, more than a cube's.
    const WIDTH: usize = 1280;
    const OUTPUTS: usize = 13;
    let bytes = blocks(format, OUTPUTS, WIDTH, false, rows as u64);
    let weight = elements(format, &bytes);
    let x = noise([1, rows, WIDTH], 3).cast(dtype);
    let bias = bias.then(|| noise([OUTPUTS], 5).mul_scalar(30.0));
    let got = quantized_linear(
        place.take(x.clone()),
        tensor(&bytes, OUTPUTS, &place.device),
        format,
        bias.clone().map(|bias| place.take(bias)),
    );
    let got = got.unwrap();
    assert_eq!((got.dims(), got.dtype()), ([1, rows, OUTPUTS], dtype));

    let (x, got) = (values(x), values(got));
    let bias = bias.map_or_else(|| vec![0.0; OUTPUTS], values);
    let expected: Vec<f64> = (0..rows * OUTPUTS)
        .map(|at| {
            let (row, output) = (at / OUTPUTS, at % OUTPUTS);
            let products = (0..WIDTH)
                .map(|i| f64::from(x[row * WIDTH + i]) * f64::from(weight[output * WIDTH + i]));
            products.sum::<f64>() + f64::from(bias[output])
        })
        .collect();
    let largest = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    // Where the weight is rounded too: more than its errors add up to.
    let allowed = match dtype {
        DType::F32 => SUMS,
        dtype => 4.0 * rounding(dtype),
    };
    for (got, expected) in got.into_iter().zip(expected) {
        let error = (f64::from(got) - expected).abs();
        assert!(
            error <= f64::from(allowed) * largest,
            "{} {format} {dtype:?}, {rows} rows, bias {}: {got}, {expected}",
            place.name,
            bias.iter().any(|bias| *bias != 0.0),
        );
    }
}

/// Places other than Flex, whose products in eight bits have tests of their own.
fn devices() -> Vec<Place> {
    places().split_off(1)
}

#[test]
fn products_of_every_format_are_those_of_its_elements() {
    for place in devices() {
        for &format in BlockFormat::ALL {
            check_product(&place, format, DType::F32, 2, true);
        }
    }
}

#[test]
fn few_and_many_rows_are_multiplied() {
    // Each number of rows is compiled anew: a format with whole words, and one without.
    for place in devices() {
        for format in [BlockFormat::Q4K, BlockFormat::Q5_0] {
            for (rows, bias) in [(1, false), (3, true), (8, false), (9, true), (40, false)] {
                check_product(&place, format, DType::F32, rows, bias);
            }
        }
    }
}

#[test]
fn products_have_the_type_of_x() {
    for place in devices() {
        for dtype in place.dtypes.clone() {
            for format in [BlockFormat::Q8_0, BlockFormat::Q4K, BlockFormat::Fp8x128] {
                for (rows, bias) in [(1, true), (2, false), (9, true)] {
                    check_product(&place, format, dtype, rows, bias);
                }
            }
        }
    }
}

#[test]
fn rows_are_looked_up_and_those_that_are_not_there_are_the_last() {
    for place in places() {
        for (seed, &format) in BlockFormat::ALL.iter().enumerate() {
            let width = 2 * format.block_len();
            let bytes = blocks(format, 5, width, false, seed as u64);
            let all = elements(format, &bytes);
            let ids = [3, 0, 5, -1, 3, i32::MAX];
            let named = Tensor::<1, Int>::from_data(ids, (&place.device, DType::I32));
            let on_device = tensor(&bytes, 5, &place.device);
            let got = quantized_rows(on_device, named, format, FloatDType::F32).unwrap();
            assert_eq!(got.dims(), [6, width]);
            let expected: Vec<f32> = [3, 0, 4, 4, 3, 4]
                .into_iter()
                .flat_map(|row| all[row * width..][..width].iter().copied())
                .collect();
            assert_eq!(values(got), expected, "{} {format}", place.name);
        }
    }
}

#[test]
fn views_of_blocks_are_read() {
    for place in places() {
        for format in [BlockFormat::Q4_0, BlockFormat::Q5K] {
            let (rows, width) = (3, 2 * format.block_len());
            let bytes = blocks(format, rows, width, false, 11);
            let columns: Vec<u8> = (0..bytes.len())
                .map(|at| bytes[at % rows * (bytes.len() / rows) + at / rows])
                .collect();
            let view = tensor(&columns, bytes.len() / rows, &place.device).transpose();
            let got = dequantize(view, format, FloatDType::F32).unwrap();
            assert_eq!(values(got), elements(format, &bytes), "{}", place.name);
        }
    }
}

#[test]
fn nothing_is_computed_of_nothing() {
    for place in places() {
        let format = BlockFormat::Q4_0;
        let none = TensorData::new(Vec::<u8>::new(), [0, 18]);
        let none = Tensor::from_data(none, (&place.device, DType::U8));
        let got = dequantize(none, format, FloatDType::F32).unwrap();
        assert_eq!(got.dims(), [0, 32]);
        let one = tensor(&[0; 18], 1, &place.device);
        let x = place.take(noise([1, 32], 1)).slice([0..0, 0..32]);
        assert_eq!(
            quantized_linear(x, one, format, None).unwrap().dims(),
            [0, 1]
        );
    }
}

#[test]
fn layers_move_between_devices() {
    let format = BlockFormat::Q8_0;
    for place in places() {
        let bytes = blocks(format, 4, 64, false, 13);
        let flex = Device::flex();
        let order: Vec<i32> = (0..64).map(|i| (i * 5 + 3) % 64).collect();
        let order = Tensor::<1, Int>::from_data(&order[..], (&flex, DType::I32));
        let layer = QuantizedLinear::from_blocks(tensor(&bytes, 4, &flex), None, format).unwrap();
        let layer = layer.with_order(order).unwrap();
        let x = noise([2, 64], 17);
        let weight = layer.dequantize(FloatDType::F32).unwrap();
        let expected = values(x.clone().matmul(weight.transpose()));
        let moved = burn::module::Module::to_device(layer, &place.device);
        let got = values(moved.forward(place.take(x)).unwrap());
        let most = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        for (got, expected) in got.iter().zip(&expected) {
            // On a CPU x is rounded to fifteen bits.
            assert!((got - expected).abs() <= 1e-3 * most, "{got}, {expected}");
        }
        assert_eq!(moved.blocks.val().into_data().as_bytes(), bytes);

        let empty = QuantizedLinearConfig::new(64, 4, format);
        let empty = empty.init(&place.device).unwrap();
        let zeros = empty.forward(place.take(noise([2, 64], 1))).unwrap();
        assert_eq!(values(zeros), [0.0; 8]);
    }
}
