//! Evaluations: every case once, whatever happens in between, and what comes out of them.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{Scene, json, model, refused};

const TOKENS: &str = "1200";

fn eval(scene: &Scene, name: &str, more: &[&str]) -> Output {
    let model = model();
    let model = model.to_str().expect("UTF-8");
    scene.apb(&[&["eval", name, "--json", "--model", model][..], more].concat())
}

/// A haystack and two documents with questions.
fn files(scene: &Scene) {
    let mut text = String::new();
    for number in 0..60 {
        text += &format!(
            "Sentence {number} of the book is about river {}. ",
            number * 7
        );
    }
    scene.file("book.txt", &text);
    let questions = "What is sentence 3 about?\nWhich river?\n\
                     {\"question\": \"What is it?\", \"answer\": \"A book.\"}\n";
    scene.file("questions.txt", questions);
}

/// The rows of a file of results, without the first line.
fn rows(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("the results");
    let lines = text.lines().skip(1);
    lines
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect()
}

/// Rows by case: each case once.
fn by_case(rows: &[Value]) -> HashMap<String, &Value> {
    let mut cases = HashMap::new();
    for row in rows {
        let names = ["task", "tokens", "depth", "index", "method"];
        let case: Vec<String> = names.iter().map(|name| row[*name].to_string()).collect();
        let again = cases.insert(case.join(" "), row);
        assert!(again.is_none(), "twice: {row}");
    }
    cases
}

const NIAH: [&str; 10] = [
    "--haystack",
    "book.txt",
    "--tokens",
    TOKENS,
    "--depths",
    "0,50",
    "--samples",
    "3",
    "--ranks",
    "2",
];

#[test]
fn a_killed_run_goes_on_without_repeating_or_losing_a_case() {
    let scene = Scene::new();
    files(&scene);
    let whole = json(&eval(
        &scene,
        "niah",
        &[&NIAH[..], &["--out", "whole.jsonl"]].concat(),
    ));
    let expected = rows(&scene.path("whole.jsonl"));
    assert_eq!(
        by_case(&expected).len(),
        2 * 3 * 3,
        "depths, samples, methods"
    );

    // Killed as soon as it has some.
    let model = model();
    let mut child = Command::new(env!("CARGO_BIN_EXE_apb"))
        .args([
            "eval",
            "niah",
            "--json",
            "--model",
            model.to_str().expect("UTF-8"),
        ])
        .args(NIAH)
        .args(["--out", "cut.jsonl"])
        .current_dir(scene.path("."))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("apb starts");
    let path = scene.path("cut.jsonl");
    let lines = || std::fs::read_to_string(&path).map_or(0, |text| text.lines().count());
    while lines() < 4 && child.try_wait().expect("a child").is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    // And with its last line unfinished.
    let text = std::fs::read_to_string(&path).expect("the results");
    std::fs::write(&path, &text[..text.len() - 7]).expect("cut");
    let kept = text.lines().count() - 2;
    assert!(kept >= 2, "{text}");

    let again = json(&eval(
        &scene,
        "niah",
        &[&NIAH[..], &["--out", "cut.jsonl"]].concat(),
    ));
    let found = rows(&path);
    let (found, expected) = (by_case(&found), by_case(&expected));
    assert_eq!(found.len(), expected.len());
    for (case, row) in &expected {
        assert_eq!(row["answer"], found[case]["answer"], "{case}");
        assert_eq!(row["score"], found[case]["score"], "{case}");
    }
    assert_eq!(whole["cells"], again["cells"]);

    // More samples are added to those that are there; nothing is computed twice.
    let more: Vec<&str> = NIAH
        .iter()
        .map(|word| if *word == "3" { "4" } else { *word })
        .collect();
    json(&eval(
        &scene,
        "niah",
        &[&more[..], &["--out", "cut.jsonl"]].concat(),
    ));
    assert_eq!(by_case(&rows(&path)).len(), 2 * 4 * 3);
}

#[test]
fn results_of_other_settings_are_refused() {
    let scene = Scene::new();
    files(&scene);
    let out = ["--out", "results.jsonl", "--methods", "full"];
    json(&eval(&scene, "niah", &[&NIAH[..], &out].concat()));
    let before = std::fs::read(scene.path("results.jsonl")).expect("the results");
    let other = eval(
        &scene,
        "niah",
        &[&NIAH[..], &out, &["--seed", "1"]].concat(),
    );
    refused(&other, 2, &["results.jsonl", "seed is 0 there and 1 here"]);
    let other = eval(
        &scene,
        "infinitebench",
        &["--tokens", TOKENS, "--out", "results.jsonl"],
    );
    refused(&other, 2, &["eval is \"niah\" there"]);
    assert_eq!(
        std::fs::read(scene.path("results.jsonl")).expect("the results"),
        before
    );
    scene.file("notes.txt", "no results\n");
    let notes = eval(
        &scene,
        "niah",
        &[&NIAH[..], &["--out", "notes.txt"]].concat(),
    );
    refused(&notes, 2, &["notes.txt", "line 1"]);
}

#[test]
fn prompts_are_as_long_as_asked_for() {
    let scene = Scene::new();
    files(&scene);
    let tasks = "niah_single_1,niah_single_2,niah_multikey_1,niah_multivalue,fwe";
    let args = [
        "--haystack",
        "book.txt",
        "--tokens",
        "1500,2500",
        "--samples",
        "2",
        "--ranks",
        "2",
        "--methods",
        "full,star,apb-random",
        "--tasks",
        tasks,
        "--out",
        "ruler.jsonl",
        "--chart",
        "ruler.svg",
    ];
    let summary = json(&eval(&scene, "ruler", &args));
    assert_eq!(summary["cells"].as_array().map(Vec::len), Some(2 * 5 * 3));
    assert_eq!(summary["averages"].as_array().map(Vec::len), Some(2 * 3));
    for row in rows(&scene.path("ruler.jsonl")) {
        let most = row["tokens"].as_u64().expect("a length");
        let answer = match row["task"].as_str() {
            Some("fwe") => 50,
            _ => 128,
        };
        let length = row["prompt_tokens"].as_u64().expect("a length") + answer;
        assert!(
            length <= most && length * 100 >= most * 95,
            "{length} of {row}"
        );
    }
    let svg = std::fs::read_to_string(scene.path("ruler.svg")).expect("the chart");
    assert!(
        svg.contains("2500 tokens") && svg.contains("apb-random"),
        "{svg}"
    );

    let args = [
        "--tokens",
        TOKENS,
        "--samples",
        "2",
        "--ranks",
        "2",
        "--methods",
        "full,ring",
    ];
    let summary = json(&eval(&scene, "infinitebench", &args));
    assert_eq!(summary["cells"].as_array().map(Vec::len), Some(4 * 2));
    for average in summary["averages"].as_array().expect("a list") {
        assert_eq!(
            average["difference"]["value"], 0.0,
            "the ring is exact: {average}"
        );
    }
}

#[test]
fn published_files_are_read_and_cut() {
    let scene = Scene::new();
    let long = "The pass key is far away. ".repeat(200);
    let mut passkey = String::new();
    for (key, context) in [
        ("12345", &long),
        ("67890", &"Short. ".to_owned()),
        ("11111", &long),
    ] {
        let sample = serde_json::json!({ "id": 1, "context": context, "input": "What is it?", "answer": [key], "options": [] });
        passkey += &format!("{sample}\n");
    }
    std::fs::create_dir(scene.path("data")).expect("made");
    scene.file("data/passkey.jsonl", &passkey);
    let args = [
        "--data",
        "data",
        "--tokens",
        "900",
        "--methods",
        "full,star",
        "--out",
        "i.jsonl",
    ];
    let summary = json(&eval(&scene, "infinitebench", &args));
    assert_eq!(summary["cells"][0]["samples"], 3);
    let found = rows(&scene.path("i.jsonl"));
    assert_eq!(by_case(&found).len(), 3 * 2);
    for row in &found {
        let length = row["prompt_tokens"].as_u64().expect("a length");
        let short = row["index"] == 1;
        assert!(length <= 900 - 6 && (short || length > 850), "{row}");
        // The two with one text are answered together.
        let shared = row["index"] == 2;
        assert_eq!(row["prefill_seconds"].is_null(), shared, "{row}");
    }
    // Fewer samples are cases of the same file.
    json(&eval(
        &scene,
        "infinitebench",
        &[&args[..], &["--samples", "2"]].concat(),
    ));
    assert_eq!(rows(&scene.path("i.jsonl")).len(), 3 * 2);

    // Another file of the same name has cases of its own.
    scene.file("data/passkey.jsonl", passkey.replace("67890", "67891"));
    json(&eval(&scene, "infinitebench", &args));
    assert_eq!(rows(&scene.path("i.jsonl")).len(), 2 * 3 * 2);

    let sample = |letter: &str, difficulty: &str| {
        serde_json::json!({
            "_id": letter, "domain": "Prose", "sub_domain": "Rivers", "difficulty": difficulty, "length": "short",
            "question": "Which?", "choice_A": "a", "choice_B": "b", "choice_C": "c", "choice_D": "d",
            "answer": letter, "context": "A river.",
        })
    };
    let data = serde_json::json!([
        sample("A", "easy"),
        sample("B", "hard"),
        sample("C", "hard")
    ]);
    scene.file("data.json", data.to_string());
    let args = [
        "--data",
        "data.json",
        "--methods",
        "full",
        "--max-tokens",
        "8",
    ];
    let summary = json(&eval(&scene, "longbench", &args));
    let samples = |task: &str| {
        let cells = summary["cells"].as_array().expect("a list");
        let cell = cells.iter().find(|cell| cell["task"] == task);
        cell.unwrap_or_else(|| panic!("no {task}: {summary}"))["samples"].clone()
    };
    assert_eq!(samples("longbench_v2"), 3);
    assert_eq!(samples("longbench_v2, hard"), 2);
    assert_eq!(samples("longbench_v2, Prose"), 3);
    assert_eq!(summary["averages"][0]["samples"], 3);

    scene.file("data/passkey.jsonl", &passkey[..passkey.len() - 9]);
    let cut = eval(&scene, "infinitebench", &["--data", "data", "--ranks", "2"]);
    refused(&cut, 2, &["passkey.jsonl", "line 3"]);
    let none = eval(&scene, "infinitebench", &["--data", ".", "--ranks", "2"]);
    refused(&none, 2, &["passkey.jsonl"]);
    let tasks = ["--tasks", "code_run"];
    refused(&eval(&scene, "infinitebench", &tasks), 2, &["--data"]);
    let few = ["--data", "data.json", "--tokens", "60"];
    refused(&eval(&scene, "longbench", &few), 2, &["--max-tokens"]);
}

const ASKED: [&str; 6] = [
    "--document",
    "book.txt",
    "--questions",
    "questions.txt",
    "--max-tokens",
    "8",
];

#[test]
fn what_is_exact_agrees_and_what_is_not_does_not() {
    let scene = Scene::new();
    files(&scene);
    let kl = |methods: &str, ranks: &str| {
        let args = [
            "--methods",
            methods,
            "--ranks",
            ranks,
            "--tokens",
            "900,1400",
            "--answers",
        ];
        let summary = json(&eval(&scene, "agreement", &[&ASKED[..], &args].concat()));
        let rows = summary["rows"].as_array().expect("a list").clone();
        assert_eq!(rows.len(), 2 * methods.split(',').count());
        rows
    };
    for row in kl("full,ring,ring-contiguous,ulysses", "2") {
        let value = row["kl"]["value"].as_f64().expect("a number");
        assert!((0.0..1e-5).contains(&value), "{row}");
        assert_eq!(row["exact"]["value"], 1.0, "{row}");
        let [found, full] = ["gold_logprob", "full_gold_logprob"]
            .map(|name| row[name]["value"].as_f64().expect("a number"));
        assert!(found < 0.0 && (found - full).abs() < 1e-4, "{row}");
    }
    for row in kl("apb,star", "1") {
        assert!(
            row["kl"]["value"].as_f64().expect("a number") < 1e-5,
            "{row}"
        );
    }
    for row in kl("apb-random,star", "4") {
        assert!(
            row["kl"]["value"].as_f64().expect("a number") > 1e-4,
            "{row}"
        );
        assert!(
            row["kl"]["low"].as_f64() <= row["kl"]["high"].as_f64(),
            "{row}"
        );
    }
}

#[test]
fn agreement_goes_on_and_is_written_as_a_chart() {
    let scene = Scene::new();
    files(&scene);
    let args = [
        "--ranks",
        "2",
        "--tokens",
        "900",
        "--out",
        "agreement.jsonl",
        "--chart",
        "agreement.svg",
    ];
    let first = json(&eval(
        &scene,
        "agreement",
        &[&ASKED[..], &args, &["--samples", "2"]].concat(),
    ));
    let path = scene.path("agreement.jsonl");
    assert_eq!(by_case(&rows(&path)).len(), 2 * 2);
    let more = json(&eval(&scene, "agreement", &[&ASKED[..], &args].concat()));
    assert_eq!(by_case(&rows(&path)).len(), 3 * 2);
    assert_eq!(first["rows"][0]["questions"], 2);
    assert_eq!(more["rows"][0]["questions"], 3);
    assert_eq!(more["rows"][0]["kl_difference"], Value::Null);
    assert!(more["rows"][1]["kl_difference"]["value"].is_number());
    let svg = std::fs::read_to_string(scene.path("agreement.svg")).expect("the chart");
    assert!(svg.contains("KL divergence"), "{svg}");

    // An edited question is another case; the others are not asked again, wherever they stand now.
    let questions = "Which river?\nWhat is sentence 4 about?\n";
    scene.file("questions.txt", questions);
    let edited = json(&eval(&scene, "agreement", &[&ASKED[..], &args].concat()));
    assert_eq!(edited["rows"][0]["questions"], 2);
    let found = rows(&path);
    assert_eq!(found.len(), 3 * 2 + 2);
    assert!(
        found[6..]
            .iter()
            .all(|row| row["question"] == "What is sentence 4 about?"),
        "{found:?}"
    );
}

#[test]
fn lengths_are_tuned_within_a_divergence() {
    let scene = Scene::new();
    files(&scene);
    let args = [
        "--ranks",
        "2",
        "--tokens",
        "900",
        "--anchors",
        "120,240",
        "--passings",
        "0,100",
        "--hardware",
        "h100",
        "--out",
        "tune.jsonl",
        "--chart",
        "tune.svg",
    ];
    let tuned = |within: &str| {
        json(&eval(
            &scene,
            "tune",
            &[&ASKED[..], &args, &["--within", within]].concat(),
        ))
    };
    let wide = tuned("100");
    let points = wide["points"].as_array().expect("a list");
    assert_eq!(points.len(), 2 * 2 + 1, "star stands beside");
    // Everything is within 100 nats: the fastest is chosen, which is the shortest.
    assert_eq!(wide["chosen"]["anchor"], 120);
    assert_eq!(wide["chosen"]["passing"], 0);
    let front = points.iter().filter(|point| point["front"] == true);
    for point in front {
        let better = points.iter().find(|other| {
            other["prefill_seconds"].as_f64() < point["prefill_seconds"].as_f64()
                && other["kl"]["value"].as_f64() < point["kl"]["value"].as_f64()
        });
        assert!(better.is_none(), "{point} beaten by {better:?}");
    }
    assert_eq!(tuned("0")["chosen"], Value::Null);
    assert!(scene.path("tune.svg").exists());
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let scene = Scene::new();
    files(&scene);
    let refuse = |name: &str, more: &[&str], named: &[&str]| {
        refused(&eval(&scene, name, more), 2, named);
    };
    refuse(
        "niah",
        &["--tokens", "100"],
        &["tokens are too few", "ask for"],
    );
    refuse("niah", &["--tokens", "9000"], &["4096"]);
    refuse("niah", &["--depths", "120"], &["depth"]);
    refuse("niah", &["--samples", "0"], &["--samples is 0"]);
    refuse("niah", &["--methods", "full,full"], &["full twice"]);
    refuse("niah", &["--methods", "apb-retaining"], &["--heads"]);
    refuse("ruler", &["--tasks", "niah_singel_1"], &["niah_single_1"]);
    refuse("ruler", &["--tasks", "qa_1"], &["SQuAD"]);
    refuse("ruler", &["--squad", "book.txt"], &["book.txt"]);
    refuse("ruler", &["--haystack", "none.txt"], &["none.txt"]);
    refuse("agreement", &["--document", "book.txt"], &["--questions"]);
    refuse(
        "agreement",
        &[&ASKED[..], &["--tokens", "100000"]].concat(),
        &["the document has"],
    );
    refuse(
        "tune",
        &[&ASKED[..], &["--tokens", "900,950"]].concat(),
        &["several lengths"],
    );
    refuse(
        "tune",
        &[&ASKED[..], &["--hardware", "h1000"]].concat(),
        &["h100"],
    );
    refuse("tune", &[&ASKED[..], &["--within", "-1"]].concat(), &[]);
    scene.file("empty.txt", "\n\n");
    let empty = ["--document", "book.txt", "--questions", "empty.txt"];
    refuse("agreement", &empty, &["a question a line"]);
}
