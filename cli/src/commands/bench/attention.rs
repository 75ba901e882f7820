//! `apb bench attention`: the kernel alone.

use std::io::Write;
use std::path::PathBuf;

use burn::tensor::module::attention as burn_attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Device, Distribution, Tensor};
use burn_apb::kernels::{self, AttentionOutput, Regions, on_workers, reference};
use serde_json::{Value, json};

use super::cases::{Case, Problem, Shape};
use super::timing::Bench;
use super::{Log, or_dash};
use crate::args::Compute;
use crate::error::CliError;
use crate::limits::{self, check_tokens};
use crate::output::{self, Output};
use crate::{interrupt, memory};

/// Largest error of the last row against the reference: bf16 inputs of unit variance give 1e-2 at most. A
/// kernel that fails on a GPU leaves its output unwritten, and would otherwise be the fastest.
const LARGEST_ERROR: f32 = 0.05;

/// Flags of `apb bench attention`.
#[derive(clap::Args, Debug)]
pub struct Attention {
    /// Sequence lengths, in tokens
    #[arg(
        long,
        value_name = "N,..",
        value_delimiter = ',',
        default_value = "4096"
    )]
    tokens: Vec<usize>,
    /// Query heads / KV heads x head dimension
    #[arg(
        long,
        value_name = "HEADS/KVxDIM,..",
        value_delimiter = ',',
        default_value = "9/3x64,32/8x128"
    )]
    shapes: Vec<Shape>,
    /// What rows attend to
    #[arg(
        long,
        value_enum,
        value_name = "CASE,..",
        value_delimiter = ',',
        default_value = "causal,apb,decode"
    )]
    cases: Vec<Case>,
    /// Leave out Burn's own attention, which takes several times as long
    #[arg(long)]
    no_burn: bool,
    /// Append every case, when it is done, to a file, as a line of JSON
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    #[command(flatten)]
    compute: Compute,
}

struct Row {
    case: Case,
    shape: Shape,
    tokens: usize,
    /// Of the first call, with compilation.
    first_seconds: f64,
    seconds: f64,
    gflops: f64,
    gigabytes: f64,
    error: f32,
    burn_seconds: Option<f64>,
}

/// The peak rates of the machine.
#[derive(Clone, Copy)]
struct Peak {
    gflops: f64,
    gigabytes: f64,
}

/// Runs the command.
pub fn run(args: &Attention, output: &Output) -> Result<(), CliError> {
    if args.tokens.contains(&0) {
        return Err(CliError::usage("--tokens holds a 0; the least is 1"));
    }
    limits::distinct("--tokens", &args.tokens)?;
    limits::distinct("--shapes", &args.shapes)?;
    limits::distinct("--cases", &args.cases)?;
    if args.compute.kv_dtype().is_some() || args.compute.dequantize() {
        return Err(CliError::usage(
            "bench attention loads no weights and measures keys and values of --dtype; leave --kv-dtype and \
             --dequantize out",
        ));
    }
    let device = args.compute.device()?;
    let dtype = DType::from(args.compute.dtype());
    args.check_memory(dtype)?;
    let mut log = Log::open(args.log.as_deref(), output)?;
    interrupt::listen();
    let bar = output.progress("measuring", "cases");
    let total = args.shapes.len() * args.tokens.len() * args.cases.len();
    let bench = Bench {
        device: &device,
        queued: args.compute.is_gpu(),
    };
    let gemm = on_workers(&device, || bench.gemm_gflops(dtype))?;
    let peak = Peak {
        gflops: gemm,
        gigabytes: bench.memory_gigabytes()?,
    };
    let mut rows = Vec::new();
    for &shape in &args.shapes {
        for &tokens in &args.tokens {
            for &case in &args.cases {
                if interrupt::poll().is_break() {
                    return Err(CliError::failed("cancelled"));
                }
                // On a thread of the pool, as a forward pass.
                let row = on_workers(&device, || {
                    measure(&bench, case, shape, tokens, dtype, !args.no_burn)
                })?;
                log.line(&row.json(peak))?;
                rows.push(row);
                bar.update(rows.len() as u64, total as u64);
            }
        }
    }
    bar.finish();
    let json_rows: Vec<Value> = rows.iter().map(|row| row.json(peak)).collect();
    let summary = json!({
        "device": args.compute.device_name(), "dtype": format!("{dtype:?}"),
        "simd": kernels::simd_name().unwrap_or_default(), "tensor_core": std::env::var("APB_TENSOR_CORE").ok(),
        "gemm_gflops": peak.gflops, "memory_gigabytes_per_second": peak.gigabytes,
        "rows": json_rows,
    });
    output.result(&summary, |w| print(w, &rows, peak))
}

impl Attention {
    /// Refuses lengths that no model has, and tensors that this machine's memory does not hold.
    fn check_memory(&self, dtype: DType) -> Result<(), CliError> {
        for &tokens in &self.tokens {
            check_tokens(tokens)?;
        }
        let free = match self.compute.is_gpu() {
            true => None,
            false => memory::available_bytes(),
        };
        let Some(free) = free else {
            return Ok(());
        };
        for shape in &self.shapes {
            for &tokens in &self.tokens {
                for &case in &self.cases {
                    let needed = needed_bytes(case, shape, tokens, dtype, !self.no_burn);
                    let needed = needed.unwrap_or(u64::MAX);
                    if needed > free {
                        return Err(CliError::memory(format!(
                            "{case} {shape}, {tokens} tokens: queries, keys, values and outputs take {}, and {} are free; \
                             ask for fewer --tokens",
                            output::bytes(needed),
                            output::bytes(free)
                        )));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Bytes of queries and outputs, keys and values, and of those that are repeated for Burn's attention; none where they are
/// more than can be counted.
fn needed_bytes(case: Case, shape: &Shape, tokens: usize, dtype: DType, burn: bool) -> Option<u64> {
    let Problem { seq_q, seq_kv, .. } = case.problem(tokens);
    let mut rows = shape.heads.checked_mul(seq_q)?;
    rows = rows.checked_add(shape.kv_heads.checked_mul(seq_kv)?)?;
    if burn && case == Case::Causal {
        rows = rows.checked_add(shape.heads.checked_mul(seq_kv)?)?;
    }
    let row = shape.head_dim.checked_mul(dtype.size())?;
    let bytes = rows.checked_mul(2)?.checked_mul(row)?;
    u64::try_from(bytes).ok()
}

fn measure(
    bench: &Bench<'_>,
    case: Case,
    shape: Shape,
    tokens: usize,
    dtype: DType,
    burn: bool,
) -> Result<Row, CliError> {
    let Shape {
        heads,
        kv_heads,
        head_dim,
    } = shape;
    let Problem {
        seq_q,
        seq_kv,
        regions,
        pairs,
    } = case.problem(tokens);
    let random = |heads, rows| {
        let normal = Distribution::Normal(0.0, 1.0);
        Tensor::<4>::random([1, heads, rows, head_dim], normal, bench.device).cast(dtype)
    };
    let (q, k, v) = (
        random(heads, seq_q),
        random(kv_heads, seq_kv),
        random(kv_heads, seq_kv),
    );
    let attend =
        || kernels::attention(q.clone(), k.clone(), v.clone(), regions).map_err(CliError::failed);
    let (first, first_seconds) = bench.once(attend)?;
    let error = last_row_error(first, &q, &k, &v)?;
    if error > LARGEST_ERROR || error.is_nan() {
        return Err(CliError::failed(format!(
            "{case} {shape}, {tokens} tokens: the last row is off by {error}; the kernel does not compute on \
             this device"
        )));
    }
    let seconds = bench.time(attend)?;
    let burn_seconds = match burn && case == Case::Causal {
        false => None,
        true => Some(burn_seconds(bench, &q, k, v)?),
    };
    let bytes = 2 * (heads * seq_q + kv_heads * seq_kv) * head_dim * dtype.size();
    Ok(Row {
        case,
        shape,
        tokens,
        gflops: 4.0 * (heads * head_dim) as f64 * pairs / seconds / 1e9,
        gigabytes: bytes as f64 / seconds / 1e9,
        first_seconds,
        seconds,
        error,
        burn_seconds,
    })
}

/// The error of the last row of the last group of heads, which attends to every key in every case, against
/// the reference on the CPU: on a GPU its products would have to be tuned for each length first.
fn last_row_error(
    got: AttentionOutput,
    q: &Tensor<4>,
    k: &Tensor<4>,
    v: &Tensor<4>,
) -> Result<f32, CliError> {
    let [_, heads, seq_q, _] = q.dims();
    let kv_heads = k.dims()[1];
    let group = heads / kv_heads;
    let row = |x: &Tensor<4>| {
        x.clone()
            .narrow(1, heads - group, group)
            .narrow(2, seq_q - 1, 1)
    };
    let keys = |x: &Tensor<4>| to_cpu(x.clone().narrow(1, kv_heads - 1, 1));
    let causal = Regions::causal();
    let expected = reference::attention(to_cpu(row(q))?, keys(k)?, keys(v)?, causal).out;
    let difference = (to_cpu(row(&got.out))? - expected).abs().into_data();
    let difference = difference
        .try_to_vec::<f32>()
        .map_err(|e| CliError::failed(format!("{e}")))?;
    // NaN is the largest of all.
    Ok(difference
        .into_iter()
        .fold(0.0, |most, x| if x <= most { most } else { x }))
}

/// A copy in f32 on the CPU.
fn to_cpu(x: Tensor<4>) -> Result<Tensor<4>, CliError> {
    let data = x.cast(DType::F32).try_into_data();
    let data = data.map_err(|e| CliError::failed(format!("cannot be read: {e}")))?;
    Ok(Tensor::from_data(data, &Device::flex()))
}

/// Burn's attention, which has no grouped heads, no regions, and aligns rows with the first keys.
fn burn_seconds(
    bench: &Bench<'_>,
    q: &Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
) -> Result<f64, CliError> {
    let heads = q.dims()[1];
    let repeat = |x: Tensor<4>| {
        let [_, kv_heads, seq_kv, head_dim] = x.dims();
        x.unsqueeze_dim::<5>(2)
            .repeat_dim(2, heads / kv_heads)
            .reshape([1, heads, seq_kv, head_dim])
    };
    let (k, v) = (repeat(k), repeat(v));
    let options = AttentionModuleOptions {
        is_causal: true,
        ..Default::default()
    };
    bench.time(|| {
        let (q, k, v) = (q.clone(), k.clone(), v.clone());
        Ok(burn_attention(q, k, v, None, None, options))
    })
}

impl Row {
    /// The least time for the operations or the bytes, over the time taken.
    fn share_of_roofline(&self, peak: Peak) -> f64 {
        (self.gflops / peak.gflops).max(self.gigabytes / peak.gigabytes)
    }

    fn json(&self, peak: Peak) -> Value {
        json!({
            "case": self.case.name(), "heads": self.shape.heads, "kv_heads": self.shape.kv_heads,
            "head_dim": self.shape.head_dim, "tokens": self.tokens, "seconds": self.seconds,
            "first_seconds": self.first_seconds, "gflops": self.gflops,
            "share_of_gemm": self.gflops / peak.gflops,
            "gigabytes_per_second": self.gigabytes,
            "share_of_memory": self.gigabytes / peak.gigabytes,
            "share_of_roofline": self.share_of_roofline(peak), "last_row_error": self.error,
            "burn_seconds": self.burn_seconds,
            "times_burn": self.burn_seconds.map(|burn| burn / self.seconds),
        })
    }
}

fn print(w: &mut dyn Write, rows: &[Row], peak: Peak) -> std::io::Result<()> {
    writeln!(
        w,
        "matrix product {:.0} GFLOP/s, memory {:.1} GB/s, CPU {}\n",
        peak.gflops,
        peak.gigabytes,
        kernels::simd_name().unwrap_or_default()
    )?;
    writeln!(
        w,
        "{:<8} {:>12} {:>8} {:>11} {:>9} {:>8} {:>8} {:>10} {:>12} {:>10} {:>7}",
        "case",
        "shape",
        "tokens",
        "ms",
        "GFLOP/s",
        "of gemm",
        "GB/s",
        "of memory",
        "of roofline",
        "Burn's ms",
        "faster"
    )?;
    for row in rows {
        writeln!(
            w,
            "{:<8} {:>12} {:>8} {:>11.3} {:>9.1} {:>8.2} {:>8.1} {:>10.2} {:>12.2} {:>10} {:>7}",
            row.case.name(),
            row.shape,
            row.tokens,
            row.seconds * 1e3,
            row.gflops,
            row.gflops / peak.gflops,
            row.gigabytes,
            row.gigabytes / peak.gigabytes,
            row.share_of_roofline(peak),
            or_dash(row.burn_seconds.map(|burn| burn * 1e3), 1),
            or_dash(row.burn_seconds.map(|burn| burn / row.seconds), 1),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_counted_before_they_are_made() {
        let shape: Shape = "4/2x8".parse().unwrap();
        let bytes =
            |case, tokens, burn| needed_bytes(case, &shape, tokens, DType::F32, burn).unwrap();
        assert_eq!(bytes(Case::Decode, 10, true), 2 * (4 + 2 * 10) * 8 * 4);
        assert_eq!(bytes(Case::Causal, 10, false), 2 * 6 * 10 * 8 * 4);
        assert_eq!(bytes(Case::Causal, 10, true), 2 * 10 * 10 * 8 * 4);
        assert_eq!(
            needed_bytes(Case::Causal, &shape, usize::MAX, DType::F32, false),
            None
        );
    }
}
