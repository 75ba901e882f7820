//! The operations around attention, beside their references on the CPU.

use burn::tensor::{DType, Device, Tensor};
use burn_apb::kernels::{linear, reference, rms_norm, rotate, silu_mul};
use serde_json::json;

use super::setup::{
    Failures, device, exact_products, largest_difference, noise, products, report, to, values,
};

/// Largest error relative to the largest value, by dtype.
fn unit(dtype: DType, product: bool) -> f32 {
    match dtype {
        DType::F32 if product && !exact_products() => 1e-3,
        DType::F32 => 3e-6,
        DType::F16 => 1e-3,
        _ => 8e-3,
    }
}

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

fn compare<const D: usize>(
    failures: &mut Failures,
    label: &str,
    got: Tensor<D>,
    expected: Tensor<D>,
    unit: f32,
) {
    let size = values(expected.clone())
        .into_iter()
        .fold(1e-3f32, |m, x| m.max(x.abs()));
    let error = largest_difference(got, expected) / size;
    report(&json!({ "operation": label, "error": error, "allowed": unit }));
    failures.check(error <= unit, || {
        format!("{label}: off by {error} of the largest, {unit} allowed")
    });
}

fn linear_layers(dtype: DType) {
    let Some(device) = device() else { return };
    let mut failures = Failures::default();
    report(&json!({ "products": products() }));
    // Few shapes: without cuBLASLt each is tuned first. tests/kernels has more.
    for (rows, d_input, d_output, biased, stored) in [
        (1, 576, 1536, false, true),
        (5, 70, 33, true, false),
        (130, 576, 1536, true, true),
        (600, 4096, 1024, false, true),
    ] {
        let x = noise([2, rows, d_input], 1).cast(dtype);
        let weight = noise([d_output, d_input], 2).cast(dtype);
        let bias = biased.then(|| noise([d_output], 3).cast(dtype));
        let expected = reference::linear(
            x.clone().cast(DType::F32),
            weight.clone().cast(DType::F32).transpose(),
            bias.clone().map(|b| b.cast(DType::F32)),
        );
        // As checkpoints store it, or as it is used.
        let weight = match stored {
            true => to(&weight, &device).transpose(),
            false => to(&weight.transpose(), &device),
        };
        let got = linear(to(&x, &device), weight, bias.map(|b| to(&b, &device)));
        let label = format!("linear {dtype:?} {rows}x{d_input}x{d_output} stored {stored}");
        compare(
            &mut failures,
            &label,
            got.expect("fits"),
            expected,
            unit(dtype, true),
        );
    }
    failures.finish();
}

#[test]
fn linear_f32() {
    linear_layers(DType::F32);
}

#[test]
fn linear_f16() {
    linear_layers(DType::F16);
}

#[test]
fn linear_bf16() {
    linear_layers(DType::BF16);
}

/// Products and other operations in turns, of four threads at a time: each reads what the one before wrote, on streams
/// that do not know each other where products are a library's.
#[test]
fn products_are_in_order_with_other_work() {
    const STEPS: usize = 40;
    let Some(device) = device() else { return };
    report(&json!({ "products": products() }));
    let run = |seed: u64, device: &Device| {
        let mut x = to(&noise([1, 96, 320], seed), device);
        let weight = to(&(noise([320, 320], seed + 1) * 0.08), device).transpose();
        let bias = to(&noise([320], seed + 2), device);
        let mut sum = x.clone();
        for _ in 0..STEPS {
            let product = linear(x, weight.clone(), Some(bias.clone()));
            x = product.expect("fits").tanh();
            sum = sum + x.clone();
        }
        sum
    };
    let mut failures = Failures::default();
    let got: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|seed| {
                let device = device.clone();
                scope.spawn(move || to(&run(10 * seed, &device), &Device::flex()))
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|sum| sum.expect("no panic")).collect()
    });
    for (seed, got) in (0..4).zip(got) {
        let expected = run(10 * seed, &Device::flex());
        let label = format!("{STEPS} products in turns with other work, thread {seed}");
        compare(
            &mut failures,
            &label,
            got,
            expected,
            5.0 * unit(DType::F32, true),
        );
    }
    failures.finish();
}

/// A product over rows that begin anywhere in memory.
#[test]
fn linear_of_views() {
    let Some(device) = device() else { return };
    let mut failures = Failures::default();
    for dtype in DTYPES {
        let x = noise([1, 40, 73], 1).cast(dtype);
        let weight = noise([33, 73], 2).cast(dtype);
        let view = |x: Tensor<3>| x.slice([0..1, 3..32, 0..73]);
        let expected = reference::linear(
            view(x.clone()).cast(DType::F32),
            weight.clone().cast(DType::F32).transpose(),
            None,
        );
        let weight = to(&weight, &device).transpose();
        let got = linear(view(to(&x, &device)), weight, None).expect("fits");
        let label = format!("linear {dtype:?} of a view");
        compare(&mut failures, &label, got, expected, unit(dtype, true));
    }
    failures.finish();
}

/// Inputs of an operation on the CPU, and the same on the device.
fn both<const D: usize>(
    shape: [usize; D],
    seed: u64,
    dtype: DType,
    device: &Device,
) -> [Tensor<D>; 2] {
    let tensor = noise(shape, seed).cast(dtype);
    [to(&tensor, device), tensor]
}

#[test]
fn rms_norm_of_every_dtype() {
    let Some(device) = device() else { return };
    let mut failures = Failures::default();
    for dtype in DTYPES {
        for (seq, width) in [(1, 64), (37, 576), (200, 4096)] {
            let [x, x_cpu] = both([2, seq, width], 1, dtype, &device);
            let [gamma, gamma_cpu] = both([width], 2, dtype, &device);
            let expected = reference::rms_norm(x_cpu, gamma_cpu, 1e-5);
            let got = rms_norm(x, gamma, 1e-5).expect("fits");
            let label = format!("rms_norm {dtype:?} {seq}x{width}");
            compare(&mut failures, &label, got, expected, unit(dtype, false));
        }
    }
    failures.finish();
}

#[test]
fn silu_mul_of_every_dtype() {
    let Some(device) = device() else { return };
    let mut failures = Failures::default();
    for dtype in DTYPES {
        for (seq, width) in [(1, 96), (37, 1536), (130, 14_336)] {
            let [gate, gate_cpu] = both([1, seq, width], 1, dtype, &device);
            let [up, up_cpu] = both([1, seq, width], 2, dtype, &device);
            let expected = reference::silu_mul(gate_cpu, up_cpu);
            let got = silu_mul(gate, up).expect("fits");
            let label = format!("silu_mul {dtype:?} {seq}x{width}");
            compare(&mut failures, &label, got, expected, unit(dtype, false));
        }
    }
    failures.finish();
}

#[test]
fn rotation_of_every_dtype() {
    let Some(device) = device() else { return };
    let mut failures = Failures::default();
    for dtype in DTYPES {
        for (seq, heads, half) in [(1, 4, 32), (37, 9, 32), (300, 8, 64), (11, 2, 40)] {
            let [x, x_cpu] = both([2, seq, heads * 2 * half], 1, dtype, &device);
            let angle = noise([seq, half], 2).mul_scalar(7.0);
            let (cos, sin) = (angle.clone().cos(), angle.sin());
            let expected = reference::rotate(x_cpu, cos.clone(), sin.clone(), heads);
            let got = rotate(x, to(&cos, &device), to(&sin, &device), heads).expect("fits");
            let label = format!("rotate {dtype:?} {seq}x{heads}x{half}");
            compare(&mut failures, &label, got, expected, unit(dtype, false));
        }
    }
    failures.finish();
}
