//! Results on stdout, progress on stderr when it is a terminal.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use burn_apb::checkpoint::{self, FileError};
use indicatif::{
    HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
};
use serde_json::Value;

use crate::error::{AtPath, CliError};
use crate::escape::{self, Shown};
#[cfg(unix)]
use crate::interrupt;

/// How results are shown.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
    quiet: bool,
    /// Another process prints the results of this one.
    silent: bool,
}

impl Output {
    /// `json`: one JSON object on stdout; `quiet`: no progress.
    pub fn new(json: bool, quiet: bool) -> Self {
        Self {
            json,
            quiet,
            silent: false,
        }
    }

    /// The same for a process whose results another one prints: nothing but its error.
    pub fn silent(self) -> Self {
        Self {
            quiet: true,
            silent: true,
            ..self
        }
    }

    /// Whether the answer is streamed as text.
    pub fn streams(&self) -> bool {
        !self.json && !self.silent
    }

    /// Whether nothing but results and errors is to be shown.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether the result is JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints a result: the JSON object, or the output of `human`.
    pub fn result(
        &self,
        json: &Value,
        human: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), CliError> {
        if self.silent {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        let written = if self.json {
            writeln!(stdout, "{}", escape::json(&json.to_string()))
        } else {
            human(&mut Shown::new(&mut stdout))
        };
        written
            .and_then(|()| stdout.flush())
            .map_err(CliError::stdout)
    }

    /// A note on stderr.
    pub fn note(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            stderr_line(&text.to_string());
        }
    }

    /// An error: for people on stderr and, where JSON was asked for, as an object on stdout.
    pub fn error(&self, error: &CliError) {
        self.print_error("apb", error);
    }

    /// An error of one of several processes.
    pub fn error_of(&self, process: &str, error: &CliError) {
        self.print_error(&format!("apb: {process}"), error);
    }

    fn print_error(&self, who: &str, error: &CliError) {
        // What it quotes cannot begin a line.
        let text = error.to_string().replace('\n', "\n  ");
        stderr_line(&format!("{who}: {text}"));
        if self.json && !self.silent {
            // Nobody reads it where stdout is closed.
            let _ = self.result(&error.to_json(), |_| Ok(()));
        }
    }

    /// Writes a file: to a temporary one beside it, which then takes its name. A device or a pipe is written to as it is; a
    /// pipe is waited for until a process reads it.
    pub fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), CliError> {
        let _reader = self.wait_for_reader(path)?;
        let written = checkpoint::write_file(path, |file| {
            file.write_all(bytes).map_err(FileError::at(path))
        });
        written.map_err(CliError::failed).at(path)
    }

    /// Waits until a process reads the pipe at `path`, and says so. What is returned holds the pipe open; none where there is
    /// no pipe. Whoever opens a pipe without a reader waits in silence, and Ctrl-C does not end that.
    #[cfg(unix)]
    pub fn wait_for_reader(&self, path: &Path) -> Result<Option<File>, CliError> {
        use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
        if !std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
            return Ok(None);
        }
        let mut options = File::options();
        options.write(true);
        let opened = match options.clone().custom_flags(libc::O_NONBLOCK).open(path) {
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
                let shown = escape::path(path);
                self.note(format!(
                    "note: {shown} is a pipe: waits for a process that reads it"
                ));
                interrupt::at_once(|| options.open(path))
            }
            opened => opened,
        };
        opened
            .map(Some)
            .map_err(FileError::at(path))
            .map_err(CliError::failed)
    }

    /// Other systems have no such pipes.
    #[cfg(not(unix))]
    pub fn wait_for_reader(&self, _: &Path) -> Result<Option<File>, CliError> {
        Ok(None)
    }

    /// A progress bar that counts `unit`s (`B` for bytes); silent unless stderr is a terminal.
    pub fn progress(&self, what: &'static str, unit: &'static str) -> Progress {
        let bar = ProgressBar::no_length();
        if self.quiet || !io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let counts = if unit == "B" {
            "{bytes}/{total_bytes} {bytes_per_sec}".to_owned()
        } else {
            format!("{{human_pos}}/{{human_len}} {unit} {{rate:>10}}")
        };
        let template = format!("{what:<10} [{{bar:32}}] {counts}, {{eta}} left");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            let style = style.progress_chars("=> ").with_key(
                "rate",
                |state: &ProgressState, w: &mut dyn std::fmt::Write| {
                    // A bar has no place for an error.
                    let _ = write!(w, "{}/s", count(state.per_sec()));
                },
            );
            bar.set_style(style);
        }
        Progress { bar }
    }
}

/// A number as a person would write it: `0.52`, `7.3`, `166`, `12,500`.
pub fn count(value: f64) -> String {
    match value.abs() {
        size if size < 1.0 => format!("{value:.2}"),
        size if size < 10.0 => format!("{value:.1}"),
        size if size.is_finite() => HumanCount(value.round() as u64).to_string(),
        _ => "-".into(),
    }
}

/// Bytes as a person would write them: `512 B`, `1.5 KiB`, `64 MiB`.
pub fn bytes(value: u64) -> String {
    let text = HumanBytes(value).to_string();
    text.replace(".00 ", " ")
}

/// A line on stderr in one write, so that lines of several processes are not mixed. It is left out where stderr is
/// closed or full.
pub fn stderr_line(line: &str) {
    let line = format!("{}\n", escape::shown(line));
    let _ = io::stderr().write_all(line.as_bytes());
}

/// A progress bar.
#[derive(Clone)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Sets the position and the length.
    pub fn update(&self, done: u64, total: u64) {
        if self.bar.length() != Some(total) {
            self.bar.set_length(total);
            self.bar.enable_steady_tick(Duration::from_millis(200));
        }
        self.bar.set_position(done);
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Refuses a file that cannot be made, before anything is computed for it.
pub fn check_file(path: &Path) -> Result<(), CliError> {
    let found = match folder(path).is_dir() {
        true if path.is_dir() => "it is a folder",
        true => return Ok(()),
        false => "its folder does not exist",
    };
    let shown = escape::path(path);
    Err(CliError::usage(format!("{shown}: cannot be written: {found}")).at(path))
}

/// Whether two paths are of one file, which need not be there yet.
pub fn is_same_file(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| {
        let there = path.canonicalize().ok();
        there.or_else(|| Some(folder(path).canonicalize().ok()?.join(path.file_name()?)))
    };
    real(one).is_some_and(|one| Some(one) == real(other))
}

/// The folder that a path is in.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
