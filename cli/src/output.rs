//! Results on stdout, progress on stderr when it is a terminal.

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
        stderr_line(&format!("{who}: {error}"));
        if self.json && !self.silent {
            // Nobody reads it where stdout is closed.
            let _ = self.result(&error.to_json(), |_| Ok(()));
        }
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

/// Writes a file: to a temporary one beside it, which then takes its name. A device or a pipe is written to as it is.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let written = checkpoint::write_file(path, |file| {
        file.write_all(bytes).map_err(FileError::at(path))
    });
    written.map_err(CliError::failed).at(path)
}
