//! Attention of every head dimension and dtype, beside the reference on the CPU.

use burn::tensor::{DType, Device, Tensor};
use burn_apb::kernels::{AttentionOutput, Regions, attention, merge, reference};
use serde_json::json;

use super::kernels_run;
use super::problems::{Memory, Problem, problems};
use super::setup::{
    Failures, device, largest_difference, noise, on_cpu, report, rounding_error, to, values,
};

/// Absolute tolerance of f32 sums, and of normalisers relative to their size.
const TOLERANCE: f32 = 1e-5;

fn attend(tensors: &[Tensor<4>; 3], problem: &Problem, device: &Device) -> AttentionOutput {
    let [q, k, v] = tensors.each_ref().map(|x| problem.memory.lay(x, device));
    attention(q, k, v, problem.regions).expect("the problem fits")
}

fn expected(tensors: &[Tensor<4>; 3], regions: Regions) -> AttentionOutput {
    let [q, k, v] = tensors.clone().map(|x| x.cast(DType::F32));
    reference::attention(q, k, v, regions)
}

/// All problems, and which kernels they ran on.
fn equals_the_reference(head_dim: usize, dtype: DType) {
    let Some(device) = device() else { return };
    kernels_run::listen();
    let mut failures = Failures::default();
    let (mut worst, mut worst_lse) = (0f32, 0f32);
    for (seed, problem) in problems().iter().enumerate() {
        let tensors = problem.tensors(head_dim, dtype, seed as u64 * 3);
        let expected = expected(&tensors, problem.regions);
        let got = attend(&tensors, problem, &device);
        let allowed = match dtype {
            DType::F32 => TOLERANCE * problem.scale.max(1.0),
            _ => 2.0 * rounding_error(&expected.out, dtype) + TOLERANCE,
        };
        let size = values(expected.lse.clone()).into_iter();
        let size = size
            .filter(|x| x.is_finite())
            .fold(1f32, |m, x| m.max(x.abs()));
        let out = largest_difference(got.out, expected.out);
        let lse = largest_difference(got.lse, expected.lse) / size;
        worst = worst.max(out / allowed);
        worst_lse = worst_lse.max(lse / TOLERANCE);
        failures.check(out <= allowed, || {
            format!("{problem:?}: out off by {out}, {allowed} allowed")
        });
        failures.check(lse <= TOLERANCE, || {
            format!("{problem:?}: lse off by {lse} of its size")
        });
    }
    let kernels = kernels_run::take();
    report(&json!({
        "head_dim": head_dim, "dtype": format!("{dtype:?}"), "kernels": kernels,
        "worst_out_of_allowed": worst, "worst_lse_of_allowed": worst_lse,
    }));
    check_kernels(&kernels, dtype, &mut failures);
    failures.finish();
}

/// Half dtypes ran on the tensor cores, and on no other kernel than the environment lets be chosen.
fn check_kernels(
    kernels: &std::collections::BTreeSet<String>,
    dtype: DType,
    failures: &mut Failures,
) {
    let choice = std::env::var("APB_TENSOR_CORE").unwrap_or_default();
    if on_cpu() || dtype == DType::F32 || choice == "none" {
        return;
    }
    failures.check(!kernels.is_empty(), || "no tensor-core kernel ran".into());
    for kernel in kernels {
        failures.check(kernel.starts_with(&choice), || {
            format!("{kernel} ran, not {choice}")
        });
    }
}

#[test]
fn rows_without_any_key_are_zero_with_minus_infinity() {
    let Some(device) = device() else { return };
    let mut failures = Failures::default();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let q = to(&noise([1, 3, 70, 64], 1).cast(dtype), &device);
        let k = Tensor::zeros([1, 1, 0, 64], (&device, dtype));
        let got = attention(q, k.clone(), k, Regions::causal()).expect("fits");
        let zero = largest_difference(got.out, Tensor::zeros([1, 3, 70, 64], &Device::flex()));
        failures.check(zero == 0.0, || format!("{dtype:?}: out is not 0"));
        let none = values(got.lse).iter().all(|x| *x == f32::NEG_INFINITY);
        failures.check(none, || format!("{dtype:?}: lse is not -inf"));
    }
    failures.finish();
}

macro_rules! head_dims {
    ($($name:ident: $head_dim:literal, $dtype:ident;)*) => {$(
        #[test]
        fn $name() {
            equals_the_reference($head_dim, DType::$dtype);
        }
    )*};
}

head_dims! {
    attention_d64_bf16: 64, BF16;
    attention_d64_f16: 64, F16;
    attention_d80_bf16: 80, BF16;
    attention_d80_f16: 80, F16;
    attention_d96_bf16: 96, BF16;
    attention_d96_f16: 96, F16;
    attention_d128_bf16: 128, BF16;
    attention_d128_f16: 128, F16;
    attention_d256_bf16: 256, BF16;
    attention_d256_f16: 256, F16;
    attention_d64_f32: 64, F32;
    attention_d128_f32: 128, F32;
    attention_d40_f32: 40, F32;
}

/// NaN in one key and value: rows that see it are NaN, no other changes by a bit.
fn poisoned(head_dim: usize, dtype: DType) {
    let Some(device) = device() else { return };
    let mut failures = Failures::default();
    let regions = |passing, anchor, causal| Regions {
        passing,
        anchor,
        causal,
    };
    // Tiles of bf16 leave values that are no numbers to f32, which rounds the other rows otherwise.
    let rounding = if on_cpu() { 1e-2 } else { 0.0 };
    let same = |found: &[f32], expected: &[f32]| {
        let mut pairs = found.iter().zip(expected);
        pairs.all(|(found, expected)| found == expected || (found - expected).abs() <= rounding)
    };
    for (rows, keys, regions) in [
        (1, 400, regions(0, 0, true)),
        (2, 200, regions(0, 0, true)),
        (6, 40, regions(20, 10, true)),
        (160, 200, regions(40, 30, true)),
        (300, 300, regions(0, 0, true)),
        (160, 200, regions(40, 30, false)),
    ] {
        let q = to(&noise([1, 6, rows, head_dim], 7).cast(dtype), &device);
        let [k, v] =
            [8, 9].map(|seed| to(&noise([1, 2, keys, head_dim], seed).cast(dtype), &device));
        let run = |k: &Tensor<4>, v: &Tensor<4>| {
            let got = attention(q.clone(), k.clone(), v.clone(), regions).expect("fits");
            (
                values(got.out.swap_dims(1, 2)),
                values(got.lse.swap_dims(1, 2)),
            )
        };
        let clean = run(&k, &v);
        for key in [0, keys / 3, keys / 2, keys - 2, keys - 1] {
            let spoil = |x: &Tensor<4>| {
                let hole = [0..1, 0..2, key..key + 1, 0..head_dim];
                x.clone().slice_fill(hole, f32::NAN)
            };
            let spoiled = run(&spoil(&k), &spoil(&v));
            for row in 0..rows {
                let seen = regions.visible_keys(row, rows, keys).contains(&key);
                let out = row * 6 * head_dim..(row + 1) * 6 * head_dim;
                let lse = row * 6..(row + 1) * 6;
                let right = match seen {
                    true => spoiled.0[out]
                        .iter()
                        .chain(&spoiled.1[lse])
                        .all(|x| x.is_nan()),
                    false => {
                        same(&spoiled.0[out.clone()], &clean.0[out])
                            && same(&spoiled.1[lse.clone()], &clean.1[lse])
                    }
                };
                let spoil = std::env::var_os("APB_TEST_SPOIL").is_some();
                failures.check(right && !spoil, || {
                    format!(
                        "{rows} rows, {keys} keys, {regions:?}: key {key}, row {row}, seen {seen}"
                    )
                });
            }
        }
    }
    failures.finish();
}

#[test]
fn poisoned_keys_d64_bf16() {
    poisoned(64, DType::BF16);
}

#[test]
fn poisoned_keys_d80_f16() {
    poisoned(80, DType::F16);
}

#[test]
fn poisoned_keys_d128_bf16() {
    poisoned(128, DType::BF16);
}

#[test]
fn poisoned_keys_d128_f16() {
    poisoned(128, DType::F16);
}

#[test]
fn poisoned_keys_d64_f32() {
    poisoned(64, DType::F32);
}

/// Keys in three parts, merged, are attention over all of them; one part is of rows without keys.
#[test]
fn parts_merge_to_the_whole() {
    let Some(device) = device() else { return };
    let mut failures = Failures::default();
    for (dtype, unit) in [
        (DType::F32, 1e-5),
        (DType::F16, 2e-3),
        (DType::BF16, 1.6e-2),
    ] {
        let problem = Problem {
            batch: 1,
            kv_heads: 2,
            group: 4,
            rows: 40,
            keys: 600,
            regions: Regions::causal(),
            memory: Memory::Cache,
            scale: 2.0,
        };
        let tensors = problem.tensors(128, dtype, 5);
        let whole = expected(&tensors, problem.regions);
        let [q, k, v] = tensors.each_ref().map(|x| to(x, &device));
        let part = |keys: std::ops::Range<usize>, regions| {
            let cut = |x: &Tensor<4>| x.clone().narrow(2, keys.start, keys.len());
            attention(q.clone(), cut(&k), cut(&v), regions).expect("fits")
        };
        let parts = [
            part(0..300, Regions::full()),
            part(300..560, Regions::full()),
            part(560..600, Regions::causal()),
            AttentionOutput {
                out: Tensor::zeros([1, 8, 40, 128], (&device, dtype)),
                lse: Tensor::full([1, 8, 40], f32::NEG_INFINITY, (&device, DType::F32)),
            },
        ];
        let merged = merge(parts).expect("parts");
        let out = largest_difference(merged.out, whole.out);
        let lse = largest_difference(merged.lse, whole.lse);
        report(&json!({ "dtype": format!("{dtype:?}"), "out": out, "lse": lse }));
        failures.check(out <= unit, || format!("{dtype:?}: out off by {out}"));
        failures.check(lse <= 1e-4, || format!("{dtype:?}: lse off by {lse}"));
    }
    failures.finish();
}
