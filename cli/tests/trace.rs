//! `apb trace` against the vectors of an independent float64 program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::{Dtype, SafeTensors};

#[path = "../../tests/common/data.rs"]
mod data;

/// Largest error, relative to the rms of the expected tensor, of the small models in f32.
const SMALL_MODEL_TOLERANCE: f64 = 1e-4;
/// The same for SmolLM2, as the vectors' README states it.
const REAL_MODEL_TOLERANCE: f64 = 1e-3;

fn fixtures() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/fixtures")
}

fn apb(args: &[&std::ffi::OsStr]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_apb"))
        .args(args)
        .output()
        .expect("apb starts")
}

fn trace(case: &Path, model: &Path, out: &Path, more: &[&str]) -> Output {
    let args = ["trace", "--json", "--case"].map(std::ffi::OsStr::new);
    let paths = [
        case.as_os_str(),
        "--model".as_ref(),
        model.as_os_str(),
        "--out".as_ref(),
        out.as_os_str(),
    ];
    let more: Vec<&std::ffi::OsStr> = more.iter().map(std::ffi::OsStr::new).collect();
    apb(&[&args[..], &paths[..], &more[..]].concat())
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

fn run_case(case_dir: &Path, model: &Path, more: &[&str]) -> (Vec<u8>, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("got.safetensors");
    let done = trace(&case_dir.join("case.json"), model, &out, more);
    assert!(
        done.status.success(),
        "{}: {}",
        case_dir.display(),
        String::from_utf8_lossy(&done.stderr)
    );
    let expected = std::fs::read(case_dir.join("expected.safetensors")).expect("the vectors");
    (std::fs::read(out).expect("the trace"), expected)
}

/// Compares everything but `info.*`; returns how many selections there were.
fn compare(label: &str, got: &[u8], want: &[u8], tolerance: f64) -> usize {
    let got = SafeTensors::deserialize(got).expect("the trace is safetensors");
    let want = SafeTensors::deserialize(want).expect("the vectors are safetensors");
    let mut selections = 0;
    for name in want.names() {
        if name.starts_with("info.") {
            continue;
        }
        if name == "query_logits_last" {
            // Only the last row is stored.
            let error = difference(&f32s(&got, "query_logits"), &f32s(&want, name));
            println!("{label} {name}: {error:.1e}");
            assert!(error <= tolerance, "{label} {name}: {error:e}");
            continue;
        }
        assert_eq!(
            got.tensor(name)
                .unwrap_or_else(|e| panic!("{name}: {e}"))
                .shape(),
            want.tensor(name).expect(name).shape(),
            "{label} {name}"
        );
        if name.starts_with("selected.") || name == "generated" {
            assert_eq!(i64s(&got, name), i64s(&want, name), "{label} {name}");
            selections += usize::from(name != "generated");
        } else {
            let error = difference(&f32s(&got, name), &f32s(&want, name));
            println!("{label} {name}: {error:.1e}");
            assert!(error <= tolerance, "{label} {name}: {error:e}");
        }
    }
    selections
}

/// Runs one case of a small model in passes and tiles of different lengths.
fn small(case: &str) {
    let case_dir = fixtures().join("cases").join(case);
    let text = std::fs::read_to_string(case_dir.join("case.json")).expect("the case");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let model = fixtures()
        .join("models")
        .join(json["model"].as_str().expect("a model"));
    let heads = model.join("heads.safetensors");
    let heads = heads.to_str().expect("UTF-8");
    let ranks = json["hosts"].as_u64().expect("hosts") as usize;
    let config = std::fs::read_to_string(model.join("config.json")).expect("the config");
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    let layers = config["num_hidden_layers"].as_u64().expect("layers") as usize;
    for chunk in ["1024", "37"] {
        let (got, want) = run_case(&case_dir, &model, &["--chunk", chunk, "--heads", heads]);
        let label = format!("{case} chunk {chunk}");
        let selections = compare(&label, &got, &want, SMALL_MODEL_TOLERANCE);
        let expected = match json["method"].as_str() {
            Some("apb") => layers * (ranks - 1),
            _ => 0,
        };
        assert_eq!(selections, expected, "{label}");
    }
}

macro_rules! small_cases {
    ($($name:ident: $case:literal,)*) => {$(
        #[test]
        fn $name() {
            small($case);
        }
    )*};
}

small_cases! {
    full_llama: "01_full_llama",
    full_qwen3: "02_full_qwen3",
    apb_one_rank_is_full_attention: "03_apb_one_host",
    star_3: "04_star_3",
    star_4: "05_star_4",
    apb_retaining_2: "06_apb_ret_2",
    apb_retaining_4_short_anchor_query: "07_apb_ret_4_short_aq",
    apb_retaining_4_no_anchor_query: "08_apb_ret_4_no_aq",
    apb_retaining_8: "09_apb_ret_8",
    apb_retaining_8_short_last_rank: "10_apb_ret_8_short_last",
    apb_query_aware_3: "11_apb_qa_3",
    apb_query_aware_4_short_anchor_query: "12_apb_qa_4_short_aq",
    apb_query_aware_2_passes_all: "13_apb_qa_2_all",
    apb_query_aware_8: "14_apb_qa_8",
}

#[test]
fn every_case_has_a_test() {
    let folder = fixtures().join("cases");
    let cases = std::fs::read_dir(folder).expect("the cases").count();
    assert_eq!(cases, 14);
}

/// The exact strategies have no vectors of their own: they are held to those of full attention.
#[test]
fn ring_and_ulysses_are_full_attention() {
    for (case, model, ranks) in [
        ("01_full_llama", "llama-gqa", 2),
        ("02_full_qwen3", "qwen3-qknorm", 4),
    ] {
        let case_dir = fixtures().join("cases").join(case);
        let text = std::fs::read_to_string(case_dir.join("case.json")).expect("the case");
        let model = fixtures().join("models").join(model);
        let want = std::fs::read(case_dir.join("expected.safetensors")).expect("the vectors");
        for (method, layout) in [
            ("ring", "zigzag"),
            ("ring", "contiguous"),
            ("ulysses", "zigzag"),
        ] {
            let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            json["method"] = method.into();
            json["hosts"] = ranks.into();
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join("case.json");
            std::fs::write(&path, json.to_string()).expect("written");
            let out = folder.path().join("got.safetensors");
            let done = trace(&path, &model, &out, &["--ring-layout", layout]);
            let stderr = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{case} {method}: {stderr}");
            let got = std::fs::read(out).expect("the trace");
            let label = format!("{case} {method} {layout}");
            compare(&label, &got, &want, SMALL_MODEL_TOLERANCE);
        }
    }
}

/// SmolLM2-135M-Instruct in f32, as `apb fetch smollm2-135m --source package` makes it.
fn smollm2() -> Option<PathBuf> {
    let folder = "target/test-data/smollm2-135m";
    let weights = data::find(folder, "model.safetensors", Some("APB_TEST_SMOLLM2"))?;
    weights.parent().map(Path::to_path_buf)
}

fn real(case: &str) -> Option<usize> {
    let model = smollm2()?;
    let (got, want) = run_case(&fixtures().join("real").join(case), &model, &[]);
    Some(compare(case, &got, &want, REAL_MODEL_TOLERANCE))
}

#[test]
fn real_full() {
    real("smollm2-135m-f32.full");
}

#[test]
fn real_star() {
    real("smollm2-135m-f32.star");
}

#[test]
fn real_apb() {
    let Some(selections) = real("smollm2-135m-f32.apb") else {
        return;
    };
    assert_eq!(selections, 30 * 3);
}

/// Lengths and ranks that cannot be used are refused, with the nearest that can.
#[test]
fn cases_of_wrong_lengths_are_refused() {
    let refused = [
        ("anchor_query_longer_than_anchor", "--anchor 3"),
        ("host0_too_few_selectable", "--passing 7"),
        ("last_host_empty_apb", "works is 3"),
        ("last_host_empty_star", "works is 3"),
        ("offset_outside_anchor", "--anchor 7"),
        ("passing_len_above_block", "--passing 10"),
        ("query_aware_without_query", "--anchor-query"),
    ];
    let folder = fixtures().join("errors");
    assert_eq!(
        std::fs::read_dir(&folder).expect("the cases").count(),
        refused.len()
    );
    let model = fixtures().join("models/llama-gqa");
    let heads = model.join("heads.safetensors");
    let out = tempfile::tempdir().expect("a temporary folder");
    let out = out.path().join("got.safetensors");
    for (case, nearest) in refused {
        let path = folder.join(format!("{case}.json"));
        let done = trace(
            &path,
            &model,
            &out,
            &["--heads", heads.to_str().expect("UTF-8")],
        );
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{case}: {stderr}");
        assert!(stderr.contains(nearest), "{case}: {stderr}");
        assert!(!out.exists(), "{case}");
    }
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
        let done = trace(&case(text), &model, &out, &["--chunk", "64"]);
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{text}: {stderr}");
        assert!(stderr.contains(named), "{text}: {stderr}");
        assert!(!out.exists());
    }
}
