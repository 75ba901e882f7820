//! Folders as people have them, against what transformers made of them: the prompt's tokens, the greedy
//! tokens, and the token that ended the answer. `scripts/compare-transformers --fixtures` writes them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// Every folder of the fixtures, in order of their names.
fn folders() -> Vec<PathBuf> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/fixtures/compat");
    let entries = std::fs::read_dir(&root).expect("the fixtures");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut folders: Vec<PathBuf> = paths.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// What `apb generate` answers, or what it says where it refuses.
fn generate(model: &Path, expected: &Value) -> Result<Value, String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let document = folder.path().join("document.txt");
    std::fs::write(
        &document,
        expected["document"].as_str().expect("a document"),
    )
    .expect("writes");
    let done = Command::new(env!("CARGO_BIN_EXE_apb"))
        .args([
            "generate",
            "--json",
            "--greedy",
            "--dtype",
            "f32",
            "--show-prompt",
        ])
        .args(["--query", expected["query"].as_str().expect("a query")])
        .args(["--max-tokens", &expected["max_tokens"].to_string()])
        .arg("--document")
        .arg(&document)
        .arg("--model")
        .arg(model)
        .output()
        .expect("apb starts");
    if !done.status.success() {
        return Err(String::from_utf8_lossy(&done.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&done.stdout).expect("JSON"))
}

#[test]
fn folders_are_read_as_transformers_reads_them() {
    let folders = folders();
    assert!(!folders.is_empty());
    let mut wrong = Vec::new();
    for folder in &folders {
        let text = std::fs::read_to_string(folder.join("expected.json")).expect("expected.json");
        let expected: Value = serde_json::from_str(&text).expect("JSON");
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let answer = match generate(folder, &expected) {
            Ok(answer) => answer,
            Err(error) => {
                wrong.push(format!("{name} is refused: {error}"));
                continue;
            }
        };
        let stop = match answer["stop_reason"].as_str() {
            Some("stop_token") => answer["stop"]["token"].clone(),
            _ => Value::Null,
        };
        let found =
            json!({"prompt": answer["prompt"]["tokens"], "tokens": answer["tokens"], "stop": stop});
        for key in ["prompt", "tokens", "stop"] {
            if found[key] != expected[key] {
                wrong.push(format!(
                    "{name}: {key} is {}, transformers has {}",
                    found[key], expected[key]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
