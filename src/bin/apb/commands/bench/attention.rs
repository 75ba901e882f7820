//! `apb bench attention`: the kernel alone.

use std::io::Write;
use std::str::FromStr;
use std::time::Instant;

use burn::tensor::module::attention as burn_attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Device, Distribution, Tensor};
use burn_apb::kernels::{self, Regions, on_workers};
use serde_json::{Value, json};

use super::{median, or_dash};
use crate::args::Compute;
use crate::error::CliError;
use crate::interrupt;
use crate::output::Output;

/// Ranks whose last one the `apb` case is: it has the most keys.
const RANKS: usize = 8;
/// Sides of the matrix product that rates are compared with.
const GEMM: usize = 2048;
/// Bytes that are read to measure memory: more than any cache holds.
const READ_BYTES: usize = 256 << 20;
/// A case is repeated until so many seconds have passed.
const SECONDS: f64 = 1.0;

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
    /// Leave out Burn's own attention, which takes several times as long
    #[arg(long)]
    no_burn: bool,
    #[command(flatten)]
    compute: Compute,
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!("`{text}` is no shape; write it as 32/8x128, heads / KV heads x head dimension")
        };
        let (heads, rest) = text.split_once('/').ok_or_else(bad)?;
        let (kv_heads, head_dim) = rest.split_once('x').ok_or_else(bad)?;
        let number = |text: &str| match text.parse::<usize>() {
            Ok(number) if (1..=1024).contains(&number) => Ok(number),
            _ => Err(bad()),
        };
        let shape = Self {
            heads: number(heads)?,
            kv_heads: number(kv_heads)?,
            head_dim: number(head_dim)?,
        };
        match shape.heads.is_multiple_of(shape.kv_heads) {
            true => Ok(shape),
            false => Err(format!("`{text}`: the KV heads do not divide the heads")),
        }
    }
}

/// What a row attends with.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Case {
    /// Causal, as many rows as keys.
    Causal,
    /// The rows of the last of [`RANKS`] ranks, with the paper's proportions of anchor and passing.
    Apb,
    /// One row.
    Decode,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::Causal => "causal",
            Self::Apb => "apb",
            Self::Decode => "decode",
        }
    }

    /// Rows, keys, regions, and pairs of a row and a key that it sees, per head.
    fn problem(self, tokens: usize) -> (usize, usize, Regions, f64) {
        match self {
            Self::Causal => {
                let pairs = tokens as f64 * (tokens as f64 + 1.0) / 2.0;
                (tokens, tokens, Regions::causal(), pairs)
            }
            Self::Decode => (1, tokens, Regions::causal(), tokens as f64),
            Self::Apb => {
                let block = (tokens / RANKS).max(1);
                let anchor = block / 4;
                let passing = (RANKS - 1) * (block / 8);
                let regions = Regions {
                    passing,
                    anchor,
                    causal: true,
                };
                let triangle = |n: usize| n as f64 * (n as f64 + 1.0) / 2.0;
                let pairs =
                    triangle(anchor) + block as f64 * (anchor + passing) as f64 + triangle(block);
                (anchor + block, passing + anchor + block, regions, pairs)
            }
        }
    }
}

struct Row {
    case: Case,
    shape: Shape,
    tokens: usize,
    seconds: f64,
    gflops: f64,
    share_of_gemm: f64,
    gigabytes: f64,
    share_of_memory: f64,
    burn_seconds: Option<f64>,
}

/// Runs the command.
pub fn run(args: &Attention, output: &Output) -> Result<(), CliError> {
    if args.tokens.contains(&0) {
        return Err(CliError::usage("--tokens holds a 0; the least is 1"));
    }
    let device = args.compute.device()?;
    let dtype = DType::from(args.compute.dtype());
    interrupt::listen();
    let cases = [Case::Causal, Case::Apb, Case::Decode];
    let bar = output.progress("measuring", "cases");
    let total = args.shapes.len() * args.tokens.len() * cases.len();
    let gemm = on_workers(&device, || gemm_gflops(&device, dtype))?;
    let memory = read_gigabytes();
    let mut rows = Vec::new();
    for &shape in &args.shapes {
        for &tokens in &args.tokens {
            for case in cases {
                if interrupt::poll().is_break() {
                    return Err(CliError::failed("cancelled"));
                }
                // As a forward pass does: on a thread of the pool.
                let row = on_workers(&device, || {
                    measure(
                        case,
                        shape,
                        tokens,
                        dtype,
                        &device,
                        gemm,
                        memory,
                        !args.no_burn,
                    )
                })?;
                rows.push(row);
                bar.update(rows.len() as u64, total as u64);
            }
        }
    }
    bar.finish();
    let json_rows: Vec<Value> = rows.iter().map(Row::json).collect();
    let summary = json!({
        "device": args.compute.device_name(), "dtype": format!("{dtype:?}"),
        "simd": kernels::simd_name(), "gemm_gflops": gemm, "memory_gigabytes_per_second": memory,
        "rows": json_rows,
    });
    output.result(&summary, |w| print(w, &rows, gemm, memory))
}

#[allow(clippy::too_many_arguments)]
fn measure(
    case: Case,
    shape: Shape,
    tokens: usize,
    dtype: DType,
    device: &Device,
    gemm: f64,
    memory: f64,
    burn: bool,
) -> Result<Row, CliError> {
    let Shape {
        heads,
        kv_heads,
        head_dim,
    } = shape;
    let (seq_q, seq_kv, regions, pairs) = case.problem(tokens);
    let random = |heads, rows| {
        let normal = Distribution::Normal(0.0, 1.0);
        Tensor::<4>::random([1, heads, rows, head_dim], normal, device).cast(dtype)
    };
    let (q, k, v) = (
        random(heads, seq_q),
        random(kv_heads, seq_kv),
        random(kv_heads, seq_kv),
    );
    let seconds = median_seconds(device, || {
        kernels::attention(q.clone(), k.clone(), v.clone(), regions).map_err(CliError::failed)
    })?;
    // Burn's has no grouped heads, no regions, and aligns rows with the first keys.
    let burn_seconds = match burn && case == Case::Causal {
        false => None,
        true => {
            let repeat = |x: Tensor<4>| {
                x.unsqueeze_dim::<5>(2)
                    .repeat_dim(2, heads / kv_heads)
                    .reshape([1, heads, seq_kv, head_dim])
            };
            let (k, v) = (repeat(k), repeat(v));
            let options = AttentionModuleOptions {
                is_causal: true,
                ..Default::default()
            };
            Some(median_seconds(device, || {
                Ok(burn_attention(
                    q.clone(),
                    k.clone(),
                    v.clone(),
                    None,
                    None,
                    options,
                ))
            })?)
        }
    };
    let gflops = 4.0 * (heads * head_dim) as f64 * pairs / seconds / 1e9;
    let bytes = 2 * (heads * seq_q + kv_heads * seq_kv) * head_dim * dtype.size();
    let gigabytes = bytes as f64 / seconds / 1e9;
    Ok(Row {
        case,
        shape,
        tokens,
        seconds,
        gflops,
        share_of_gemm: gflops / gemm,
        gigabytes,
        share_of_memory: gigabytes / memory,
        burn_seconds,
    })
}

/// Median seconds of `run`, after one run that is not counted; a slow one counts alone.
fn median_seconds<T>(
    device: &Device,
    mut run: impl FnMut() -> Result<T, CliError>,
) -> Result<f64, CliError> {
    let mut once = || {
        let started = Instant::now();
        std::hint::black_box(run()?);
        device.sync().map_err(CliError::failed)?;
        Ok::<f64, CliError>(started.elapsed().as_secs_f64())
    };
    let first = once()?;
    if first > SECONDS {
        return Ok(first);
    }
    let began = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || began.elapsed().as_secs_f64() < SECONDS {
        times.push(once()?);
    }
    Ok(median(&times).unwrap_or(first))
}

/// GFLOP/s of Burn's matrix product.
fn gemm_gflops(device: &Device, dtype: DType) -> Result<f64, CliError> {
    let random = || {
        let normal = Distribution::Normal(0.0, 1.0);
        Tensor::<2>::random([GEMM, GEMM], normal, device).cast(dtype)
    };
    let (a, b) = (random(), random());
    let seconds = median_seconds(device, || Ok(a.clone().matmul(b.clone())))?;
    Ok(2.0 * (GEMM as f64).powi(3) / seconds / 1e9)
}

/// Gigabytes a second that the CPU's threads together read from memory.
fn read_gigabytes() -> f64 {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let data = vec![1u64; READ_BYTES / 8];
    let read = || {
        std::thread::scope(|scope| {
            for part in data.chunks(data.len().div_ceil(threads)) {
                scope.spawn(move || {
                    let mut sums = [0u64; 32];
                    for line in part.chunks_exact(32) {
                        for (sum, x) in sums.iter_mut().zip(line) {
                            *sum = sum.wrapping_add(*x);
                        }
                    }
                    std::hint::black_box(sums);
                });
            }
        });
    };
    let times: Vec<f64> = (0..7)
        .map(|_| {
            let started = Instant::now();
            read();
            started.elapsed().as_secs_f64()
        })
        .collect();
    READ_BYTES as f64 / median(&times).unwrap_or(f64::NAN) / 1e9
}

impl Row {
    fn json(&self) -> Value {
        json!({
            "case": self.case.name(), "heads": self.shape.heads, "kv_heads": self.shape.kv_heads,
            "head_dim": self.shape.head_dim, "tokens": self.tokens, "seconds": self.seconds,
            "gflops": self.gflops, "share_of_gemm": self.share_of_gemm,
            "gigabytes_per_second": self.gigabytes, "share_of_memory": self.share_of_memory,
            "burn_seconds": self.burn_seconds,
            "times_burn": self.burn_seconds.map(|burn| burn / self.seconds),
        })
    }
}

fn print(w: &mut dyn Write, rows: &[Row], gemm: f64, memory: f64) -> std::io::Result<()> {
    writeln!(
        w,
        "matrix product {gemm:.0} GFLOP/s, memory {memory:.1} GB/s, {}\n",
        kernels::simd_name()
    )?;
    writeln!(
        w,
        "{:<8} {:>12} {:>8} {:>11} {:>9} {:>8} {:>8} {:>10} {:>10} {:>7}",
        "case",
        "shape",
        "tokens",
        "ms",
        "GFLOP/s",
        "of gemm",
        "GB/s",
        "of memory",
        "Burn's ms",
        "faster"
    )?;
    for row in rows {
        let Shape {
            heads,
            kv_heads,
            head_dim,
        } = row.shape;
        writeln!(
            w,
            "{:<8} {:>12} {:>8} {:>11.3} {:>9.1} {:>8.2} {:>8.1} {:>10.2} {:>10} {:>7}",
            row.case.name(),
            format!("{heads}/{kv_heads}x{head_dim}"),
            row.tokens,
            row.seconds * 1e3,
            row.gflops,
            row.share_of_gemm,
            row.gigabytes,
            row.share_of_memory,
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
    fn shapes_are_read_or_refused() {
        let shape: Shape = "32/8x128".parse().unwrap();
        assert_eq!((shape.heads, shape.kv_heads, shape.head_dim), (32, 8, 128));
        for bad in ["32", "32/8", "32/5x128", "0/0x8", "8/2x9999999999", "a/bxc"] {
            assert!(bad.parse::<Shape>().is_err(), "{bad}");
        }
    }

    /// The pairs counted are those that the regions let be seen.
    #[test]
    fn counted_pairs_are_the_visible_ones() {
        for case in [Case::Causal, Case::Apb, Case::Decode] {
            for tokens in [1, 7, 64, 300] {
                let (seq_q, seq_kv, regions, pairs) = case.problem(tokens);
                regions.validate(seq_q, seq_kv).unwrap();
                let visible = |row| regions.visible_keys(row, seq_q, seq_kv).len();
                let counted: usize = (0..seq_q).map(visible).sum();
                assert_eq!(counted as f64, pairs, "{case:?} {tokens}");
            }
        }
    }
}
