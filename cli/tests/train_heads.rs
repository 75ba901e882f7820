//! The program `apb train-heads`: its output, its errors for bad data, and its files after a kill or on a
//! full disk.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

fn model() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/fixtures/models/llama-gqa")
}

/// A temporary folder, and runs of the command in it.
struct TestFolder(tempfile::TempDir);

impl TestFolder {
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
        let width = ["--width", "8"];
        self.command_with(&model(), out, &[&width[..], more].concat())
    }

    fn command_with(&self, model: &Path, out: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_apb"));
        command
            .args(["train-heads", "--json", "--model"])
            .arg(model)
            .args(["--out", out])
            .args(more)
            .current_dir(self.0.path());
        command
    }

    /// A model of the same shapes and tokenizer, with another weight.
    fn other_model(&self) -> PathBuf {
        let folder = self.path("other");
        std::fs::create_dir(&folder).expect("made");
        for file in std::fs::read_dir(model()).expect("a model") {
            let file = file.expect("a file");
            std::fs::copy(file.path(), folder.join(file.file_name())).expect("copied");
        }
        let weights = folder.join("model.safetensors");
        let mut bytes = std::fs::read(&weights).expect("weights");
        *bytes.last_mut().expect("a byte") ^= 1;
        std::fs::write(&weights, bytes).expect("written");
        folder
    }

    fn train(&self, out: &str, more: &[&str]) -> Output {
        self.command(out, more).output().expect("apb starts")
    }
}

/// `count` samples, each with a different number to find.
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
    let folder = TestFolder::new();
    folder.file("data.jsonl", samples(8));
    let run = [&["--data", "data.jsonl"], &SHORT[..]].concat();
    let found = json_of(&folder.train("heads.safetensors", &run));
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

    let document = folder.file(
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
        .arg(folder.path("heads.safetensors"))
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
    let long = json_of(&folder.train("long.safetensors", &long));
    assert_eq!(long["rounds"][0]["step"], 2);
    assert!(
        long["valid_loss"].is_null() && long["recall_at_k"].is_number(),
        "{long}"
    );

    // For these weights alone, or for all of their shapes.
    let metadata = |name: &str| {
        let bytes = std::fs::read(folder.path(name)).expect("heads");
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).expect("a header");
        header.metadata().clone().expect("metadata")
    };
    let bound = metadata("heads.safetensors");
    assert_eq!(bound["model_fingerprint"], bound["trained_on"]);
    assert!(bound["recipe"].contains("learning_rate"), "{bound:?}");
    assert!(
        bound["label_scale"].starts_with(r#"{"mean":[["#),
        "{bound:?}"
    );
    let any = [&run[..], &["--any-weights"]].concat();
    json_of(&folder.train("any.safetensors", &any));
    let any = metadata("any.safetensors");
    assert!(!any.contains_key("model_fingerprint"));
    assert_eq!(any["trained_on"], bound["trained_on"]);

    // A second run in the folder of the first one.
    refused(
        &folder.train("heads.safetensors", &run),
        1,
        &["heads.safetensors.training", "--resume"],
    );
    // A finished run is loaded again.
    let bytes = std::fs::read(folder.path("heads.safetensors")).expect("heads");
    std::fs::remove_file(folder.path("heads.safetensors")).expect("removed");
    let again = [&run[..], &["--resume"]].concat();
    assert_eq!(
        json_of(&folder.train("heads.safetensors", &again))["rounds"],
        found["rounds"]
    );
    let read = std::fs::read(folder.path("heads.safetensors")).expect("heads");
    assert!(bytes == read, "other heads");
}

#[test]
fn a_killed_run_resumes_to_the_same_heads() {
    let folder = TestFolder::new();
    folder.file("data.jsonl", samples(12));
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
        "--patience",
        "20",
    ];
    json_of(&folder.train("whole.safetensors", &run));

    let resumed = [&run[..], &["--resume"]].concat();
    let rounds = folder.path("parts.safetensors.training/rounds.json");
    let done = || {
        let text = std::fs::read(&rounds).ok()?;
        let rounds: Value = serde_json::from_slice(&text).expect("whole at any time");
        rounds.as_array().map(Vec::len)
    };
    let started = Instant::now();
    // Killed in the middle of a round, after one, five and nine of twenty.
    for (args, until) in [(&run[..], 1), (&resumed[..], 5), (&resumed[..], 9)] {
        let mut child = folder
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
        assert!(!folder.path("parts.safetensors").exists());
    }
    json_of(&folder.train("parts.safetensors", &resumed));
    let read = |name: &str| std::fs::read(folder.path(name)).expect("heads");
    assert!(
        read("parts.safetensors") == read("whole.safetensors"),
        "other heads"
    );
}

#[test]
fn a_run_of_another_model_is_not_resumed() {
    let folder = TestFolder::new();
    folder.file("data.jsonl", samples(8));
    let run = [&["--data", "data.jsonl"], &SHORT[..]].concat();
    json_of(&folder.train("heads.safetensors", &run));
    std::fs::remove_file(folder.path("heads.safetensors")).expect("removed");
    let settings = folder.path("heads.safetensors.training/settings.json");
    let text = std::fs::read_to_string(&settings).expect("settings");
    let of_run: Value = serde_json::from_str(&text).expect("JSON");
    let expected = of_run["model"].as_str().expect("a fingerprint");

    let other = folder.other_model();
    let resumed = [&["--width", "8", "--resume"], &run[..]].concat();
    let mut other = folder.command_with(&other, "heads.safetensors", &resumed);
    let other = other.output().expect("apb starts");
    let named = ["heads.safetensors.training", expected, "another folder"];
    refused(&other, 2, &named);
    assert!(!folder.path("heads.safetensors").exists());

    // As an earlier version wrote it.
    let mut earlier = of_run.clone();
    earlier.as_object_mut().expect("fields").remove("model");
    std::fs::write(&settings, earlier.to_string()).expect("written");
    let resume = [&run[..], &["--resume"]].concat();
    let unknown = folder.train("heads.safetensors", &resume);
    refused(&unknown, 2, &["settings.json", "\"model\"", expected]);
    std::fs::write(&settings, text).expect("written");
    json_of(&folder.train("heads.safetensors", &resume));
}

#[test]
fn heads_are_trained_further() {
    let folder = TestFolder::new();
    folder.file("data.jsonl", samples(8));
    let run = ["--data", "data.jsonl", "--held-out", "2", "--steps", "40"];
    let rate = ["--round", "40", "--learning-rate", "4e-3"];
    let first = json_of(&folder.train("first.safetensors", &[&run[..], &rate].concat()));
    let more = ["--data", "data.jsonl", "--held-out", "2", "--steps", "1"];
    let from = [&more[..], &["--start-from", "first.safetensors"]].concat();
    let further = |model: &Path, more: &[&str]| {
        let mut command = folder.command_with(model, "further.safetensors", more);
        command.output().expect("apb starts")
    };
    // One step from trained heads, with their width, is better than one step from random ones.
    let found = json_of(&further(&model(), &from));
    let fresh = json_of(&folder.train("fresh.safetensors", &more));
    let loss = |found: &Value| found["valid_loss"].as_f64().expect("a loss");
    assert!(loss(&found) < loss(&fresh), "{found}, new heads {fresh}");
    assert!((loss(&found) - loss(&first)).abs() < (loss(&fresh) - loss(&first)).abs() / 4.0);
    let bytes = std::fs::read(folder.path("further.safetensors")).expect("heads");
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).expect("a header");
    let metadata = header.metadata().clone().expect("metadata");
    assert_eq!(metadata["started_from"], "first.safetensors");
    assert_eq!(metadata["width"], "8");
    let scale_of = |name: &str| {
        let bytes = std::fs::read(folder.path(name)).expect("heads");
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).expect("a header");
        let metadata = header.metadata().clone().expect("metadata");
        metadata.get("label_scale").cloned()
    };
    assert_eq!(
        scale_of("further.safetensors"),
        scale_of("first.safetensors")
    );
    assert!(scale_of("first.safetensors").is_some());
    // Heads that were trained on labels as they are, as published ones were.
    let raw = [&more[..], &["--scale-samples", "0"]].concat();
    json_of(&folder.train("raw.safetensors", &raw));
    assert_eq!(scale_of("raw.safetensors"), None);
    let from_raw = [&more[..], &["--start-from", "raw.safetensors"]].concat();
    json_of(&folder.train("from-raw.safetensors", &from_raw));
    assert_eq!(scale_of("from-raw.safetensors"), None);

    // Resumed with the same heads, and not with none.
    let resumed = [&from[..], &["--resume"]].concat();
    assert_eq!(
        json_of(&further(&model(), &resumed))["rounds"],
        found["rounds"]
    );
    let none = [&more[..], &["--width", "8", "--resume"]].concat();
    refused(&further(&model(), &none), 1, &["other heads to start from"]);

    let wide = [&from[..], &["--width", "16"]].concat();
    refused(
        &further(&model(), &wide),
        2,
        &["first.safetensors", "--width 16", "8"],
    );
    let other = folder.other_model();
    refused(
        &further(&other, &from),
        2,
        &["first.safetensors", "fingerprint"],
    );
    let shapes = model().with_file_name("qwen3-qknorm");
    let shapes = shapes.join("heads.safetensors").display().to_string();
    let shapes = [&more[..], &["--start-from", &shapes]].concat();
    refused(
        &further(&model(), &shapes),
        2,
        &["qwen3-qknorm", "as the model has"],
    );
    let absent = [&more[..], &["--start-from", "absent.safetensors"]].concat();
    refused(&further(&model(), &absent), 2, &["absent.safetensors"]);
}

#[test]
fn bad_samples_are_counted_and_reported() {
    let folder = TestFolder::new();
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
    folder.file("data.jsonl", &lines);
    let run = [&["--data", "data.jsonl"], &SHORT[..]].concat();
    let done = folder.train("heads.safetensors", &run);
    let found = json_of(&done);
    assert_eq!(found["samples"]["skipped"], 3, "{found}");
    assert_eq!(found["samples"]["train"], 4);
    for line in ["line 7", "line 8", "line 9"] {
        assert!(stderr(&done).contains(line), "{}", stderr(&done));
    }

    let strict = [&run[..], &["--strict"]].concat();
    refused(
        &folder.train("b.safetensors", &strict),
        2,
        &["data.jsonl", "line 7"],
    );
    let lines: Vec<&str> = lines.lines().collect();
    for (name, line) in [("question", lines[7]), ("answer", lines[8])] {
        let file = format!("{name}.jsonl");
        folder.file(&file, format!("{}\n{line}\n", lines[0]));
        let strict = [&["--data", &file, "--strict"], &SHORT[..]].concat();
        refused(
            &folder.train("b.safetensors", &strict),
            2,
            &[&file, "line 2", name],
        );
    }
    for (name, content) in [("empty.jsonl", ""), ("bad.jsonl", "nothing\n")] {
        folder.file(name, content);
        let run = [&["--data", name], &SHORT[..]].concat();
        refused(&folder.train("b.safetensors", &run), 2, &[name]);
    }
    let absent = [&["--data", "absent.jsonl"], &SHORT[..]].concat();
    refused(
        &folder.train("b.safetensors", &absent),
        2,
        &["absent.jsonl"],
    );
    let too_few = ["--data", "data.jsonl", "--held-out", "6"];
    refused(
        &folder.train("b.safetensors", &too_few),
        2,
        &["6 are held out"],
    );
    let no_steps = ["--data", "data.jsonl", "--steps", "0"];
    refused(
        &folder.train("b.safetensors", &no_steps),
        2,
        &["steps is 0"],
    );
    assert!(!folder.path("b.safetensors").exists());
    assert!(!folder.path("b.safetensors.training").exists());
}

/// Simulates a full disk by a limit on the size of files: the first checkpoint does not fit.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_no_broken_file() {
    let folder = TestFolder::new();
    folder.file("data.jsonl", samples(8));
    let run = [&["--data", "data.jsonl"], &SHORT[..]].concat();
    let apb = folder.command("heads.safetensors", &run);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$@\"", "sh"])
        .arg(apb.get_program())
        .args(apb.get_args())
        .current_dir(folder.path("."));
    let done = limited.output().expect("a shell");
    refused(&done, 1, &["apb: "]);
    assert!(!folder.path("heads.safetensors").exists());
    let left: Vec<_> = std::fs::read_dir(folder.path("heads.safetensors.training/checkpoint"))
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
    json_of(&folder.train("heads.safetensors", &resumed));
    let whole = [&["--data", "data.jsonl"], &SHORT[..]].concat();
    json_of(&folder.train("whole.safetensors", &whole));
    let read = |name: &str| std::fs::read(folder.path(name)).expect("heads");
    assert!(
        read("heads.safetensors") == read("whole.safetensors"),
        "other heads"
    );
}

#[test]
fn samples_are_synthesised_from_any_text() {
    let folder = TestFolder::new();
    let text = include_str!("../../examples/data/opticks.txt");
    folder.file("text.txt", &text[2000..40_000]);
    let lengths = [
        "--min-tokens",
        "300",
        "--max-tokens",
        "400",
        "--synthesized",
        "13",
    ];
    let run = [&["--synthesize", "text.txt"], &lengths[..], &SHORT[..]].concat();
    let found = json_of(&folder.train("heads.safetensors", &run));
    let made = found["samples"]["made"].as_object().expect("kinds");
    assert_eq!(made.values().filter_map(Value::as_u64).sum::<u64>(), 13);
    assert!(made.len() > 3, "{made:?}");

    let long = ["--synthesize", "text.txt", "--max-tokens", "1000000"];
    refused(
        &folder.train("b.safetensors", &long),
        2,
        &["text.txt", "tokens"],
    );
}
