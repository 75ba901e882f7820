//! `apb convert`: a GGUF file to a Hugging Face folder.

use std::path::PathBuf;

use serde_json::json;

use crate::args::DtypeName;
use crate::error::CliError;
use crate::output::Output;

/// Convert a GGUF file to a Hugging Face folder
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The GGUF file
    input: PathBuf,
    /// The folder to make; must not exist, or be empty
    out: PathBuf,
    /// Dtype of the tensors written
    #[arg(long, value_enum, default_value = "bf16")]
    dtype: DtypeName,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Result<(), CliError> {
    let bar = output.progress("converting", "B");
    let report =
        burn_apb::checkpoint::convert(&args.input, &args.out, args.dtype.into(), &mut |p| {
            bar.update(p.done, p.total);
        })?;
    bar.finish();
    output.result(
        &json!({ "path": report.path, "tensors": report.tensors, "parameters": report.parameters }),
        |w| {
            writeln!(
                w,
                "{}: {} tensors, {:.1} million parameters",
                report.path.display(),
                report.tensors,
                report.parameters as f64 / 1e6
            )
        },
    )
}
