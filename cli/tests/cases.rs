//! The whole program over the scripts in `cases/`: what strangers send and what machines do.
//!
//! A case is a shell script with what must come of it in its first lines:
//!
//! ```sh
//! #: exit 2                 the exit code of the script; 0 where no line says otherwise
//! #: stderr TEXT            stderr holds the text; likewise stdout; may be repeated
//! #: not TEXT               neither stdout nor stderr holds the text
//! #: seconds 60             ends within; 60 where no line says otherwise
//! #: mebibytes 2048         address space that a process has at most; 4096 where no line says otherwise
//! apb generate --model "$MODEL" --document "$DOCUMENT" --query Why?
//! ```
//!
//! It runs in an empty folder, with `apb` on the path, `$MODEL` a small model, `$HEADS` retaining heads for it, `$DOCUMENT` a
//! text, `$TOOLS` what several cases use and `$FIXTURES`. In no case may anything panic, or a character that terminals obey come out.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What must come of a case.
#[derive(Debug)]
struct Expected {
    exit: i32,
    stdout: Vec<String>,
    stderr: Vec<String>,
    not: Vec<String>,
    seconds: u64,
    mebibytes: u64,
}

impl Expected {
    fn read(script: &str) -> Result<Self, String> {
        let mut expected = Self {
            exit: 0,
            stdout: Vec::new(),
            stderr: Vec::new(),
            not: Vec::new(),
            seconds: 60,
            mebibytes: 4096,
        };
        let mut lines = 0;
        for line in script.lines().filter_map(|line| line.strip_prefix("#: ")) {
            lines += 1;
            let (word, rest) = line.split_once(' ').ok_or_else(|| format!("`{line}`"))?;
            let number = || rest.parse::<u64>().map_err(|e| format!("`{line}`: {e}"));
            match word {
                "exit" => expected.exit = number()? as i32,
                "stdout" => expected.stdout.push(rest.into()),
                "stderr" => expected.stderr.push(rest.into()),
                "not" => expected.not.push(rest.into()),
                "seconds" => expected.seconds = number()?,
                "mebibytes" => expected.mebibytes = number()?,
                _ => return Err(format!("`{line}`: unknown")),
            }
        }
        match lines {
            0 => Err("no line begins with `#: `: a case says what must come of it".into()),
            _ => Ok(expected),
        }
    }
}

/// What came of a case.
struct Outcome {
    status: Option<ExitStatus>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

#[test]
fn every_case_ends_as_it_says() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases"));
    let entries = std::fs::read_dir(folder).expect("the folder of cases");
    let mut cases: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    cases.retain(|path| path.extension().is_some_and(|e| e == "sh"));
    cases.sort();
    assert!(cases.len() > 20, "{} cases", cases.len());
    let faults = Mutex::new(BTreeMap::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(fault) = run(case) {
                        let name = case.file_name().expect("a name").to_owned();
                        faults.lock().expect("not poisoned").insert(name, fault);
                    }
                }
            });
        }
    });
    let faults = faults.into_inner().expect("not poisoned");
    let shown: Vec<String> = (faults.iter())
        .map(|(name, fault)| format!("{}: {fault}", name.display()))
        .collect();
    assert!(
        shown.is_empty(),
        "{} of {} cases:\n{}",
        shown.len(),
        cases.len(),
        shown.join("\n\n")
    );
}

fn run(case: &Path) -> Result<(), String> {
    let script = std::fs::read_to_string(case).map_err(|e| e.to_string())?;
    let expected = Expected::read(&script)?;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let outcome = execute(case, folder.path(), &expected).map_err(|e| e.to_string())?;
    let stdout = String::from_utf8_lossy(&outcome.stdout);
    let stderr = String::from_utf8_lossy(&outcome.stderr);
    let mut faults = Vec::new();
    match outcome.status {
        None => faults.push(format!("did not end within {} s", expected.seconds)),
        Some(status) if status.code() != Some(expected.exit) => {
            faults.push(format!("ended with {status}, expected {}", expected.exit));
        }
        Some(_) => {}
    }
    for (name, text, wanted) in [
        ("stdout", &stdout, &expected.stdout),
        ("stderr", &stderr, &expected.stderr),
    ] {
        for wanted in wanted
            .iter()
            .filter(|wanted| !text.contains(wanted.as_str()))
        {
            faults.push(format!("{name} holds no `{wanted}`"));
        }
        for refused in ["panicked", "overflowed its stack", "memory allocation of"] {
            if text.contains(refused) {
                faults.push(format!("{name} holds `{refused}`"));
            }
        }
        for refused in expected
            .not
            .iter()
            .filter(|refused| text.contains(refused.as_str()))
        {
            faults.push(format!("{name} holds `{refused}`"));
        }
        if let Some(char) = text
            .chars()
            .find(|c| c.is_control() && !matches!(c, '\n' | '\t'))
        {
            faults.push(format!("{name} holds {char:?}"));
        }
    }
    match faults.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "{}\n  stdout: {}\n  stderr: {}",
            faults.join("; "),
            beginning(&stdout),
            beginning(&stderr)
        )),
    }
}

/// As much of a text as helps.
fn beginning(text: &str) -> String {
    text.chars()
        .take(1500)
        .flat_map(char::escape_debug)
        .collect::<String>()
        .replace("\\n", "\n    ")
}

fn execute(case: &Path, folder: &Path, expected: &Expected) -> std::io::Result<Outcome> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let fixtures = root.join("tests/fixtures").canonicalize()?;
    let program = Path::new(env!("CARGO_BIN_EXE_apb"));
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", program.parent().expect("a folder").display());
    let document = folder.join("document.txt");
    std::fs::write(&document, "It was a bright cold day in April.\n".repeat(30))?;
    // Limits on address space are not everywhere to be had.
    let limit = format!(
        "ulimit -v {} 2>/dev/null; exec sh -u {}",
        expected.mebibytes << 10,
        quoted(case)
    );
    let mut shell = Command::new("sh");
    // What the machine has set for hubs and proxies is not the case's concern.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let upper = name.to_ascii_uppercase();
        let of_hub = ["HF_", "HUGGING", "APB_LOG", "XDG_CACHE", "TRANSFORMERS_"];
        if of_hub.iter().any(|start| upper.starts_with(start)) || upper.ends_with("_PROXY") {
            shell.env_remove(&name);
        }
    }
    let mut child = shell
        .args(["-c", &limit])
        .current_dir(folder)
        .env("PATH", path)
        .env("MODEL", fixtures.join("models/llama-gqa"))
        .env("HEADS", fixtures.join("models/llama-gqa/heads.safetensors"))
        .env("DOCUMENT", &document)
        .env("FIXTURES", &fixtures)
        .env("TOOLS", case.with_file_name("tools"))
        .env("APB_CACHE", folder.join("cache"))
        .env("HF_HOME", folder.join("hub"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let status = wait(&mut child, Duration::from_secs(expected.seconds))?;
    let join = |thread: std::thread::JoinHandle<Vec<u8>>| thread.join().unwrap_or_default();
    Ok(Outcome {
        status,
        stdout: join(stdout),
        stderr: join(stderr),
    })
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

/// Reads a stream to its end, but keeps no more than a case may print.
fn reader(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        if let Some(mut stream) = stream {
            // What is beyond the limit is a fault that the text shows.
            let _ = (&mut stream).take(1 << 22).read_to_end(&mut kept);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
        kept
    })
}

/// Waits for a case and ends all its processes once its time is over.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() > limit {
            let group = format!("-{}", child.id());
            let _ = Command::new("kill").args(["-9", "--", &group]).status();
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
