//! `apb` under mpirun and `apb launch`: the same tokens and selections as in one process.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::SafeTensors;
use serde_json::Value;

use crate::data;
use crate::mpi::mpirun;

/// Largest difference, relative to the rms, that merging in another order makes.
const SAME: f64 = 1e-5;
/// Flags with which a process drives ranks that are not neighbours.
const FOLDED: [&str; 2] = ["--rank-order", "folded"];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
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
fn trace(start: Start, more: &[&str], case: &Value, model: &Path, layout: &str) -> Vec<u8> {
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
    let args = [&args[..], more].concat();
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
        let want = trace(Start::Alone, &[], &case, &model, layout);
        for (start, more) in [
            (Start::Launch(4), &[][..]),
            (Start::Mpirun(4), &[]),
            (Start::Launch(2), &[]),
            (Start::Launch(2), &FOLDED),
        ] {
            let got = trace(start, more, &case, &model, layout);
            compare(
                &format!("{name} {method:?} {layout} {start:?} {more:?}"),
                &got,
                &want,
            );
        }
    }
}

/// SmolLM2-135M-Instruct in f32, as `apb fetch smollm2-135m --source package` makes it.
pub fn smollm2() -> Option<PathBuf> {
    let folder = "target/test-data/smollm2-135m";
    let weights = data::find(folder, "model.safetensors", Some("APB_TEST_SMOLLM2"))?;
    weights.parent().map(Path::to_path_buf)
}

/// Each start of a case on SmolLM2 gives what one process does.
fn on_smollm2(name: &str, method: Option<(&str, usize)>, starts: &[Start]) {
    let Some(model) = smollm2() else { return };
    let case = case(&format!("real/smollm2-135m-f32.{name}"), method);
    let want = trace(Start::Alone, &[], &case, &model, "zigzag");
    for start in starts {
        let got = trace(*start, &[], &case, &model, "zigzag");
        compare(&format!("{name} {method:?} {start:?}"), &got, &want);
    }
}

#[test]
fn full_on_smollm2() {
    on_smollm2("full", None, &[Start::Launch(4)]);
}

#[test]
fn ring_on_smollm2() {
    on_smollm2(
        "full",
        Some(("ring", 4)),
        &[Start::Launch(4), Start::Mpirun(2)],
    );
}

/// 9 heads: over 3 ranks, or 9.
#[test]
fn ulysses_on_smollm2() {
    on_smollm2("full", Some(("ulysses", 3)), &[Start::Launch(3)]);
}

#[test]
fn star_on_smollm2() {
    on_smollm2("star", None, &[Start::Launch(4), Start::Mpirun(2)]);
}

#[test]
fn apb_on_smollm2() {
    on_smollm2(
        "apb",
        None,
        &[Start::Mpirun(4), Start::Launch(4), Start::Launch(2)],
    );
}

/// Runs `apb generate` on SmolLM2 and gives its object.
fn generate(start: Start, model: &Path, document: &Path, more: &[&str]) -> Value {
    let text_of = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let (model, document) = (text_of(model), text_of(document));
    let args = [
        "generate",
        "--json",
        "--greedy",
        "--max-tokens",
        "12",
        "--method",
        "apb",
    ];
    let question = [
        "--query",
        "What is light?",
        "--model",
        &model,
        "--document",
        &document,
    ];
    let done = run(start, &[&args[..], &question, more].concat());
    assert!(done.status.success(), "{start:?}: {}", text(&done.stderr));
    serde_json::from_slice(&done.stdout).expect("one object")
}

/// Answers are the same, and a process holds its own rows, receives what the formula says, and no more.
#[test]
fn generate_on_smollm2() {
    let Some(model) = smollm2() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let document = folder.path().join("document.txt");
    let whole = std::fs::read_to_string(root().join("examples/data/opticks.txt")).expect("text");
    std::fs::write(&document, &whole[..6000]).expect("written");
    let alone = generate(Start::Alone, &model, &document, &["--ranks", "4"]);
    let folded = [&["--ranks", "4"][..], &FOLDED].concat();
    for (start, more, ranks) in [
        (Start::Launch(4), &[][..], &[0][..]),
        (Start::Mpirun(2), &["--ranks", "4"], &[0, 1]),
        (Start::Launch(2), &folded, &[0, 3]),
    ] {
        let found = generate(start, &model, &document, more);
        assert_eq!(found["tokens"], alone["tokens"], "{start:?}");
        assert_eq!(found["ranks"], 4);
        let processes = found["processes"].as_array().expect("a report of each");
        assert_eq!(processes[0]["ranks"], serde_json::json!(ranks), "{start:?}");
        let share = 4 / processes.len();
        for process in processes {
            // Prefill: in all layers but the last, (H - own) l_p 2 n_kv d_h elements of 4 bytes
            // (method.md 6). Then for each row that follows the document (out, lse) of every head.
            let number = |value: &Value| value.as_u64().expect("a number");
            let (layers, kv, heads, head_dim) = (30, 3, 9, 64);
            let others = (4 - share) as u64;
            let passing = (layers - 1) * others * number(&alone["passing"]) * 2 * kv * head_dim * 4;
            let rows = number(&found["query_tokens"])
                + found["tokens"].as_array().expect("tokens").len() as u64
                - 1;
            let partials =
                layers * (processes.len() as u64 - 1) * rows * heads * (head_dim + 1) * 4;
            let received = number(&process["received_bytes"]);
            // An answer that a stop token ended has one pass more.
            let pass = partials / rows;
            let stopped = found["stop_reason"] == "stop_token";
            let expected = passing + partials + if stopped { pass } else { 0 };
            assert_eq!(received, expected, "{start:?} {process}");
        }
    }
}

/// Memory of a rank: the weights, a quarter of the cache, its rows' activations, and a tenth more.
#[test]
fn a_rank_holds_its_own_rows() {
    let Some(model) = smollm2() else { return };
    let model = model.to_str().expect("UTF-8");
    let args = [
        "bench", "prefill", "--json", "--runs", "1", "--decode", "1", "--tokens", "8000",
    ];
    let method = ["--methods", "apb", "--model", model];
    let done = run(Start::Launch(4), &[&args[..], &method].concat());
    assert!(done.status.success(), "{}", text(&done.stderr));
    let found: Value = serde_json::from_slice(&done.stdout).expect("one object");
    let processes = found["rows"][0]["processes"]
        .as_array()
        .expect("a report of each");
    assert_eq!(processes.len(), 4);
    for process in processes {
        let bytes = |name: &str| process[name].as_u64().expect("bytes") as f64;
        let ratio = bytes("peak_bytes") / bytes("needed_bytes");
        println!("{process}: {ratio:.3} of what is needed");
        assert!(ratio <= 1.1, "{process}: {ratio}");
    }
}
