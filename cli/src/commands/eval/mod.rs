//! `apb eval`: what a method does to the answers.
//!
//! | file | holds |
//! |---|---|
//! | `flags` | what all of them are told |
//! | `subject` | the model, requests to it, and documents prefilled with it |
//! | `log` | results on disk, from which a run that was stopped goes on |
//! | `suite` | parts of a run of scored tasks: RULER, needles, InfiniteBench, LongBench |
//! | `scored` | the run: every sample, every method |
//! | `summary` | means with intervals, as table, JSON and chart |
//! | `questions` | a document of the user's, and questions about it |
//! | `agreement` | how far methods move the model from full attention |
//! | `tune` | the shortest lengths that keep it near |

mod agreement;
mod flags;
mod log;
mod questions;
mod scored;
mod subject;
mod suite;
mod summary;
mod tune;

use crate::error::CliError;
use crate::output::Output;

pub use agreement::{estimate_json, small};
pub use subject::{Quiet, check_interrupt};

/// Measure what methods do to the answers
///
/// Every case is a line of JSON in --out: a run that was stopped goes on from there, and more samples, methods or
/// lengths may be added later. Methods see the same samples, so that their differences have intervals, too.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    Niah(suite::Niah),
    Ruler(suite::Ruler),
    Infinitebench(suite::InfiniteBench),
    Longbench(suite::LongBench),
    Agreement(agreement::Args),
    Tune(tune::Args),
}

/// Runs the command.
pub fn run(command: &Command, output: &Output) -> Result<(), CliError> {
    match command {
        Command::Niah(args) => scored::run(args, output),
        Command::Ruler(args) => scored::run(args, output),
        Command::Infinitebench(args) => scored::run(args, output),
        Command::Longbench(args) => scored::run(args, output),
        Command::Agreement(args) => agreement::run(args, output),
        Command::Tune(args) => tune::run(args, output),
    }
}
