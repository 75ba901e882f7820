//! Small models through `apb trace`, against the float64 program's vectors.

use std::path::{Path, PathBuf};
use std::process::Command;

use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use super::setup::{Failures, device, exact_products, fixtures, on_cpu, report};

/// What a dtype is held to.
struct Allowed {
    /// Root mean square of the errors, relative to that of the vector.
    error: f64,
    /// Least share, of all selected rows of a case, that the vector selects too.
    overlap: f64,
}

/// The program under test.
pub fn apb() -> PathBuf {
    std::env::var_os("APB_TEST_BIN").map_or_else(|| env!("CARGO_BIN_EXE_apb").into(), PathBuf::from)
}

fn f32s(file: &SafeTensors, name: &str) -> Vec<f32> {
    let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(view.dtype(), Dtype::F32, "{name}");
    bytemuck::pod_collect_to_vec(view.data())
}

fn i64s(file: &SafeTensors, name: &str) -> Vec<i64> {
    let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(view.dtype(), Dtype::I64, "{name}");
    bytemuck::pod_collect_to_vec(view.data())
}

fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let wrong: f64 = got.iter().zip(want).map(|(g, w)| square(g - w)).sum();
    let right: f64 = want.iter().copied().map(square).sum();
    (wrong / right).sqrt()
}

/// The share of `want`, row by row of `width`, that `got` holds too.
fn overlap(got: &[i64], want: &[i64], width: usize) -> f64 {
    assert_eq!(got.len(), want.len());
    let rows = got.chunks(width).zip(want.chunks(width));
    let shared: usize = rows
        .map(|(got, want)| want.iter().filter(|w| got.contains(w)).count())
        .sum();
    shared as f64 / want.len().max(1) as f64
}

/// The cases that run on a GPU, where every process compiles its kernels anew, which takes a quarter of a minute, and
/// without cuBLASLt tunes its products, which takes minutes; what the others vary are lengths and ranks.
const ON_GPU: [&str; 3] = ["01_full_llama", "06_apb_ret_2", "11_apb_qa_3"];

fn run(dtype: &str, allowed: &Allowed, only: impl Fn(&str) -> bool) {
    if device().is_none() {
        return;
    }
    let mut failures = Failures::default();
    let cases = std::fs::read_dir(fixtures().join("cases")).expect("the cases");
    let mut cases: Vec<PathBuf> = cases.map(|entry| entry.expect("an entry").path()).collect();
    cases.sort();
    assert_eq!(cases.len(), 14);
    for case in cases {
        let name = case
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if only(&name) && (on_cpu() || ON_GPU.contains(&name.as_str())) {
            check_case(&case, &name, dtype, allowed, &mut failures);
        }
    }
    failures.finish();
}

fn check_case(case: &Path, name: &str, dtype: &str, allowed: &Allowed, failures: &mut Failures) {
    let text = std::fs::read_to_string(case.join("case.json")).expect("the case");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let model = fixtures()
        .join("models")
        .join(json["model"].as_str().expect("a model"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("got.safetensors");
    let device = if on_cpu() { "cpu" } else { "cuda" };
    let done = Command::new(apb())
        .args([
            "trace", "--json", "--device", device, "--dtype", dtype, "--case",
        ])
        .arg(case.join("case.json"))
        .arg("--model")
        .arg(&model)
        .arg("--heads")
        .arg(model.join("heads.safetensors"))
        .arg("--out")
        .arg(&out)
        .output()
        .expect("apb starts");
    let stderr = String::from_utf8_lossy(&done.stderr);
    failures.check(done.status.success(), || format!("{name}: {stderr}"));
    if !done.status.success() {
        return;
    }
    let (got, want) = (
        std::fs::read(out).expect("the trace"),
        std::fs::read(case.join("expected.safetensors")).expect("the vectors"),
    );
    let got = SafeTensors::deserialize(&got).expect("safetensors");
    let want = SafeTensors::deserialize(&want).expect("safetensors");
    let (mut error, mut same_tokens) = (0f64, true);
    let mut shares = Vec::new();
    for tensor in want
        .names()
        .into_iter()
        .filter(|name| !name.starts_with("info."))
    {
        if tensor.starts_with("selected.") {
            let width = want
                .tensor(tensor)
                .expect("there")
                .shape()
                .last()
                .copied()
                .unwrap_or(1);
            let (got, want) = (i64s(&got, tensor), i64s(&want, tensor));
            shares.push(overlap(&got, &want, width.max(1)));
        } else if tensor == "generated" {
            same_tokens = i64s(&got, tensor) == i64s(&want, tensor);
        } else {
            error = error.max(relative_error(&f32s(&got, tensor), &f32s(&want, tensor)));
        }
    }
    let share = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
    let share = if shares.is_empty() { 1.0 } else { share };
    if std::env::var_os("APB_TEST_SPOIL").is_some() {
        error += 1.0;
    }
    report(&json!({
        "case": name, "dtype": dtype, "error": error, "overlap": share, "same_tokens": same_tokens,
    }));
    failures.check(error <= allowed.error, || {
        format!("{name} {dtype}: off by {error:.1e}")
    });
    failures.check(share >= allowed.overlap, || {
        format!("{name} {dtype}: selects {share:.2} of the rows")
    });
}

fn f32_allowed() -> Allowed {
    match exact_products() {
        true => Allowed {
            error: 1e-4,
            overlap: 1.0,
        },
        false => Allowed {
            error: 2e-2,
            overlap: 0.9,
        },
    }
}

/// Rounded products move the whole stream a little.
const EXACT_BF16: Allowed = Allowed {
    error: 0.1,
    overlap: 1.0,
};
/// Scores that are nearly equal change places as well, and of eight ranks in a tiny model each passes on
/// few rows: the CPU's kernels are off by 0.24 in one case.
const APB_BF16: Allowed = Allowed {
    error: 0.4,
    overlap: 0.75,
};

fn exact(name: &str) -> bool {
    !name.contains("_apb_")
}

fn retaining(name: &str) -> bool {
    !exact(name) && !query_aware(name)
}

fn query_aware(name: &str) -> bool {
    name.contains("_apb_qa_")
}

#[test]
fn traces_of_exact_methods_f32() {
    run("f32", &f32_allowed(), exact);
}

#[test]
fn traces_of_retaining_heads_f32() {
    run("f32", &f32_allowed(), retaining);
}

#[test]
fn traces_of_query_aware_f32() {
    run("f32", &f32_allowed(), query_aware);
}

#[test]
fn traces_of_exact_methods_bf16() {
    run("bf16", &EXACT_BF16, exact);
}

#[test]
fn traces_of_retaining_heads_bf16() {
    run("bf16", &APB_BF16, retaining);
}

#[test]
fn traces_of_query_aware_bf16() {
    run("bf16", &APB_BF16, query_aware);
}
