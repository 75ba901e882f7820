//! `apb train-heads` as a program: what it writes, what it says of bad data, and what is left after a
//! kill or on a full disk.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

fn model() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/fixtures/models/llama-gqa")
}

/// A folder that goes away with the test, and trainings in it.
struct Scene(tempfile::TempDir);

impl Scene {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("written");
        path
    }

    fn command(&self, out: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_apb"));
        command
            .args(["train-heads", "--json", "--width", "8", "--model"])
            .arg(model())
            .args(["--out", out])
            .args(more)
            .current_dir(self.0.path());
        command
    }

    fn train(&self, out: &str, more: &[&str]) -> Output {
        self.command(out, more).output().expect("apb starts")
    }
}

/// `count` samples, each with a number of its own to find.
fn samples(count: usize) -> String {
    let mut lines = String::new();
    for index in 0..count {
        let before = "It was a bright cold day in April. ".repeat(3 + index % 4);
        let after = "The clocks were striking thirteen. ".repeat(2);
        let sample = json!({
            "document": format!("{before}The number of room {index} is {}. {after}", 100 + index),
            "question": format!("What is the number of room {index}?"),
            "answer": format!("It is {}.", 100 + index),
        });
        writeln!(lines, "{sample}").expect("text");
    }
    lines
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).expect("one JSON object on stdout")
}

#[track_caller]
fn refused(output: &Output, code: i32, named: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    for name in named {
        assert!(text.contains(name), "no `{name}` in: {text}");
    }
}

const SHORT: [&str; 6] = ["--steps", "6", "--round", "2", "--held-out", "2"];

#[test]
fn heads_are_trained_and_used() {
    let scene = Scene::new();
    scene.file("data.jsonl", samples(8));
    let run = [&["--data", "data.jsonl"], &SHORT[..]].concat();
    let found = json_of(&scene.train("heads.safetensors", &run));
    for key in [
        "out",
        "steps",
        "loss",
        "recall_at_k",
        "valid_loss",
        "held_out",
        "rounds",
    ] {
        assert!(!found[key].is_null(), "{key}: {found}");
    }
    assert_eq!(found["steps"], 6);
    assert_eq!(found["samples"]["train"], 6);
    assert_eq!(found["rounds"].as_array().map(Vec::len), Some(3));
    for compressor in ["retaining", "query-aware", "random"] {
        let recall = found["held_out"][compressor]["recall"].as_f64();
        assert!(
            recall.is_some_and(|share| (0.0..=1.0).contains(&share)),
            "{found}"
        );
    }

    let document = scene.file(
        "document.txt",
        "It was a bright cold day in April. ".repeat(9),
    );
    let answer = Command::new(env!("CARGO_BIN_EXE_apb"))
        .args([
            "generate",
            "--json",
            "--query",
            "What month?",
            "--max-tokens",
            "3",
        ])
        .args(["--method", "apb", "--ranks", "2", "--heads"])
        .arg(scene.path("heads.safetensors"))
        .arg("--document")
        .arg(&document)
        .arg("--model")
        .arg(model())
        .output()
        .expect("apb starts");
    assert_eq!(json_of(&answer)["compressor"], "retaining");

    // A round longer than the run is the run.
    let huge = usize::MAX.to_string();
    let long = [
        "--data",
        "data.jsonl",
        "--steps",
        "2",
        "--round",
        &huge,
        "--held-out",
        "0",
    ];
    let long = json_of(&scene.train("long.safetensors", &long));
    assert_eq!(long["rounds"][0]["step"], 2);
    assert!(
        long["valid_loss"].is_null() && long["recall_at_k"].is_number(),
        "{long}"
    );

    // For these weights alone, or for all of their shapes.
    let metadata = |name: &str| {
        let bytes = std::fs::read(scene.path(name)).expect("heads");
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).expect("a header");
        header.metadata().clone().expect("metadata")
    };
    let bound = metadata("heads.safetensors");
    assert_eq!(bound["model_fingerprint"], bound["trained_on"]);
    assert!(bound["recipe"].contains("learning_rate"), "{bound:?}");
    let any = [&run[..], &["--any-weights"]].concat();
    json_of(&scene.train("any.safetensors", &any));
    let any = metadata("any.safetensors");
    assert!(!any.contains_key("model_fingerprint"));
    assert_eq!(any["trained_on"], bound["trained_on"]);

    // A second run would take the first one's folder.
    refused(
        &scene.train("heads.safetensors", &run),
        1,
        &["heads.safetensors.training", "--resume"],
    );
    // The finished run is read again.
    let bytes = std::fs::read(scene.path("heads.safetensors")).expect("heads");
    std::fs::remove_file(scene.path("heads.safetensors")).expect("removed");
    let again = [&run[..], &["--resume"]].concat();
    assert_eq!(
        json_of(&scene.train("heads.safetensors", &again))["rounds"],
        found["rounds"]
    );
    let read = std::fs::read(scene.path("heads.safetensors")).expect("heads");
    assert!(bytes == read, "other heads");
}

#[test]
fn a_killed_run_goes_on_to_the_same_heads() {
    let scene = Scene::new();
    scene.file("data.jsonl", samples(12));
    let run = [
        "--data",
        "data.jsonl",
        "--steps",
        "60",
        "--round",
        "3",
        "--held-out",
        "2",
        "--batch",
        "2",
    ];
    json_of(&scene.train("whole.safetensors", &run));

    let resumed = [&run[..], &["--resume"]].concat();
    let rounds = scene.path("parts.safetensors.training/rounds.json");
    let done = || {
        let text = std::fs::read(&rounds).ok()?;
        let rounds: Value = serde_json::from_slice(&text).expect("whole at any time");
        rounds.as_array().map(Vec::len)
    };
    let started = Instant::now();
    // Killed in the middle of a round, after one, five and nine of twenty.
    for (args, until) in [(&run[..], 1), (&resumed[..], 5), (&resumed[..], 9)] {
        let mut child = scene
            .command("parts.safetensors", args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("apb starts");
        while done().unwrap_or(0) < until {
            let ended = child.try_wait().expect("a state");
            assert!(
                ended.is_none(),
                "ended before it could be killed: {ended:?}"
            );
            assert!(
                started.elapsed() < Duration::from_secs(120),
                "no round {until}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().expect("killed");
        child.wait().expect("gone");
        assert!(!scene.path("parts.safetensors").exists());
    }
    json_of(&scene.train("parts.safetensors", &resumed));
    let read = |name: &str| std::fs::read(scene.path(name)).expect("heads");
    assert!(
        read("parts.safetensors") == read("whole.safetensors"),
        "other heads"
    );
}

#[test]
fn bad_samples_are_counted_and_named() {
    let scene = Scene::new();
    let mut lines = samples(6);
    let long = "word ".repeat(5000);
    for bad in [
        "not JSON".to_owned(),
        json!({ "document": "Something.", "answer": "It." }).to_string(),
        json!({ "document": "Something.", "question": "What?", "answer": long }).to_string(),
    ] {
        lines.push_str(&bad);
        lines.push('\n');
    }
    scene.file("data.jsonl", &lines);
    let run = [&["--data", "data.jsonl"], &SHORT[..]].concat();
    let done = scene.train("heads.safetensors", &run);
    let found = json_of(&done);
    assert_eq!(found["samples"]["skipped"], 3, "{found}");
    assert_eq!(found["samples"]["train"], 4);
    for said in ["line 7", "line 8", "line 9"] {
        assert!(stderr(&done).contains(said), "{}", stderr(&done));
    }

    let strict = [&run[..], &["--strict"]].concat();
    refused(
        &scene.train("b.safetensors", &strict),
        2,
        &["data.jsonl", "line 7"],
    );
    let lines: Vec<&str> = lines.lines().collect();
    for (name, line) in [("question", lines[7]), ("answer", lines[8])] {
        let file = format!("{name}.jsonl");
        scene.file(&file, format!("{}\n{line}\n", lines[0]));
        let strict = [&["--data", &file, "--strict"], &SHORT[..]].concat();
        refused(
            &scene.train("b.safetensors", &strict),
            2,
            &[&file, "line 2", name],
        );
    }
    for (name, content) in [("empty.jsonl", ""), ("bad.jsonl", "nothing\n")] {
        scene.file(name, content);
        let run = [&["--data", name], &SHORT[..]].concat();
        refused(&scene.train("b.safetensors", &run), 2, &[name]);
    }
    let absent = [&["--data", "absent.jsonl"], &SHORT[..]].concat();
    refused(&scene.train("b.safetensors", &absent), 2, &["absent.jsonl"]);
    let too_few = ["--data", "data.jsonl", "--held-out", "6"];
    refused(
        &scene.train("b.safetensors", &too_few),
        2,
        &["6 are held out"],
    );
    let no_steps = ["--data", "data.jsonl", "--steps", "0"];
    refused(&scene.train("b.safetensors", &no_steps), 2, &["steps is 0"]);
    assert!(!scene.path("b.safetensors").exists());
    assert!(!scene.path("b.safetensors.training").exists());
}

/// A limit on the size of files stands for a full disk: the first checkpoint does not fit.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_no_broken_file() {
    let scene = Scene::new();
    scene.file("data.jsonl", samples(8));
    let run = [&["--data", "data.jsonl"], &SHORT[..]].concat();
    let apb = scene.command("heads.safetensors", &run);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$@\"", "sh"])
        .arg(apb.get_program())
        .args(apb.get_args())
        .current_dir(scene.path("."));
    let done = limited.output().expect("a shell");
    refused(&done, 1, &["apb: "]);
    assert!(!scene.path("heads.safetensors").exists());
    let left: Vec<_> = std::fs::read_dir(scene.path("heads.safetensors.training/checkpoint"))
        .expect("a folder")
        .map(|file| file.expect("a file").file_name())
        .filter(|name| !name.to_string_lossy().contains("unfinished"))
        .collect();
    let whole = |part: &str| {
        left.iter()
            .any(|name| name.to_string_lossy().starts_with(part))
    };
    let parts = ["model", "optimizer", "scheduler"];
    assert!(!parts.iter().all(|part| whole(part)), "{left:?}");

    let resumed = [&run[..], &["--resume"]].concat();
    json_of(&scene.train("heads.safetensors", &resumed));
    let whole = [&["--data", "data.jsonl"], &SHORT[..]].concat();
    json_of(&scene.train("whole.safetensors", &whole));
    let read = |name: &str| std::fs::read(scene.path(name)).expect("heads");
    assert!(
        read("heads.safetensors") == read("whole.safetensors"),
        "other heads"
    );
}

#[test]
fn any_text_gives_samples() {
    let scene = Scene::new();
    let text = include_str!("../../examples/data/opticks.txt");
    scene.file("text.txt", &text[2000..40_000]);
    let lengths = [
        "--min-tokens",
        "300",
        "--max-tokens",
        "400",
        "--synthesized",
        "13",
    ];
    let run = [&["--synthesize", "text.txt"], &lengths[..], &SHORT[..]].concat();
    let found = json_of(&scene.train("heads.safetensors", &run));
    let made = found["samples"]["made"].as_object().expect("kinds");
    assert_eq!(made.values().filter_map(Value::as_u64).sum::<u64>(), 13);
    assert!(made.len() > 3, "{made:?}");

    let long = ["--synthesize", "text.txt", "--max-tokens", "1000000"];
    refused(
        &scene.train("b.safetensors", &long),
        2,
        &["text.txt", "tokens"],
    );
}
