//! Results on stdout, progress on stderr when it is a terminal.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::error::CliError;

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
            writeln!(stdout, "{json}")
        } else {
            human(&mut stdout)
        };
        written
            .and_then(|()| stdout.flush())
            .map_err(CliError::failed)
    }

    /// A note on stderr.
    pub fn note(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            // An error is ignored: stderr is closed.
            let _ = writeln!(io::stderr(), "{text}");
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
            format!("{{human_pos}}/{{human_len}} {unit} {{per_sec:>10}}")
        };
        let template = format!("{what:<10} [{{bar:32}}] {counts}, {{eta}} left");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Progress { bar }
    }
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
    let failed =
        |error: io::Error| CliError::failed(format!("cannot write {}: {error}", path.display()));
    if fs::metadata(path).is_ok_and(|data| !data.is_file()) {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(failed)?;
        return file.write_all(bytes).map_err(failed);
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}
