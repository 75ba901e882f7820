//! Logs on stderr, as `APB_LOG` asks for them.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::prelude::*;

use crate::error::CliError;

/// What is logged: a level (`debug`) is of `apb` alone; other crates are logged where they are named (`wgpu=info`).
const VARIABLE: &str = "APB_LOG";
/// Set to 1, text of prompts may be in the logs.
const TEXT_VARIABLE: &str = "APB_LOG_TEXT";
/// The crates of this program.
const OURS: [&str; 2] = ["apb", "burn_apb"];
/// Crates that log the text they are given.
const LOG_TEXT: [&str; 1] = ["tokenizers"];
/// What is logged where nothing is asked for.
const USUAL: &str = "warn";

/// Starts logging.
///
/// # Errors
///
/// `APB_LOG` cannot be read; the usual is then logged.
pub fn start() -> Result<(), CliError> {
    let asked = std::env::var_os(VARIABLE).unwrap_or_default();
    let asked = asked.to_string_lossy();
    let (filter, read) = match EnvFilter::try_new(directives(&asked)) {
        Ok(filter) => (filter, Ok(())),
        Err(error) => (
            EnvFilter::new(directives(USUAL)),
            Err(CliError::usage(format!(
                "{VARIABLE}={asked:?}: {error}; expected error, warn, info, debug, trace, or CRATE=LEVEL, separated by commas"
            ))),
        ),
    };
    let with_text = std::env::var(TEXT_VARIABLE).is_ok_and(|value| value == "1");
    let printed = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(colours())
        .without_time();
    tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(move |event| {
            with_text || !logs_text(event.target())
        }))
        .with(printed)
        .init();
    read
}

/// Colours are for terminals, unless `NO_COLOR` is set (<https://no-color.org>).
fn colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !refused
}

/// The directives with those that name no crate made ours.
fn directives(asked: &str) -> String {
    let asked = match asked.trim() {
        "" => USUAL,
        asked => asked,
    };
    let one = |directive: &str| match directive.parse::<LevelFilter>() {
        Ok(level) => OURS.map(|ours| format!("{ours}={level}")).join(","),
        Err(_) => directive.to_owned(),
    };
    let all: Vec<String> = asked
        .split(',')
        .map(|directive| one(directive.trim()))
        .collect();
    all.join(",")
}

/// Whether a crate logs the text it is given.
fn logs_text(target: &str) -> bool {
    let name = target.split("::").next().unwrap_or(target);
    LOG_TEXT.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_of_this_program_alone() {
        let cases = [
            ("", "apb=warn,burn_apb=warn"),
            ("trace", "apb=trace,burn_apb=trace"),
            (" Debug ,wgpu=info", "apb=debug,burn_apb=debug,wgpu=info"),
            ("tokenizers=trace", "tokenizers=trace"),
        ];
        for (asked, expected) in cases {
            assert_eq!(directives(asked), expected, "{asked:?}");
        }
    }

    #[test]
    fn crates_that_log_text_are_known() {
        assert!(logs_text("tokenizers::tokenizer::normalizer"));
        assert!(!logs_text("burn_apb::text::tokenizer"));
    }
}
