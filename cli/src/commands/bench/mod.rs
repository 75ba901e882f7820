//! `apb bench`: times from one run, medians over several.

mod attention;
mod cases;
mod prefill;
mod subject;
mod timing;

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde_json::Value;

use crate::error::CliError;
use crate::escape;
use crate::output::Output;

/// Measure speed and memory
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Prefill of real tokens, then decoding
    Prefill(Box<prefill::Prefill>),
    /// The attention kernel alone, beside matrix products, memory and Burn's own attention
    Attention(attention::Attention),
}

/// Runs the command.
pub fn run(command: &Command, output: &Output) -> Result<(), CliError> {
    match command {
        Command::Prefill(args) => prefill::run(args, output),
        Command::Attention(args) => attention::run(args, output),
    }
}

/// A file that every measurement is appended to when it is done, where one is asked for.
struct Log(Option<File>);

impl Log {
    fn open(path: Option<&Path>, output: &Output) -> Result<Self, CliError> {
        let Some(path) = path else {
            return Ok(Self(None));
        };
        let _reader = output.wait_for_reader(path)?;
        let opened = File::options().create(true).append(true).open(path);
        match opened {
            Ok(file) => Ok(Self(Some(file))),
            Err(e) => {
                let shown = escape::path(path);
                Err(CliError::usage(format!("cannot write {shown}: {e}")).at(path))
            }
        }
    }

    fn line(&mut self, value: &Value) -> Result<(), CliError> {
        match &mut self.0 {
            Some(file) => writeln!(file, "{value}").map_err(CliError::failed),
            None => Ok(()),
        }
    }
}

/// The middle of the values, or the mean of the two in the middle; none of none.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// A number with so many digits, or a dash.
fn or_dash(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{v:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(or_dash(None, 1), "-");
    }
}
