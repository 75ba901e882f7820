//! The documentation as a user reads it: its commands run, its links lead to files, its JSON has the
//! program's keys, and its chart shows the measurements.
//!
//! | fence | what is done with its lines |
//! |---|---|
//! | `sh` | each must begin with `apb` and end with exit code 0, in a folder where the names that the documents use exist |
//! | `sh no-run: REASON` | not run; subcommands and flags of `apb` must be in its help, scripts, examples and features in the repository |
//! | `json` | the keys of what the command before it printed |
//!
//! Any other line in a `sh` fence fails, so that none is left out unseen. Rust examples are compiled
//! by `cargo test --doc`.

#![cfg(unix)]

mod markdown;
mod scene;
mod words;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use markdown::{Fence, anchors, fences, links};
use scene::Scene;

/// Documents with commands: those that run some, and how many at least.
const DOCUMENTS: [(&str, usize); 11] = [
    ("README.md", 7),
    ("docs/checks.md", 2),
    ("docs/embedding.md", 0),
    ("docs/evaluation.md", 2),
    ("docs/formats.md", 11),
    ("docs/methods.md", 5),
    ("docs/several-processes.md", 0),
    ("docs/training-heads.md", 4),
    ("docs/unsafe.md", 0),
    ("CONTRIBUTING.md", 0),
    ("checkpoints/smollm2-135m-instruct/README.md", 0),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(name: &str) -> String {
    let path = repository().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs or checks every command of a document; prints how many, and fails if fewer than
/// expected ran.
fn follow(name: &str) {
    let scene = Scene::new(&repository());
    let (mut run, mut checked) = (0, 0);
    let mut printed: Option<String> = None;
    for Fence { info, line, body } in fences(&read(name)) {
        let place = format!("{name}:{line}");
        let (language, note) = info.split_once(' ').unwrap_or((&info, ""));
        match (language, note) {
            ("sh", "") => {
                for command in markdown::commands(&body) {
                    assert!(
                        command.starts_with("apb "),
                        "{place}: only `apb` lines run; mark the fence with `no-run: REASON`: {command}"
                    );
                    println!("{place}: runs {command}");
                    printed = Some(scene.run(&command, &place));
                    run += 1;
                }
            }
            ("sh", note) => {
                let reason = note.strip_prefix("no-run: ");
                assert!(
                    reason.is_some(),
                    "{place}: expected `no-run: REASON`, found `{note}`"
                );
                for command in markdown::commands(&body) {
                    println!("{place}: checks {command}");
                    words::check(&command, &repository(), &scene)
                        .unwrap_or_else(|fault| panic!("{place}: {command}: {fault}"));
                    checked += 1;
                }
            }
            ("json", _) => {
                let shown: Value = serde_json::from_str(&body)
                    .unwrap_or_else(|error| panic!("{place}: not JSON: {error}"));
                let printed = printed.take().expect("a command before its JSON");
                let printed: Value = serde_json::from_str(&printed)
                    .unwrap_or_else(|error| panic!("{place}: the command's output: {error}"));
                same_keys(&shown, &printed, &place);
            }
            _ => {}
        }
    }
    println!("{name}: {run} commands ran, {checked} were checked");
    let least = DOCUMENTS.iter().find(|(known, _)| *known == name);
    let (_, least) = least.expect("a listed document");
    assert!(
        run >= *least,
        "{name}: {run} commands ran, expected {least}"
    );
}

/// Compares the keys of objects, into the first elements of lists. Empty objects and lists, and null on
/// either side, stand for anything.
fn same_keys(shown: &Value, printed: &Value, place: &str) {
    match (shown, printed) {
        (Value::Object(shown), Value::Object(printed)) if !shown.is_empty() => {
            let sorted = |object: &serde_json::Map<String, Value>| {
                let mut keys: Vec<String> = object.keys().cloned().collect();
                keys.sort();
                keys
            };
            assert_eq!(
                sorted(shown),
                sorted(printed),
                "{place}: the keys shown, and the program's"
            );
            for (key, value) in shown {
                same_keys(value, &printed[key], &format!("{place}, {key}"));
            }
        }
        (Value::Array(shown), Value::Array(printed)) => {
            if let (Some(shown), Some(printed)) = (shown.first(), printed.first()) {
                same_keys(shown, printed, place);
            }
        }
        _ => {}
    }
}

#[test]
fn commands_of_the_readme() {
    follow("README.md");
}

#[test]
fn commands_of_checks() {
    follow("docs/checks.md");
}

#[test]
fn commands_of_embedding() {
    follow("docs/embedding.md");
}

#[test]
fn commands_of_evaluation() {
    follow("docs/evaluation.md");
}

#[test]
fn commands_of_formats() {
    follow("docs/formats.md");
}

#[test]
fn commands_of_methods() {
    follow("docs/methods.md");
}

#[test]
fn commands_of_several_processes() {
    follow("docs/several-processes.md");
}

#[test]
fn commands_of_training_heads() {
    follow("docs/training-heads.md");
}

#[test]
fn commands_of_contributing_and_the_checkpoints() {
    follow("CONTRIBUTING.md");
    follow("checkpoints/smollm2-135m-instruct/README.md");
}

#[test]
fn every_chapter_is_listed() {
    let folder = repository().join("docs");
    for entry in std::fs::read_dir(&folder).expect("the folder of the chapters") {
        let name = entry.expect("an entry").file_name();
        let name = format!("docs/{}", name.to_string_lossy());
        assert!(
            DOCUMENTS.iter().any(|(known, _)| *known == name),
            "{name} is in no test"
        );
        assert!(
            read("README.md").contains(&format!("({name})")),
            "README.md does not link to {name}"
        );
    }
}

#[test]
fn rust_examples_are_documentation_tests() {
    let library = read("src/lib.rs");
    for (name, _) in DOCUMENTS {
        let rust = fences(&read(name))
            .iter()
            .any(|fence| fence.info.starts_with("rust"));
        let compiled = library.contains(&format!("include_str!(\"../{name}\")"));
        assert!(
            compiled || !rust,
            "{name} has Rust that src/lib.rs does not include"
        );
    }
}

#[test]
fn links_lead_to_files_and_headings() {
    let mut faults = Vec::new();
    for (name, _) in DOCUMENTS.iter().chain([&("CHANGELOG.md", 0)]) {
        let text = read(name);
        for link in links(&text) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => repository().join(name),
                file => repository().join(name).with_file_name("").join(file),
            };
            if !target.exists() {
                faults.push(format!("{name}: {link}: no such file"));
            } else if !anchor.is_empty() {
                let target = std::fs::read_to_string(&target).expect("a text");
                if !anchors(&target).iter().any(|found| found == anchor) {
                    faults.push(format!("{name}: {link}: no such heading"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 120, "{lines} lines, at most 120");
}

#[test]
fn the_chart_shows_the_measurements() {
    let drawn = Command::new("python3")
        .arg("scripts/plot-results")
        .arg("benches/results/2026-11-21-epyc-2-threads.jsonl")
        .current_dir(repository())
        .output()
        .expect("python3 starts");
    assert!(
        drawn.status.success(),
        "{}",
        String::from_utf8_lossy(&drawn.stderr)
    );
    let drawn = String::from_utf8(drawn.stdout).expect("UTF-8");
    assert!(
        drawn == read("benches/results/peers.svg"),
        "scripts/plot-results draws another chart than benches/results/peers.svg"
    );
}
