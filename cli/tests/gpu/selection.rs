//! What a compressor's scores lead to, beside the references on the CPU.

use burn::tensor::{DType, Int, Tensor};
use burn_apb::kernels::{RowChoice, gather_rows, reference, select_rows, silu_scores};
use serde_json::json;

use super::setup::{Failures, device, largest_difference, noise, report, to, values};

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
/// Of the largest score: f32 sums in another order, and a fast exponential.
const SCORE_ERROR: f32 = 1e-5;

fn indices(rows: Tensor<3, Int>) -> Vec<i32> {
    rows.into_data().try_to_vec().expect("i32")
}

#[test]
fn selected_rows() {
    let Some(device) = device() else { return };
    let mut failures = Failures::default();
    for (rows, context, start, count) in [
        (6, 0, 0, 2),
        (300, 2, 17, 40),
        (2048, 2, 0, 2048),
        (16_384, 2, 4000, 2048),
        (70_000, 0, 0, 8192),
    ] {
        for kind in ["noise", "ties", "equal", "holes"] {
            let make = |rows: usize, seed| {
                let scores = noise([1, 8, rows], seed);
                match kind {
                    "noise" => scores,
                    "ties" => scores.mul_scalar(5.0).round(),
                    "equal" => scores.sign().mul_scalar(0.0),
                    _ => {
                        let holes = scores.clone().greater_elem(0.5);
                        scores.mask_fill(holes, f32::NAN)
                    }
                }
            };
            let scores = make(rows, 1);
            let before = (context > 0).then(|| make(context, 2));
            let choice = RowChoice {
                selectable: start..rows,
                count,
                window: 5,
            };
            let none = Tensor::zeros([1, 8, 0], &scores.device());
            let expected = reference::select_rows(
                scores.clone(),
                before.clone().unwrap_or(none),
                choice.clone(),
            );
            let before = before.map(|before| to(&before, &device));
            let got = select_rows(to(&scores, &device), before, choice).expect("fits");
            let label = format!("select {kind}, {count} of {rows}");
            let (mut got, expected) = (indices(got), indices(expected));
            if std::env::var_os("APB_TEST_SPOIL").is_some() {
                got[0] += 1;
            }
            let wrong = got.iter().zip(&expected).filter(|(a, b)| a != b).count();
            report(&json!({ "operation": label, "wrong": wrong }));
            failures.check(got.len() == expected.len() && wrong == 0, || {
                format!("{label}: {wrong} of {} indices differ", expected.len())
            });
        }
    }
    failures.finish();
}

#[test]
fn gathered_rows() {
    let Some(device) = device() else { return };
    let mut failures = Failures::default();
    for dtype in DTYPES {
        for (rows, head_dim, count) in [(10, 64, 3), (4096, 128, 512), (77, 80, 20)] {
            let [keys, vals] = [1, 2].map(|s| noise([1, 8, rows + 5, head_dim], s).cast(dtype));
            let view = |cache: Tensor<4>| cache.narrow(2, 3, rows);
            let named = noise([1, 8, count], 3).mul_scalar(rows as f32 + 2.0);
            let named = named.int().cast(DType::I32);
            let expected =
                reference::gather_rows(view(keys.clone()), view(vals.clone()), named.clone());
            let there = Tensor::from_data(named.into_data(), (&device, DType::I32));
            let (keys, vals) = (to(&keys, &device), to(&vals, &device));
            let got = gather_rows(view(keys), view(vals), there).expect("fits");
            let error = largest_difference(got, expected);
            let label = format!("gather {dtype:?} {count} of {rows}x{head_dim}");
            report(&json!({ "operation": label, "error": error }));
            failures.check(error == 0.0, || format!("{label}: off by {error}"));
        }
    }
    failures.finish();
}

#[test]
fn scored_rows() {
    let Some(device) = device() else { return };
    let mut failures = Failures::default();
    for dtype in DTYPES {
        for (rows, width, outputs) in [(5, 256, 8), (2000, 1024, 8), (33, 17, 1), (9, 64, 40)] {
            let hidden = noise([2, rows, width], 1).mul_scalar(4.0).cast(dtype);
            let weight = noise([outputs, width], 2).cast(dtype);
            let expected = reference::silu_scores(hidden.clone(), weight.clone().transpose());
            let there = to(&weight, &device).transpose();
            let got = silu_scores(to(&hidden, &device), there).expect("fits");
            let size = values(expected.clone())
                .into_iter()
                .fold(1e-3f32, |m, x| m.max(x.abs()));
            let error = largest_difference(got, expected) / size;
            let label = format!("scores {dtype:?} {rows}x{width}x{outputs}");
            report(&json!({ "operation": label, "error": error, "allowed": SCORE_ERROR }));
            failures.check(error <= SCORE_ERROR, || format!("{label}: off by {error}"));
        }
    }
    failures.finish();
}
