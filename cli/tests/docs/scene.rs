//! A folder in which the names that the documents use exist: a small model with the name of a large
//! one, a document, heads, samples.

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// A chat template such as those that models come with.
const TEMPLATE: &str = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n\
                        {% endfor %}assistant: ";
const SAMPLES: usize = 12;
const SENTENCES: usize = 400;

/// A folder that is removed after the test, and runs of `apb` in it.
pub struct Scene {
    folder: tempfile::TempDir,
    path: OsString,
}

impl Scene {
    pub fn new(repository: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let to = |name: &str| folder.path().join(name);
        let copy = |from: &str, name: &str| {
            fs::copy(repository.join(from), to(name)).unwrap_or_else(|e| panic!("{from}: {e}"));
        };
        let model = "tests/fixtures/models/llama-gqa";
        fs::create_dir(to("SmolLM2-135M-Instruct")).expect("made");
        for name in [
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ] {
            copy(
                &format!("{model}/{name}"),
                &format!("SmolLM2-135M-Instruct/{name}"),
            );
        }
        copy(&format!("{model}/heads.safetensors"), "heads.safetensors");
        copy("tests/fixtures/heads/good/f32.pt", "heads.pt");
        copy("tests/fixtures/cases/06_apb_ret_2/case.json", "case.json");
        copy("fuzz/corpus/gguf/good", "model.gguf");

        let mut samples = String::new();
        let mut book = String::new();
        for number in 0..SAMPLES {
            let document = format!("The number of box {number} is {}. ", number * 7).repeat(8);
            let sample = serde_json::json!({
                "document": document, "question": "Which number?", "answer": number.to_string()
            });
            writeln!(samples, "{sample}").expect("a string");
        }
        for number in 0..SENTENCES {
            write!(book, "Sentence {number} of the book is about a river. ").expect("a string");
        }
        for (name, content) in [
            (
                "report.txt",
                "The board decided to buy a boiler.\n".repeat(40),
            ),
            ("samples.jsonl", samples),
            ("questions.txt", "What was decided?\nWho decided?\n".into()),
            ("book.txt", book),
            ("template.jinja", TEMPLATE.into()),
        ] {
            fs::write(to(name), content).expect("written");
        }

        let program = Path::new(env!("CARGO_BIN_EXE_apb"));
        let mut folders = vec![program.parent().expect("a folder").to_owned()];
        folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        let path = env::join_paths(folders).expect("a search path");
        Self { folder, path }
    }

    /// Runs a line in a shell and returns what it printed.
    ///
    /// # Panics
    ///
    /// When its exit code is not 0.
    pub fn run(&self, line: &str, place: &str) -> String {
        let output = Command::new("sh")
            .args(["-c", line])
            .env("PATH", &self.path)
            .env("HF_HUB_OFFLINE", "1")
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .expect("a shell starts");
        assert!(
            output.status.success(),
            "{place}: {line}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}
