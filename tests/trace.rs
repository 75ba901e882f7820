//! `apb trace` against the vectors of an independent float64 program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::{Dtype, SafeTensors};

/// Largest error, relative to the rms of the expected tensor, of the small models in f32.
const SMALL_MODEL_TOLERANCE: f64 = 1e-4;
/// The same for SmolLM2, as the vectors' README states it.
const REAL_MODEL_TOLERANCE: f64 = 1e-3;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn apb(args: &[&std::ffi::OsStr]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_apb"))
        .args(args)
        .output()
        .expect("apb starts")
}

fn trace(case: &Path, model: &Path, out: &Path, chunk: &str) -> Output {
    let args = ["trace", "--chunk", chunk, "--json", "--case"].map(std::ffi::OsStr::new);
    let paths = [
        case.as_os_str(),
        "--model".as_ref(),
        model.as_os_str(),
        "--out".as_ref(),
        out.as_os_str(),
    ];
    apb(&[&args[..], &paths[..]].concat())
}

fn f32s(file: &SafeTensors, name: &str) -> Vec<f32> {
    let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(view.dtype(), Dtype::F32, "{name}");
    let (chunks, rest) = view.data().as_chunks::<4>();
    assert!(rest.is_empty());
    chunks.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn i64s(file: &SafeTensors, name: &str) -> Vec<i64> {
    let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(view.dtype(), Dtype::I64, "{name}");
    let (chunks, rest) = view.data().as_chunks::<8>();
    assert!(rest.is_empty());
    chunks.iter().map(|b| i64::from_le_bytes(*b)).collect()
}

/// The largest difference, relative to the rms of what was expected.
fn difference(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let rms = (want.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>() / want.len() as f64).sqrt();
    let worst = got
        .iter()
        .zip(want)
        .map(|(g, w)| (f64::from(*g) - f64::from(*w)).abs())
        .fold(0.0, |a, b| {
            if b.is_nan() {
                f64::INFINITY
            } else {
                f64::max(a, b)
            }
        });
    worst / rms
}

fn run_case(case_dir: &Path, model: &Path, chunk: &str) -> (Vec<u8>, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("got.safetensors");
    let done = trace(&case_dir.join("case.json"), model, &out, chunk);
    assert!(
        done.status.success(),
        "{}: {}",
        case_dir.display(),
        String::from_utf8_lossy(&done.stderr)
    );
    let expected = std::fs::read(case_dir.join("expected.safetensors")).expect("the vectors");
    (std::fs::read(out).expect("the trace"), expected)
}

fn small(case: &str, model: &str) {
    for chunk in ["1024", "37"] {
        let (got, want) = run_case(
            &fixtures().join("cases").join(case),
            &fixtures().join("models").join(model),
            chunk,
        );
        let got = SafeTensors::deserialize(&got).expect("the trace is safetensors");
        let want = SafeTensors::deserialize(&want).expect("the vectors are safetensors");
        for name in ["attn_out.0", "hidden", "query_logits"] {
            assert_eq!(
                got.tensor(name).expect(name).shape(),
                want.tensor(name).expect(name).shape(),
                "{name}"
            );
            let error = difference(&f32s(&got, name), &f32s(&want, name));
            println!("{case} chunk {chunk} {name}: {error:.1e}");
            assert!(error <= SMALL_MODEL_TOLERANCE, "{case} {name}: {error:e}");
        }
        assert_eq!(i64s(&got, "generated"), i64s(&want, "generated"), "{case}");
    }
}

#[test]
fn full_llama() {
    small("01_full_llama", "llama-gqa");
}

#[test]
fn full_qwen3() {
    small("02_full_qwen3", "qwen3-qknorm");
}

#[test]
fn one_rank_qwen2_is_full_attention() {
    small("03_apb_one_host", "qwen2-bias");
}

/// SmolLM2-135M-Instruct in f32, as `apb fetch smollm2-135m --source package` makes it.
fn smollm2() -> Option<PathBuf> {
    let folder = std::env::var_os("APB_TEST_SMOLLM2").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-data/smollm2-135m"),
        PathBuf::from,
    );
    if folder.join("model.safetensors").is_file() {
        return Some(folder);
    }
    println!(
        "skipped: no SmolLM2 in {} (scripts/fetch-test-data brings it)",
        folder.display()
    );
    None
}

#[test]
fn real_smollm2() {
    let Some(model) = smollm2() else { return };
    let (got, want) = run_case(
        &fixtures().join("real/smollm2-135m-f32.full"),
        &model,
        "1024",
    );
    let got = SafeTensors::deserialize(&got).expect("the trace is safetensors");
    let want = SafeTensors::deserialize(&want).expect("the vectors are safetensors");
    let error = difference(
        &f32s(&got, "query_logits"),
        &f32s(&want, "query_logits_last"),
    );
    println!("smollm2 logits: {error:.1e}");
    assert!(error <= REAL_MODEL_TOLERANCE, "{error:e}");
    assert_eq!(i64s(&got, "generated"), i64s(&want, "generated"));
}

#[test]
fn refused_cases_write_nothing_and_exit_with_2() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = fixtures().join("models/llama-gqa");
    let case = |text: &str| {
        let path = folder.path().join("case.json");
        std::fs::write(&path, text).expect("written");
        path
    };
    let refused = [
        (
            r#"{"format":"apb-case-1","method":"full","generate":1,"query":[1],"document":[]}"#,
            "document",
        ),
        (
            r#"{"format":"apb-case-1","method":"full","generate":1,"query":[],"document":[1]}"#,
            "query",
        ),
        (
            r#"{"format":"apb-case-1","method":"full","generate":1,"query":[512],"document":[1]}"#,
            "512",
        ),
        (
            r#"{"format":"apb-case-1","method":"flash","generate":1,"query":[1],"document":[1]}"#,
            "flash",
        ),
        (
            r#"{"format":"apb-case-1","method":"full","hosts":0,"generate":1,"query":[1],"document":[1]}"#,
            "ranks",
        ),
        (
            r#"{"format":"apb-case-2","method":"full","generate":1,"query":[1],"document":[1]}"#,
            "apb-case-2",
        ),
        (
            r#"{"format":"apb-case-1","method":"full","generate":1,"query":[-1],"document":[1]}"#,
            "-1",
        ),
        ("{", "EOF"),
    ];
    let out = folder.path().join("got.safetensors");
    for (text, named) in refused {
        let done = trace(&case(text), &model, &out, "64");
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{text}: {stderr}");
        assert!(stderr.contains(named), "{text}: {stderr}");
        assert!(!out.exists());
    }
}
