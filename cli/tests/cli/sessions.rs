//! What a folder of a saved session may hold, and which questions fit a model's context.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use super::{Scene, bright_day, chat, json, model, refused, stderr};

fn save(scene: &Scene, model: &Path, document: &Path, more: &[&str]) -> Output {
    let mut args = vec!["session", "save", "--json", "--out", "saved", "--model"];
    args.extend([model.to_str().expect("UTF-8"), "--document"]);
    args.push(document.to_str().expect("UTF-8"));
    scene.apb(&[&args[..], more].concat())
}

fn ask(scene: &Scene, model: &Path, query: &str, more: &[&str]) -> Output {
    let mut args = vec!["session", "ask", "--json", "--greedy", "--session", "saved"];
    args.extend(["--model", model.to_str().expect("UTF-8"), "--query", query]);
    scene.apb(&[&args[..], more].concat())
}

fn names(scene: &Scene) -> Vec<String> {
    let entries = std::fs::read_dir(scene.path("saved")).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names
        .map(|name| name.into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

#[test]
fn a_folder_holds_one_saved_session() {
    let scene = Scene::new();
    let model = model();
    let first = scene.file(
        "first.txt",
        "It was a bright cold day in April.\n".repeat(8),
    );
    let second = scene.file(
        "second.txt",
        "The board decided to buy a boiler.\n".repeat(9),
    );
    let star = |ranks| ["--method", "star", "--ranks", ranks];
    let tokens = |output: &Output| json(output)["document_tokens"].clone();
    let answered = || tokens(&ask(&scene, &model, "What?", &["--max-tokens", "2"]));

    let of_first = tokens(&save(&scene, &model, &first, &star("2")));
    std::fs::write(scene.path("saved/notes.txt"), "kept").expect("written");
    let before = names(&scene);
    // Before a weight is read: there are none here.
    let weightless = scene.model_with("model.safetensors", None);
    for model in [&model, &weightless] {
        for ranks in ["2", "3"] {
            let taken = save(&scene, model, &second, &star(ranks));
            refused(&taken, 2, &["saved", "--force"]);
        }
    }
    assert_eq!(names(&scene), before);
    assert_eq!(answered(), of_first);

    let old = std::fs::read(scene.path("saved/rank-0-of-2.safetensors")).expect("a rank");
    let force = [&star("3")[..], &["--force"]].concat();
    let of_second = tokens(&save(&scene, &model, &second, &force));
    assert_ne!(of_second, of_first);
    assert_eq!(answered(), of_second);
    let three = [
        "notes.txt",
        "rank-0-of-3.safetensors",
        "rank-1-of-3.safetensors",
        "rank-2-of-3.safetensors",
    ];
    assert_eq!(names(&scene), three);

    std::fs::write(scene.path("saved/rank-0-of-2.safetensors"), old).expect("written");
    let both = ["rank-0-of-2.safetensors", "rank-0-of-3.safetensors"];
    refused(&ask(&scene, &model, "What?", &[]), 2, &both);
    std::fs::remove_file(scene.path("saved/rank-1-of-3.safetensors")).expect("removed");
    refused(&ask(&scene, &model, "What?", &[]), 2, &both);
    save(&scene, &model, &second, &force);
    assert_eq!(names(&scene), three);
    assert_eq!(answered(), of_second);
}

/// The small model made for as many tokens.
fn model_of_context(scene: &Scene, tokens: usize) -> std::path::PathBuf {
    let text = std::fs::read_to_string(model().join("config.json")).expect("the fixture");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config["max_position_embeddings"] = json!(tokens);
    scene.model_with("config.json", Some(&config.to_string()))
}

#[test]
fn a_question_to_a_saved_session_must_fit_the_context() {
    let scene = Scene::new();
    let model = model_of_context(&scene, 1500);
    json(&save(&scene, &model, &bright_day(&scene), &[]));
    let long = "x".repeat(200);
    for (query, tokens, fits) in [
        ("What month?", "4", true),
        ("What month?", "200", false),
        (long.as_str(), "4", false),
    ] {
        let ask = |more: &[&str]| {
            let more = [&["--max-tokens", tokens][..], more].concat();
            ask(&scene, &model, query, &more)
        };
        match fits {
            true => drop(json(&ask(&[]))),
            false => refused(&ask(&[]), 2, &["context is 1500", "--allow-long"]),
        }
        json(&ask(&["--allow-long"]));
    }
}

#[test]
fn every_question_of_a_chat_must_fit_the_context() {
    let scene = Scene::new();
    let model = model_of_context(&scene, 1500);
    let document = bright_day(&scene);
    let questions = format!("What month?\n{}\nWhat day?\n", "x".repeat(200));
    let asked = |more: &[&str]| {
        let options = [&["--max-tokens", "4"], more].concat();
        let output = chat(&model, &document, &questions, &options);
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let failed: Vec<bool> = lines
            .lines()
            .map(|line| line.contains("\"error\""))
            .collect();
        (output.status.code(), failed, stderr(&output))
    };
    // Every question has its line, and the exit code is that of the one that failed.
    let (code, failed, errors) = asked(&[]);
    assert_eq!(
        (code, failed),
        (Some(2), vec![false, true, false]),
        "{errors}"
    );
    assert!(errors.contains("context is 1500"), "{errors}");
    let (code, failed, errors) = asked(&["--allow-long"]);
    assert_eq!((code, failed), (Some(0), vec![false; 3]), "{errors}");
}

/// The second question sees the first and its answer; rows that both begin with are computed once, and the answer is that
/// of a question with all of it.
#[test]
fn a_chat_keeps_the_conversation_within_the_context() {
    let scene = Scene::new();
    let document = bright_day(&scene);
    let answers = |model: &Path, questions: &str, more: &[&str]| -> Vec<Value> {
        let options = [&["--max-tokens", "6"], more].concat();
        let output = chat(model, &document, questions, &options);
        assert!(output.status.success(), "{}", stderr(&output));
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = lines
            .lines()
            .map(|line| serde_json::from_str(line).expect("an object"));
        lines.collect()
    };
    let model = model();
    let both = answers(&model, "What month?\nWhat day?\n", &[]);
    let apart = answers(&model, "What month?\nWhat day?\n", &["--no-history"]);
    let again = answers(&model, "What month?\n/reset\nWhat day?\n", &[]);
    assert_eq!(both[0]["tokens"], apart[0]["tokens"]);
    assert_eq!(both[1]["turns"], 1);
    assert!(both[1]["query_tokens"].as_u64() > apart[1]["query_tokens"].as_u64());
    assert_eq!(again[2]["tokens"], apart[1]["tokens"]);
    // A conversation of the same words in one question gives the same answer as one computed in two steps.
    let chunked = answers(&model, "What month?\nWhat day?\n", &["--chunk", "7"]);
    assert_eq!(both[1]["tokens"], chunked[1]["tokens"]);
    // Where the context is full the oldest turn goes.
    let short = model_of_context(&scene, 1450);
    let many = answers(&short, &"What month?\n".repeat(4), &[]);
    assert!(
        many.iter()
            .all(|answer| answer["turns"].as_u64() <= Some(1)),
        "{many:?}"
    );
}

#[test]
fn a_cache_in_eight_bits_takes_heads_of_whole_blocks() {
    let scene = Scene::new();
    // Heads of 16 elements.
    let (model, document) = (
        model(),
        scene.file("day.txt", "It was a bright cold day.\n"),
    );
    let in_eight_bits = ["--kv-dtype", "q8_0"];
    let taken = save(&scene, &model, &document, &in_eight_bits);
    refused(&taken, 2, &["q8_0", "multiple of 32", "bf16"]);
    assert!(!scene.path("saved").join("rank-0-of-1.safetensors").exists());
}
