//! `apb convert-heads`: published retaining heads to safetensors.

use std::path::PathBuf;

use burn_apb::apb::heads;
use serde_json::json;

use crate::error::CliError;
use crate::escape;
use crate::output::Output;

/// Names of skipped tensors that are shown.
const SHOWN: usize = 3;

/// Convert retaining heads from PyTorch to safetensors, never executing a pickle
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A PyTorch or safetensors file, or the folder that holds it
    input: PathBuf,
    /// The safetensors file to write
    out: PathBuf,
    /// The model the heads were trained for, to be named in the file
    #[arg(long, value_name = "NAME")]
    base_model: Option<String>,
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Result<(), CliError> {
    let reader = output.wait_for_reader(&args.out)?;
    let heads = heads::convert_heads(&args.input, &args.out, args.base_model.as_deref())?;
    drop(reader);
    let ignored = heads.ignored.len();
    output.result(
        &json!({
            "out": crate::json::path(&heads.path),
            "tensors": heads.tensors,
            "layers": heads.layers,
            "width": heads.width,
            "ignored": ignored,
        }),
        |w| {
            writeln!(
                w,
                "{}: {} tensors, {} layers, width {}, {} key/value heads",
                escape::path(&heads.path),
                heads.tensors,
                heads.layers,
                heads.width,
                heads.kv_heads
            )?;
            if ignored > 0 {
                let shown = &heads.ignored[..ignored.min(SHOWN)];
                let more = if ignored > SHOWN { ", .." } else { "" };
                writeln!(w, "  passed over {ignored}: {}{more}", shown.join(", "))?;
            }
            Ok(())
        },
    )
}
