//! `apb convert`: a GGUF file to a Hugging Face folder, or any model to a quantised GGUF file.

use std::path::{Path, PathBuf};

use burn_apb::checkpoint::{self, Quantization, QuantizeReport};
use clap::ValueEnum;
use serde_json::{Map, json};

use crate::args::{DtypeName, Model};
use crate::commands::prefill::resolve;
use crate::error::CliError;
use crate::escape;
use crate::interrupt;
use crate::output::Output;

/// Convert a GGUF file to a Hugging Face folder, or quantise any model to a GGUF file
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The GGUF file; with --quantize any model: a folder, a GGUF file, a hub id or a listed name
    #[arg(value_name = "MODEL")]
    input: PathBuf,
    /// The folder to make; must not exist, or be empty. With --quantize, the GGUF file to make; must not exist
    #[arg(required_unless_present = "named_out")]
    out: Option<PathBuf>,
    /// The same as OUT
    #[arg(
        long = "out",
        id = "named_out",
        value_name = "OUT",
        conflicts_with = "out"
    )]
    named_out: Option<PathBuf>,
    /// Quantise to a GGUF file: q8_0, all matrices in 8 bits, or q4_k, llama.cpp's Q4_K_M
    #[arg(long, value_enum, value_name = "TYPE")]
    quantize: Option<QuantizationName>,
    /// Dtype of the tensors of the folder
    #[arg(long, value_enum, default_value = "bf16", conflicts_with = "quantize")]
    dtype: DtypeName,
}

/// What to quantise to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QuantizationName {
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_k", alias = "q4_k_m")]
    Q4K,
}

impl From<QuantizationName> for Quantization {
    fn from(name: QuantizationName) -> Self {
        match name {
            QuantizationName::Q8_0 => Self::Q8_0,
            QuantizationName::Q4K => Self::Q4K,
        }
    }
}

/// Runs the command.
pub fn run(args: &Args, output: &Output) -> Result<(), CliError> {
    let out = args.out.as_deref().or(args.named_out.as_deref());
    let out = out.ok_or_else(|| CliError::usage("expected OUT, the folder or file to make"))?;
    if let Some(to) = args.quantize {
        let report = quantize(args, out, to.into(), output)?;
        return show_quantized(&report, output);
    }
    let bar = output.progress("converting", "B");
    let report = interrupt::undoing(|| {
        checkpoint::convert(&args.input, out, args.dtype.into(), &mut |p| {
            interrupt::check();
            bar.update(p.done, p.total);
        })
    });
    bar.finish();
    let report = report?;
    output.result(
        &json!({ "path": crate::json::path(&report.path), "tensors": report.tensors, "parameters": report.parameters }),
        |w| {
            writeln!(
                w,
                "{}: {} tensors, {:.1} million parameters",
                escape::path(&report.path),
                report.tensors,
                report.parameters as f64 / 1e6
            )
        },
    )
}

fn quantize(
    args: &Args,
    out: &Path,
    to: Quantization,
    output: &Output,
) -> Result<QuantizeReport, CliError> {
    let model = Model {
        model: args.input.clone(),
    };
    let model = resolve(&model, output)?;
    let bar = output.progress("quantising", "B");
    let report = interrupt::undoing(|| {
        checkpoint::quantize(model, out, to, &mut |p| {
            interrupt::check();
            bar.update(p.done, p.total);
        })
    });
    bar.finish();
    let report = report?;
    for warning in &report.warnings {
        output.note(format!("warning: {warning}"));
    }
    Ok(report)
}

fn show_quantized(report: &QuantizeReport, output: &Output) -> Result<(), CliError> {
    let types = report.types.iter();
    let types: Map<_, _> = types
        .map(|&(name, tensors)| (name.to_owned(), json!(tensors)))
        .collect();
    output.result(
        &json!({
            "path": crate::json::path(&report.path),
            "tensors": report.tensors,
            "parameters": report.parameters,
            "bytes": report.bytes,
            "types": types,
            "warnings": report.warnings,
        }),
        |w| {
            let types = report.types.iter();
            let types: Vec<String> = types
                .map(|(name, tensors)| format!("{tensors} {name}"))
                .collect();
            writeln!(
                w,
                "{}: {} tensors ({}), {:.1} million parameters, {:.1} MB, {:.2} bits each",
                escape::path(&report.path),
                report.tensors,
                types.join(", "),
                report.parameters as f64 / 1e6,
                report.bytes as f64 / 1e6,
                8.0 * report.bytes as f64 / report.parameters as f64,
            )
        },
    )
}
