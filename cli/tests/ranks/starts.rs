//! Four processes of `apb`, one of which is started otherwise than the others, or lost: exit codes and last
//! words of all.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::commands::smollm2;

const RANKS: usize = 4;
/// The rank that is otherwise.
const ODD: usize = 2;
/// `--timeout` of all, in seconds, and what may pass on top of it.
const TIMEOUT: &str = "4";
const ENOUGH: Duration = Duration::from_secs(4 + 2);

/// A folder with what the ranks of one start leave.
struct Scene(tempfile::TempDir);

/// How a process ended.
#[derive(Debug)]
struct End {
    code: String,
    words: String,
}

impl Scene {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    fn file(&self, name: &str, content: &str) -> String {
        std::fs::write(self.path(name), content).expect("written");
        self.text(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name))
            .unwrap_or_default()
            .trim()
            .to_owned()
    }

    /// A document of some hundred tokens of the small model, and its flags.
    fn small(&self) -> String {
        let text = "It was a bright cold day in April.\n".repeat(20);
        let document = self.file("document.txt", &text);
        let model = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .join("tests/fixtures/models/llama-gqa");
        let model = model.to_str().expect("UTF-8");
        format!("--model {model} --document {document} --method apb --timeout {TIMEOUT}")
    }

    /// Starts the ranks; the odd one runs a shell command of its own. Their exit codes are kept by the
    /// shell around each.
    fn launch(&self, usual: &str, odd: &str) -> Command {
        let apb = env!("CARGO_BIN_EXE_apb");
        let folder = self.0.path().display();
        let odd = odd.replace("APB", apb);
        let script = format!(
            "if [ $RANK = {ODD} ]; then {odd}; else {apb} {usual}; fi \
             2>{folder}/words-$RANK\ncode=$?\necho $code >{folder}/code-$RANK\nexit $code\n"
        );
        let script = self.file("rank.sh", &script);
        let mut command = Command::new(apb);
        // In a session of its own: mpirun kills the shell of a process as soon as MPI's link to it ends.
        let shell = ["setsid", "-w", "sh", &script];
        command
            .args(["launch", "-n", &RANKS.to_string(), "--"])
            .args(shell);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Waits a little for the shells: mpirun may end before them.
    fn ends(&self) -> Vec<End> {
        let waiting = Instant::now();
        let missing = |rank| self.read(&format!("code-{rank}")).is_empty();
        while (0..RANKS).any(missing) && waiting.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let end = |rank| End {
            code: self.read(&format!("code-{rank}")),
            words: self.read(&format!("words-{rank}")),
        };
        (0..RANKS).map(end).collect()
    }

    /// All end with code 4 and name the odd rank, and what about it.
    fn all_name_the_odd(&self, usual: &str, odd: &str, what: &str) {
        let done = self.launch(usual, odd).output().expect("apb starts");
        let ends = self.ends();
        assert_eq!(done.status.code(), Some(4), "{ends:?}");
        for End { code, words } in &ends {
            assert_eq!(code, "4", "{ends:?}");
            assert!(words.contains(&format!("rank {ODD} (host")), "{ends:?}");
            assert!(words.contains(what), "no {what} in {ends:?}");
        }
    }
}

#[test]
fn another_length_is_named() {
    let scene = Scene::new();
    let usual = format!("generate --query 'What month?' {}", scene.small());
    let odd = format!("APB {usual} --passing 3");
    scene.all_name_the_odd(&usual, &odd, "differs from");
    let shorter = scene.file("shorter.txt", "It was a bright cold day in April.\n");
    let odd = format!(
        "APB {}",
        usual.replace(&scene.text("document.txt"), &shorter)
    );
    scene.all_name_the_odd(&usual, &odd, "bytes of the document");
}

#[test]
fn another_rank_order_is_named() {
    let scene = Scene::new();
    let usual = format!("generate --query 'What month?' {}", scene.small());
    let odd = format!("APB {usual} --rank-order folded");
    scene.all_name_the_odd(&usual, &odd, "rank order");
}

#[test]
fn a_damaged_model_is_named() {
    let scene = Scene::new();
    let usual = format!("generate --query 'What month?' {}", scene.small());
    let model = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .join("tests/fixtures/models/llama-gqa");
    let damaged = scene.path("damaged");
    std::fs::create_dir(&damaged).expect("made");
    for entry in std::fs::read_dir(&model).expect("the fixture") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), damaged.join(entry.file_name())).expect("copied");
    }
    let weights = damaged.join("model.safetensors");
    let bytes = std::fs::read(&weights).expect("weights");
    std::fs::write(&weights, &bytes[..bytes.len() - 100]).expect("written");
    let model = model.to_str().expect("UTF-8");
    let odd = format!(
        "APB {}",
        usual.replace(model, damaged.to_str().expect("UTF-8"))
    );
    scene.all_name_the_odd(&usual, &odd, "model.safetensors");
}

#[test]
fn a_command_that_is_wrong_everywhere_is_refused_once() {
    let scene = Scene::new();
    let usual = format!(
        "generate --query 'What month?' {} --anchor 2",
        scene.small()
    );
    let done = scene
        .launch(&usual, &format!("APB {usual}"))
        .output()
        .expect("apb starts");
    let ends = scene.ends();
    assert_eq!(done.status.code(), Some(2), "{ends:?}");
    assert!(ends[0].words.contains("--anchor"), "{ends:?}");
    for (rank, End { code, words }) in ends.iter().enumerate() {
        assert_eq!(code, "2", "{ends:?}");
        assert_eq!(words.lines().count(), usize::from(rank == 0), "{ends:?}");
    }
}

/// A session of four processes is asked by one; where one of them cannot write there is none.
#[test]
fn sessions_are_complete_or_absent() {
    let scene = Scene::new();
    let out = scene.text("saved");
    let flags = scene.small();
    let usual = format!("session save --anchor-query 'What month?' --out {out} {flags}");
    let odd = format!("APB {}", usual.replace(&out, &scene.file("a-file", "")));
    scene.all_name_the_odd(&usual, &odd, "cannot be written");
    let left = std::fs::read_dir(&out).map_or(0, Iterator::count);
    assert_eq!(left, 0, "{:?}", scene.ends());

    let done = scene
        .launch(&usual, &format!("APB {usual}"))
        .output()
        .expect("apb starts");
    assert!(done.status.success(), "{:?}", scene.ends());
    let (model, rest) = flags.split_once(" --document ").expect("both");
    assert!(rest.contains("--method"));
    let ask = format!(
        "session ask --json --greedy --max-tokens 4 --query 'What day?' {model} --session {out}"
    );
    let alone = scene.text("alone");
    // A process alone refuses flags about others.
    let save = usual
        .replace(&out, &alone)
        .replace(&format!(" --timeout {TIMEOUT}"), "");
    let answer = |ask: &str| {
        let apb = env!("CARGO_BIN_EXE_apb");
        let done = Command::new("sh")
            .args(["-c", &format!("{apb} {ask}")])
            .output();
        let done = done.expect("a shell");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        done.stdout
    };
    answer(&format!("{save} --ranks 4"));
    let tokens = |bytes: Vec<u8>| {
        let value: serde_json::Value = serde_json::from_slice(&bytes).expect("one object");
        value["tokens"].clone()
    };
    assert_eq!(
        tokens(answer(&ask)),
        tokens(answer(&ask.replace(&out, &alone)))
    );
}

/// One rank may not map the weights.
#[test]
fn a_memory_limit_is_named() {
    let Some(model) = smollm2() else { return };
    let scene = Scene::new();
    let document = scene.file(
        "document.txt",
        &"It was a bright cold day in April.\n".repeat(90),
    );
    let model = model.display();
    let usual = format!(
        "generate --query 'What month?' --model {model} --document {document} --method apb --timeout {TIMEOUT}"
    );
    // KiB: enough to start and to join, less than the weights alone (513 MiB).
    let odd = format!("(ulimit -v 480000; exec APB {usual})");
    let done = scene.launch(&usual, &odd).output().expect("apb starts");
    let ends = scene.ends();
    assert_eq!(done.status.code(), Some(4), "{ends:?}");
    for (rank, End { code, words }) in ends.iter().enumerate().filter(|(rank, _)| *rank != ODD) {
        assert_eq!(code, "4", "{ends:?}");
        assert!(
            words.contains(&format!("rank {ODD} (host")),
            "{rank}: {ends:?}"
        );
    }
}

/// The command itself, from outside, in the middle of a prefill of a real model.
#[test]
fn a_rank_killed_or_stopped_from_outside_is_named() {
    let Some(model) = smollm2() else { return };
    for signal in ["KILL", "STOP"] {
        let scene = Scene::new();
        let text = std::fs::read_to_string(
            Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("examples/data/opticks.txt"),
        );
        let document = scene.file("document.txt", &text.expect("text")[..20_000]);
        let logs = scene.text("logs");
        let mut launch = Command::new(env!("CARGO_BIN_EXE_apb"));
        launch.args([
            "launch",
            "-n",
            &RANKS.to_string(),
            "--",
            env!("CARGO_BIN_EXE_apb"),
        ]);
        launch.args(["generate", "--query", "What is light?", "--method", "apb"]);
        launch.args([
            "--max-tokens",
            "16",
            "--timeout",
            TIMEOUT,
            "--document",
            &document,
        ]);
        launch.args(["--rank-logs", &logs, "--model"]).arg(&model);
        let running = launch.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut running = running.expect("apb starts");
        let log = |rank: usize| scene.read(&format!("logs/process-{rank}.log"));
        let waiting = Instant::now();
        while !(0..RANKS).all(|rank| log(rank).contains("computes")) {
            let patient = waiting.elapsed() < Duration::from_secs(120);
            assert!(
                patient && running.try_wait().expect("a child").is_none(),
                "{}",
                log(0)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let pid = log(ODD);
        let pid = pid
            .split_once("pid ")
            .and_then(|(_, rest)| rest.split_once(')'));
        let pid = pid.expect("its log names it").0;
        let killed = Command::new("kill")
            .args([&format!("-{signal}"), pid])
            .status();
        assert!(killed.expect("kill").success());
        let lost = Instant::now();
        let code = running.wait().expect("ended").code();
        // mpirun takes some seconds to end who was stopped, and itself.
        assert!(
            lost.elapsed() < ENOUGH + Duration::from_secs(4),
            "{signal}: {:?}",
            lost.elapsed()
        );
        assert_eq!(code, Some(4), "{signal}");
        for rank in (0..RANKS).filter(|rank| *rank != ODD) {
            assert!(
                log(rank).contains(&format!("rank {ODD} (host")),
                "{signal} {rank}: {}",
                log(rank)
            );
        }
        for rank in 0..RANKS {
            let log = log(rank);
            let pid = log
                .split_once("pid ")
                .and_then(|(_, rest)| rest.split_once(')'));
            let pid = pid.expect("its log names it").0;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            assert!(
                stat.is_empty() || stat.contains(") Z"),
                "{signal}: rank {rank} is left: {stat}"
            );
        }
    }
}
