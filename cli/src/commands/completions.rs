//! `apb completions`: shell completions.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::error::CliError;
use crate::output::Output;

/// Print completions for a shell
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Result<(), CliError> {
    if output.is_json() {
        return Err(CliError::usage(
            "completions print a script for a shell, which is no JSON; leave --json out",
        ));
    }
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "apb", &mut script);
    use std::io::Write;
    std::io::stdout()
        .write_all(&script)
        .map_err(CliError::stdout)
}
