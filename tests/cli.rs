//! The whole program in a temporary folder: what a user passes wrong, and what comes of it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama-gqa")
}

/// A folder that goes away with the test, and runs of `apb` in it.
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

    /// The small model with one of its files replaced; `None` leaves the file out.
    fn model_with(&self, name: &str, content: Option<&str>) -> PathBuf {
        let folder = self.path("model");
        std::fs::create_dir_all(&folder).expect("made");
        for entry in std::fs::read_dir(model()).expect("the fixture") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), folder.join(entry.file_name())).expect("copied");
        }
        match content {
            Some(content) => std::fs::write(folder.join(name), content).expect("written"),
            None => std::fs::remove_file(folder.join(name)).expect("removed"),
        }
        folder
    }

    fn apb(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_apb"))
            .args(args)
            .current_dir(self.0.path())
            .output()
            .expect("apb starts")
    }

    fn generate(&self, model: &Path, document: &Path, query: &str, more: &[&str]) -> Output {
        let (model, document) = (
            model.to_str().expect("UTF-8"),
            document.to_str().expect("UTF-8"),
        );
        let args = [
            "generate",
            "--model",
            model,
            "--document",
            document,
            "--query",
            query,
        ];
        self.apb(&[&args[..], more].concat())
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Ended with `code`, and stderr names every one of `named`.
#[track_caller]
fn refused(output: &Output, code: i32, named: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    for name in named {
        assert!(text.contains(name), "no `{name}` in: {text}");
    }
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).expect("one JSON object on stdout")
}

#[test]
fn generate_answers_with_the_keys_of_the_contract() {
    let scene = Scene::new();
    let document = scene.file(
        "document.txt",
        "It was a bright cold day in April.\n".repeat(40),
    );
    let more = ["--json", "--greedy", "--max-tokens", "6"];
    let first = json(&scene.generate(&model(), &document, "What month?", &more));
    for key in [
        "text",
        "tokens",
        "stop_reason",
        "document_tokens",
        "query_tokens",
        "method",
        "ranks",
        "anchor",
        "passing",
        "prefill_seconds",
        "prefill_tokens_per_second",
        "decode_tokens_per_second",
        "peak_bytes",
    ] {
        assert!(first.get(key).is_some(), "no `{key}` in {first}");
    }
    assert_eq!(first["method"], "full");
    assert!(first["document_tokens"].as_u64() >= Some(1400), "{first}");
    let tokens = first["tokens"].as_array().expect("a list").len();
    assert!(
        tokens == 6 || first["stop_reason"] == "stop_token",
        "{first}"
    );

    let chunked = [&more[..], &["--chunk", "100"]].concat();
    let again = json(&scene.generate(&model(), &document, "What month?", &chunked));
    assert_eq!(first["tokens"], again["tokens"], "chunks change nothing");
}

#[test]
fn the_document_may_come_from_standard_input() {
    let scene = Scene::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_apb"))
        .args([
            "generate",
            "--json",
            "--max-tokens",
            "2",
            "--document",
            "-",
            "--query",
            "Why?",
        ])
        .arg("--model")
        .arg(model())
        .current_dir(scene.0.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("apb starts");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(b"Because it is there.")
        .expect("written");
    let output = child.wait_with_output().expect("ended");
    assert!(json(&output)["document_tokens"].as_u64() >= Some(20));
}

#[test]
fn sampling_with_a_seed_repeats_itself() {
    let scene = Scene::new();
    let document = scene.file("document.txt", "abc ".repeat(50));
    let run = |seed: &str| {
        let more = [
            "--json",
            "--temperature",
            "1.5",
            "--seed",
            seed,
            "--max-tokens",
            "12",
        ];
        json(&scene.generate(&model(), &document, "go on", &more))["tokens"].clone()
    };
    assert_eq!(run("7"), run("7"));
    assert_ne!(run("7"), run("8"));
}

#[test]
fn no_model() {
    let scene = Scene::new();
    let document = scene.file("document.txt", "text");
    refused(
        &scene.generate(&scene.path("nowhere"), &document, "?", &[]),
        2,
        &["nowhere"],
    );
    std::fs::create_dir(scene.path("empty")).expect("made");
    refused(
        &scene.generate(&scene.path("empty"), &document, "?", &[]),
        2,
        &["empty", "config.json"],
    );
    for missing in ["config.json", "model.safetensors", "tokenizer.json"] {
        let scene = Scene::new();
        let document = scene.file("document.txt", "text");
        let folder = scene.model_with(missing, None);
        refused(&scene.generate(&folder, &document, "?", &[]), 2, &[missing]);
    }
}

#[test]
fn bad_configs_are_refused_by_field() {
    let good: Value =
        serde_json::from_slice(&std::fs::read(model().join("config.json")).expect("read"))
            .expect("JSON");
    let cases = [
        (
            "vocab_size",
            Some(serde_json::json!(1_000_000_000_000_000_000_u64)),
        ),
        ("hidden_size", None),
        ("intermediate_size", Some(serde_json::json!(-160))),
        ("head_dim", Some(serde_json::json!(0))),
        ("num_key_value_heads", Some(serde_json::json!(3))),
        ("sliding_window", Some(serde_json::json!(128))),
        ("model_type", Some(serde_json::json!("mamba"))),
    ];
    for (field, value) in cases {
        let mut config = good.clone();
        match value {
            Some(value) => config[field] = value,
            None => {
                config.as_object_mut().expect("an object").remove(field);
            }
        }
        let scene = Scene::new();
        let document = scene.file("document.txt", "text");
        let folder = scene.model_with("config.json", Some(&config.to_string()));
        refused(&scene.generate(&folder, &document, "?", &[]), 2, &[field]);
    }
    let scene = Scene::new();
    let document = scene.file("document.txt", "text");
    let folder = scene.model_with("config.json", Some("{\"model_type\": "));
    refused(
        &scene.generate(&folder, &document, "?", &[]),
        2,
        &["config.json"],
    );
}

#[test]
fn bad_documents_and_questions() {
    let scene = Scene::new();
    let text = scene.file("document.txt", "text");
    refused(
        &scene.generate(&model(), &scene.path("absent.txt"), "?", &[]),
        2,
        &["absent.txt"],
    );
    refused(
        &scene.generate(&model(), scene.0.path(), "?", &[]),
        2,
        &["document"],
    );
    let latin1 = scene.file("latin1.txt", b"caf\xe9 au lait");
    refused(
        &scene.generate(&model(), &latin1, "?", &[]),
        2,
        &["latin1.txt", "UTF-8", "byte 3"],
    );
    let empty = scene.file("empty.txt", " \n\n");
    refused(
        &scene.generate(&model(), &empty, "?", &[]),
        2,
        &["document", "empty"],
    );
    refused(
        &scene.generate(&model(), &text, " ", &[]),
        2,
        &["question", "empty"],
    );
}

#[test]
fn a_document_beyond_the_context_needs_allow_long() {
    let scene = Scene::new();
    let long = scene.file("long.txt", "0123456789".repeat(420));
    refused(
        &scene.generate(&model(), &long, "?", &[]),
        2,
        &["4096", "--allow-long"],
    );
    let more = ["--allow-long", "--json", "--max-tokens", "1"];
    assert!(
        json(&scene.generate(&model(), &long, "?", &more))["document_tokens"].as_u64() > Some(4096)
    );
}

#[test]
fn a_tokenizer_of_another_model_is_noticed() {
    let scene = Scene::new();
    let tokenizer = std::fs::read_to_string(model().join("tokenizer.json")).expect("read");
    let mut tokenizer: Value = serde_json::from_str(&tokenizer).expect("JSON");
    tokenizer["model"]["vocab"]["t"] = serde_json::json!(5000);
    let folder = scene.model_with("tokenizer.json", Some(&tokenizer.to_string()));
    let document = scene.file("document.txt", "a text with t");
    refused(
        &scene.generate(&folder, &document, "?", &[]),
        2,
        &["5000", "512"],
    );
}

#[test]
fn flags_that_cannot_be() {
    let scene = Scene::new();
    let document = scene.file("document.txt", "text");
    let cases: [(&[&str], i32, &[&str]); 14] = [
        (&["--device", "tpu"], 2, &["tpu", "cuda"]),
        (&["--method", "flash"], 2, &["flash", "full"]),
        (
            &["--method", "apb", "--ranks", "4000"],
            2,
            &["ranks", "nearest"],
        ),
        (
            &["--method", "ulysses", "--ranks", "3"],
            2,
            &["3 ranks", "4 heads"],
        ),
        (
            &["--method", "apb", "--anchor", "2"],
            2,
            &["anchor", "--anchor"],
        ),
        (
            &["--method", "apb", "--compressor", "retaining"],
            2,
            &["--heads"],
        ),
        (
            &["--method", "apb", "--no-anchor-query"],
            2,
            &["query-aware", "--anchor-query"],
        ),
        (
            &["--method", "apb", "--heads", "nowhere.safetensors"],
            2,
            &["nowhere.safetensors"],
        ),
        (&["--ring-layout", "zig"], 2, &["zigzag"]),
        (&["--ranks", "0"], 2, &["rank"]),
        (&["--chunk", "0"], 2, &["--chunk"]),
        (&["--top-p", "1.5"], 2, &["top_p"]),
        (&["--temperature", "-1"], 2, &["temperature"]),
        (&["--temperature", "NaN"], 2, &["temperature"]),
    ];
    for (flags, code, named) in cases {
        refused(
            &scene.generate(&model(), &document, "?", flags),
            code,
            named,
        );
    }
    if !cfg!(feature = "cuda") {
        let output = scene.generate(&model(), &document, "?", &["--device", "cuda"]);
        refused(&output, 3, &["--features cuda"]);
    }
}

#[test]
fn doctor_and_completions() {
    let scene = Scene::new();
    let checks = json(&scene.apb(&["doctor", "--json"]));
    let names: Vec<&str> = checks["checks"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|check| check["name"].as_str())
        .collect();
    for name in ["cpu", "cuda", "wgpu", "cache"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let script = scene.apb(&["completions", "bash"]);
    assert!(script.status.success());
    assert!(String::from_utf8_lossy(&script.stdout).contains("generate"));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let scene = Scene::new();
    let document = scene.file("document.txt", "text");
    let mut child = Command::new(env!("CARGO_BIN_EXE_apb"))
        .args([
            "generate",
            "--max-tokens",
            "200",
            "--query",
            "go on",
            "--document",
        ])
        .arg(&document)
        .arg("--model")
        .arg(model())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("apb starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ended");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

/// SmolLM2 as a folder and as the GGUF file it was converted from, where scripts/fetch-test-data
/// has brought them.
fn smollm2() -> Option<(PathBuf, PathBuf)> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-data");
    let (folder, gguf) = (data.join("smollm2-135m"), data.join("smollm2-135m.gguf"));
    if folder.join("model.safetensors").is_file() && gguf.is_file() {
        return Some((folder, gguf));
    }
    println!(
        "skipped: no SmolLM2 in {} (scripts/fetch-test-data brings it)",
        data.display()
    );
    None
}

#[test]
fn a_gguf_file_and_the_folder_converted_from_it_answer_alike() {
    let Some((folder, gguf)) = smollm2() else {
        return;
    };
    let scene = Scene::new();
    let text = include_str!("../examples/data/opticks.txt");
    let document = scene.file("document.txt", &text[..4000]);
    let answer = |model: &Path| {
        let more = ["--json", "--greedy", "--max-tokens", "32"];
        json(&scene.generate(
            model,
            &document,
            "Tell me at length what this text is about.",
            &more,
        ))
    };
    let (from_folder, from_gguf) = (answer(&folder), answer(&gguf));
    assert_eq!(from_folder["tokens"], from_gguf["tokens"]);
    assert_eq!(
        from_folder["tokens"].as_array().expect("a list").len(),
        32,
        "{from_folder}"
    );
    assert_eq!(from_folder["document_tokens"], from_gguf["document_tokens"]);
}
