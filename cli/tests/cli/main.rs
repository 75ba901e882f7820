//! The whole program in a temporary folder: what a user passes wrong, and what comes of it.

#[path = "../../../tests/common/data.rs"]
mod data;
mod eval;
mod prompt;
mod sessions;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn model() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/fixtures/models/llama-gqa")
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

/// Runs `apb chat --json --greedy` over a document, with one question a line.
fn chat(model: &Path, document: &Path, questions: &str, more: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_apb"))
        .args(["chat", "--json", "--greedy"])
        .args(more)
        .arg("--model")
        .arg(model)
        .arg("--document")
        .arg(document)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("apb starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(questions.as_bytes()).expect("written");
    drop(stdin);
    child.wait_with_output().expect("apb ends")
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
        ("num_experts", Some(serde_json::json!(8))),
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
fn bad_templates_and_generation_configs_are_refused_by_file() {
    let document = |scene: &Scene| scene.file("document.txt", "text");
    for (name, content, named) in [
        ("chat_template.jinja", "{% if %}", "line 1"),
        ("tokenizer_config.json", "[]", "JSON object"),
        (
            "tokenizer_config.json",
            r#"{"chat_template": 1}"#,
            "chat_template",
        ),
        (
            "generation_config.json",
            r#"{"do_sample": true, "top_p": 7}"#,
            "top_p",
        ),
        (
            "generation_config.json",
            r#"{"repetition_penalty": "x"}"#,
            "--greedy",
        ),
        ("generation_config.json", "{", "EOF"),
    ] {
        let scene = Scene::new();
        let folder = scene.model_with(name, Some(content));
        let output = scene.generate(&folder, &document(&scene), "?", &[]);
        refused(&output, 2, &[name, named]);
    }
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
            &["--method", "apb", "--no-anchor-query", "--passing", "1"],
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

/// A document of some 1,500 tokens of the small model, whose tokens are bytes.
fn bright_day(scene: &Scene) -> PathBuf {
    let text = "It was a bright cold day in April.\n".repeat(40);
    scene.file("document.txt", text)
}

#[test]
fn generate_takes_every_method() {
    let scene = Scene::new();
    let document = bright_day(&scene);
    let heads = model().join("heads.safetensors");
    let heads = heads.to_str().expect("UTF-8");
    let generate = |more: &[&str]| {
        let common = ["--json", "--greedy", "--max-tokens", "6"];
        let output = scene.generate(
            &model(),
            &document,
            "What month?",
            &[&common, more].concat(),
        );
        json(&output)
    };
    let full = generate(&[]);
    for exact in [
        &["--method", "ring", "--ranks", "3"][..],
        &["--method", "ring", "--ring-layout", "contiguous"],
        &["--method", "ulysses", "--ranks", "2"],
        &["--method", "apb", "--ranks", "1"],
    ] {
        assert_eq!(generate(exact)["tokens"], full["tokens"], "{exact:?}");
    }
    let star = generate(&["--method", "star", "--ranks", "3"]);
    assert_eq!(
        (&star["method"], &star["ranks"]),
        (&"star".into(), &3.into())
    );
    let apb = ["--method", "apb", "--anchor", "120", "--passing", "20"];
    for more in [
        &["--compressor", "query-aware"][..],
        &["--compressor", "random", "--seed", "3"],
        &["--heads", heads],
        &["--heads", heads, "--no-anchor-query"],
        &["--anchor-query", "Which month was it?"],
    ] {
        let answer = generate(&[&apb, more].concat());
        assert_eq!(answer["method"], "apb", "{more:?}");
        let lengths = (&answer["ranks"], &answer["anchor"], &answer["passing"]);
        assert_eq!(lengths, (&4.into(), &120.into(), &20.into()), "{more:?}");
    }
    let one = scene.generate(
        &model(),
        &document,
        "?",
        &["--method", "star", "--ranks", "1"],
    );
    assert!(one.status.success());
    assert!(stderr(&one).contains("full attention"), "{}", stderr(&one));
}

/// Heads of another model are refused before its weights are read: there are none here to read.
#[test]
fn heads_and_lengths_are_checked_before_the_weights_are_read() {
    let scene = Scene::new();
    let document = bright_day(&scene);
    let folder = scene.model_with("model.safetensors", None);
    let heads = model()
        .with_file_name("qwen2-bias")
        .join("heads.safetensors");
    let apb = ["--method", "apb", "--heads", heads.to_str().expect("UTF-8")];
    let output = scene.generate(&folder, &document, "What month?", &apb);
    refused(&output, 2, &["heads.safetensors", "fc1"]);
    let long = ["--method", "apb", "--passing", "400"];
    let output = scene.generate(&folder, &document, "What month?", &long);
    refused(&output, 2, &["--passing"]);
}

#[test]
fn a_saved_session_answers_as_a_fresh_one() {
    let scene = Scene::new();
    bright_day(&scene);
    let model = model();
    let model = model.to_str().expect("UTF-8");
    let save = [
        "session",
        "save",
        "--model",
        model,
        "--document",
        "document.txt",
        "--method",
        "apb",
        "--ranks",
        "3",
        "--anchor",
        "100",
        "--passing",
        "16",
        "--anchor-query",
        "What month?",
        "--out",
        "saved",
        "--json",
    ];
    let saved = json(&scene.apb(&save));
    assert_eq!(saved["ranks"], 3);
    let files = std::fs::read_dir(scene.path("saved")).expect("a folder");
    assert_eq!(files.count(), 3, "one file a rank, and nothing else");

    let ask = |more: &[&str]| {
        let common = [
            "session",
            "ask",
            "--model",
            model,
            "--session",
            "saved",
            "--query",
            "What month?",
            "--greedy",
            "--max-tokens",
            "6",
            "--json",
        ];
        scene.apb(&[&common, more].concat())
    };
    let generate = [
        "--method",
        "apb",
        "--ranks",
        "3",
        "--anchor",
        "100",
        "--passing",
        "16",
        "--greedy",
        "--max-tokens",
        "6",
        "--json",
    ];
    let document = scene.path("document.txt");
    let fresh = json(&scene.generate(Path::new(model), &document, "What month?", &generate));
    let restored = json(&ask(&[]));
    assert_eq!(restored["tokens"], fresh["tokens"]);
    assert_eq!(restored["document_tokens"], fresh["document_tokens"]);
    assert_eq!(json(&ask(&["--anchor", "100"]))["tokens"], fresh["tokens"]);

    refused(&ask(&["--anchor", "101"]), 2, &["anchor", "100", "101"]);
    refused(&ask(&["--method", "star"]), 2, &["method", "apb", "star"]);
    refused(&ask(&["--dtype", "bf16"]), 2, &["dtype", "F32", "BF16"]);
    // The same weights under another configuration are another model.
    let config = std::fs::read_to_string(Path::new(model).join("config.json")).expect("a config");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    config["rope_theta"] = 20_000.0.into();
    let other = scene.model_with("config.json", Some(&config.to_string()));
    let other = [
        "session",
        "ask",
        "--model",
        other.to_str().expect("UTF-8"),
        "--session",
        "saved",
        "--query",
        "What month?",
    ];
    refused(&scene.apb(&other), 2, &["fingerprint"]);
    let rank = scene.path("saved/rank-1-of-3.safetensors");
    let mut bytes = std::fs::read(&rank).expect("a rank");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&rank, bytes).expect("written");
    refused(&ask(&[]), 2, &["rank-1-of-3.safetensors", "damaged"]);
    std::fs::remove_file(&rank).expect("removed");
    refused(&ask(&[]), 2, &["rank-1-of-3.safetensors"]);
}

/// What cannot be written leaves nothing behind.
#[test]
fn a_session_in_the_way_of_a_file_is_not_saved() {
    let scene = Scene::new();
    bright_day(&scene);
    scene.file("taken", "a file");
    let model = model();
    let save = [
        "session",
        "save",
        "--model",
        model.to_str().expect("UTF-8"),
        "--document",
        "document.txt",
        "--out",
        "taken",
    ];
    refused(&scene.apb(&save), 1, &["taken"]);
    assert_eq!(
        std::fs::read(scene.path("taken")).expect("still there"),
        b"a file"
    );
}

#[test]
fn chat_prefills_once_and_answers_every_line() {
    let scene = Scene::new();
    let document = bright_day(&scene);
    let model = model();
    // The third is longer than there is room for; the fourth is answered all the same.
    let long = "x".repeat(4000);
    let questions = format!("What month?\n\nWhat day?\n{long}\nWhat month?\n");
    let options = [
        "--max-tokens",
        "5",
        "--method",
        "apb",
        "--anchor",
        "120",
        "--passing",
        "16",
    ];
    let apart = [&options[..], &["--no-history"]].concat();
    let output = chat(&model, &document, &questions, &apart);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let answers: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object a line"))
        .collect();
    assert_eq!(answers.len(), 4, "{answers:?}");
    assert_eq!(answers[2]["error"]["exit_code"], 2);
    assert_eq!(answers[0]["tokens"], answers[3]["tokens"]);
    assert!(stderr(&output).contains("tokens"), "{}", stderr(&output));
    let alone = [&["--json", "--greedy"][..], &options].concat();
    let alone = json(&scene.generate(&model, &document, "What month?", &alone));
    assert_eq!(answers[0]["tokens"], alone["tokens"]);
}

/// Ctrl-C ends the answer, not the program: what was generated is there, and so is the summary.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_an_answer() {
    let scene = Scene::new();
    let document = bright_day(&scene);
    let mut child = Command::new(env!("CARGO_BIN_EXE_apb"))
        .args([
            "generate",
            "--greedy",
            "--allow-long",
            "--max-tokens",
            "200000",
        ])
        .args(["--query", "What month?", "--model"])
        .arg(model())
        .arg("--document")
        .arg(&document)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("apb starts");
    let mut stdout = child.stdout.take().expect("piped");
    let mut first = [0];
    std::io::Read::read_exact(&mut stdout, &mut first).expect("the answer has begun");
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status();
    assert!(sent.expect("kill runs").success());
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut stdout, &mut rest).expect("read");
    let output = child.wait_with_output().expect("apb ends");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(rest.ends_with(b"\n"));
    assert!(
        stderr(&output).contains("tokens answered"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn bench_measures_methods_beside_each_other() {
    let scene = Scene::new();
    let model = model();
    let document = bright_day(&scene);
    let bench = [
        "bench",
        "prefill",
        "--json",
        "--tokens",
        "300,600",
        "--runs",
        "1",
        "--decode",
        "3",
        "--methods",
        "full,apb,ring",
        "--ranks",
        "3",
        "--anchor",
        "60",
        "--passing",
        "10",
        "--model",
        model.to_str().expect("UTF-8"),
        "--document",
        document.to_str().expect("UTF-8"),
    ];
    let result = json(&scene.apb(&bench));
    let rows = result["rows"].as_array().expect("rows");
    let methods: Vec<&str> = rows
        .iter()
        .filter_map(|row| row["method"].as_str())
        .collect();
    assert_eq!(methods, ["full", "apb", "ring", "full", "apb", "ring"]);
    for row in rows {
        for part in ["projections", "attention", "mlp"] {
            assert!(row["parts"][part].as_f64() > Some(0.0), "{row}");
        }
    }
}

/// Ranks with anchors of their own, each method by rank, one rank by itself, and a chart.
#[test]
fn bench_times_ranks_as_on_devices_of_their_own() {
    let scene = Scene::new();
    let model = model();
    let model = model.to_str().expect("UTF-8");
    let document = bright_day(&scene);
    let document = document.to_str().expect("UTF-8");
    let chart = scene.path("chart.svg");
    let common = [
        "bench",
        "prefill",
        "--json",
        "--tokens",
        "600",
        "--runs",
        "1",
        "--decode",
        "0",
        "--ranks",
        "2",
        "--anchor",
        "60",
        "--passing",
        "10",
        "--model",
        model,
        "--document",
        document,
    ];
    let methods = "star,apb-random,ring,ring-contiguous,ulysses";
    let more = [
        "--methods",
        methods,
        "--chart",
        chart.to_str().expect("UTF-8"),
    ];
    let result = json(&scene.apb(&[&common[..], &more].concat()));
    let rows = result["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 5);
    for row in rows {
        let seconds = |name: &str| row[name].as_f64().expect(name);
        assert_eq!(
            row["rank_seconds"].as_array().expect("ranks").len(),
            2,
            "{row}"
        );
        assert!(seconds("critical_seconds") > 0.0, "{row}");
        assert!(
            seconds("critical_seconds") < seconds("timed_seconds"),
            "{row}"
        );
        assert!(
            seconds("predicted_bytes") > 0.0 && seconds("share_of_product") > 0.0,
            "{row}"
        );
    }
    assert_eq!(rows[3]["method"], "ring-contiguous");
    let svg = std::fs::read_to_string(&chart).expect("the chart");
    assert!(
        svg.starts_with("<svg") && svg.contains("ring-contiguous"),
        "{svg}"
    );

    let alone =
        json(&scene.apb(&[&common[..], &["--methods", "apb", "--only-rank", "1"]].concat()));
    let row = &alone["rows"][0];
    assert_eq!(alone["only_rank"], 1);
    assert_eq!(
        row["rank_seconds"].as_array().expect("one").len(),
        1,
        "{row}"
    );
    assert_eq!(row["decode_tokens_per_second"], Value::Null);
    for (flags, names) in [
        (&["--methods", "apb", "--only-rank", "2"][..], "2 ranks"),
        (&["--bandwidth", "0"], "positive number"),
        (&["--methods", "ring-star"], "ring-contiguous"),
    ] {
        let refused = scene.apb(&[&common[..], flags].concat());
        assert_eq!(refused.status.code(), Some(2), "{flags:?}");
        assert!(stderr(&refused).contains(names), "{}", stderr(&refused));
    }
}

#[test]
fn plan_predicts_recommends_and_refuses() {
    let scene = Scene::new();
    let model = model();
    let config = model.join("config.json");
    let config = config.to_str().expect("UTF-8");
    let plan = |more: &[&str]| scene.apb(&[&["plan", "--model", config], more].concat());
    let found = json(&plan(&[
        "--json", "--tokens", "4000", "--ranks", "2", "--device", "h100",
    ]));
    for method in ["full", "ring", "ring-contiguous", "ulysses", "star", "apb"] {
        let method = &found["methods"][method];
        assert_eq!(method["fits"], true, "{method}");
        let parts = method["parts"].as_object().expect("parts");
        let sum: f64 = parts.values().filter_map(Value::as_f64).sum();
        let total = method["prefill_seconds"].as_f64().expect("seconds");
        assert!((sum - total).abs() < 1e-9 * total, "{method}");
    }
    assert!(found["recommended"]["reason"].is_string());
    assert!(found["max_tokens"].as_u64() > Some(4000));

    // Measured with random weights of the shape, in a few seconds at most.
    let here = json(&plan(&["--json", "--tokens", "600", "--ranks", "2"]));
    assert_eq!(here["device"], "measured");
    assert!(here["methods"]["apb"]["prefill_seconds"].as_f64() > Some(0.0));

    let small = ["--tokens", "1000000", "--device", "h100", "--memory", "0.5"];
    let refused = plan(&small);
    assert_eq!(refused.status.code(), Some(5), "{}", stderr(&refused));
    for (flags, names) in [
        (&["--tokens", "0"][..], "the least is 1"),
        (&["--tokens", "9", "--device", "h1000"], "did you mean h100"),
        (&["--tokens", "9", "--memory", "nan"], "--memory is NaN"),
    ] {
        let refused = plan(flags);
        assert_eq!(refused.status.code(), Some(2), "{flags:?}");
        assert!(stderr(&refused).contains(names), "{}", stderr(&refused));
    }
}

/// A cache of terabytes is refused before a weight is read.
#[test]
fn what_does_not_fit_the_memory_is_refused() {
    let scene = Scene::new();
    let document = bright_day(&scene);
    let model = model();
    let config = std::fs::read_to_string(model.join("config.json")).expect("the configuration");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    config["num_hidden_layers"] = 4096.into();
    config["num_attention_heads"] = 4096.into();
    config["num_key_value_heads"] = 4096.into();
    config["head_dim"] = 1024.into();
    let folder = scene.path("large");
    std::fs::create_dir(&folder).expect("a folder");
    for file in std::fs::read_dir(&model).expect("the model") {
        let file = file.expect("an entry");
        std::fs::copy(file.path(), folder.join(file.file_name())).expect("a copy");
    }
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a file");
    let generate = [
        "generate",
        "--query",
        "Why?",
        "--model",
        folder.to_str().expect("UTF-8"),
        "--document",
        document.to_str().expect("UTF-8"),
        "--chunk",
        "1000000",
        "--max-tokens",
        "1",
    ];
    let refused = scene.apb(&generate);
    let text = stderr(&refused);
    assert_eq!(refused.status.code(), Some(5), "{text}");
    assert!(
        text.contains("GiB free") && text.contains("apb plan"),
        "{text}"
    );
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
fn an_instruction_set_is_chosen_or_refused() {
    let doctor = |word| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_apb"));
        let command = command.args(["doctor", "--json"]).env("APB_CPU", word);
        command.output().expect("apb starts")
    };
    let checks = json(&doctor("portable"));
    let cpu = &checks["checks"].as_array().expect("a list")[1];
    let found = cpu["found"].as_str().expect("text");
    assert!(cpu["name"] == "cpu" && found.contains("portable"), "{cpu}");
    let refused = doctor("avx1024");
    assert_eq!(refused.status.code(), Some(2));
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(
        text.contains("`avx1024`") && text.contains("portable"),
        "{text}"
    );
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

/// SmolLM2 as a folder and as the GGUF file it was converted from.
fn smollm2() -> Option<(PathBuf, PathBuf)> {
    let weights = data::find("target/test-data/smollm2-135m", "model.safetensors", None)?;
    let gguf = data::find("target/test-data", "smollm2-135m.gguf", None)?;
    Some((weights.parent()?.to_path_buf(), gguf))
}

#[test]
fn a_gguf_file_and_the_folder_converted_from_it_answer_alike() {
    let Some((folder, gguf)) = smollm2() else {
        return;
    };
    let scene = Scene::new();
    let text = include_str!("../../../examples/data/opticks.txt");
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

/// A model is quantised, and answers; what is there stays, and what makes no sense is refused.
#[test]
fn a_model_is_quantised_and_answers() {
    let scene = Scene::new();
    let folder = model();
    let folder = folder.to_str().expect("UTF-8");
    let document = scene.file("document.txt", "It was a bright cold day in April.\n");
    for (name, types) in [("q8_0", ["Q8_0", "F32"]), ("q4_k", ["Q5_0", "Q8_0"])] {
        let file = format!("{name}.gguf");
        let args = [
            "convert",
            folder,
            "--quantize",
            name,
            "--out",
            &file,
            "--json",
        ];
        let report = json(&scene.apb(&args));
        let length = std::fs::metadata(scene.path(&file)).expect("written").len();
        assert_eq!(report["bytes"], length, "{report}");
        for stored in types {
            assert!(report["types"][stored].as_u64() > Some(0), "{report}");
        }
        let more = ["--json", "--greedy", "--max-tokens", "4"];
        let answer = json(&scene.generate(&scene.path(&file), &document, "What month?", &more));
        assert!(
            answer["tokens"]
                .as_array()
                .is_some_and(|tokens| !tokens.is_empty())
        );
        refused(&scene.apb(&args), 2, &[&file, "expected a new file"]);
    }
    let small = scene.apb(&["convert", "q8_0.gguf", "again.gguf", "--quantize", "q4_k"]);
    let text = String::from_utf8_lossy(&small.stdout).into_owned();
    assert!(
        small.status.success() && text.contains("bits each"),
        "{text}"
    );
    let cases: [(&[&str], &[&str]); 5] = [
        (&["q8_0.gguf", "x", "--quantize", "q3_k"], &["q8_0", "q4_k"]),
        (
            &["q8_0.gguf", "x", "--quantize", "q8_0", "--dtype", "f32"],
            &["--dtype"],
        ),
        (&["q8_0.gguf", "x", "--out", "y"], &["--out"]),
        (&["q8_0.gguf", "--quantize", "q8_0"], &["OUT"]),
        (&[folder, "x"], &["GGUF"]),
    ];
    for (args, named) in cases {
        refused(&scene.apb(&[&["convert"], args].concat()), 2, named);
        assert!(
            !scene.path("x").exists() && !scene.path("y").exists(),
            "{args:?}"
        );
    }
    let converted = scene.apb(&["convert", "q8_0.gguf", "--out", "folder"]);
    assert!(converted.status.success() && scene.path("folder/config.json").exists());
}

/// A build without MPI says so where it is one of several processes, and how to get it.
#[cfg(not(any(feature = "mpi", feature = "nccl")))]
#[test]
fn ranks_as_processes_need_mpi() {
    let scene = Scene::new();
    let document = scene.file("document.txt", "It was a bright cold day in April.\n");
    let launched = scene.apb(&["launch", "-n", "2", "--", "apb", "doctor"]);
    refused(&launched, 3, &["--features mpi", "libopenmpi-dev"]);
    let (model, document) = (model(), document.to_str().expect("UTF-8"));
    for process in ["0", "1"] {
        let done = Command::new(env!("CARGO_BIN_EXE_apb"))
            .args([
                "generate",
                "--query",
                "What month?",
                "--document",
                document,
                "--model",
            ])
            .arg(&model)
            .envs([
                ("OMPI_COMM_WORLD_RANK", process),
                ("OMPI_COMM_WORLD_SIZE", "2"),
            ])
            .output()
            .expect("apb starts");
        match process {
            "0" => refused(&done, 3, &["--features mpi", "libopenmpi-dev"]),
            // The first says it for all.
            _ => assert_eq!(
                (done.status.code(), stderr(&done)),
                (Some(3), String::new())
            ),
        }
    }
}
