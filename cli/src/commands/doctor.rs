//! `apb doctor`: checks what this build and this machine can run.

use std::io::Write;

use burn::tensor::DType;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::escape;
use crate::output::{self, Output};

/// Check what this machine can run, what is missing and how to get it
#[derive(clap::Args, Debug)]
pub struct Args {}

/// What is found where a feature is not compiled in.
const NOT_BUILT: &str = "not in this build";

/// The outcome of one check.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    /// Absent, and not required.
    Missing,
    Broken,
}

struct Check {
    name: &'static str,
    state: State,
    found: String,
    /// What to do about it, or nothing.
    advice: &'static str,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Broken => "broken",
        }
    }
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Ok,
            found: found.into(),
            advice: "",
        }
    }

    fn missing(name: &'static str, found: impl Into<String>, advice: &'static str) -> Self {
        Self {
            name,
            state: State::Missing,
            found: found.into(),
            advice,
        }
    }
}

/// Runs the command.
pub fn run(_: &Args, output: &Output) -> Result<(), CliError> {
    let mut checks = vec![
        version(),
        cpu(),
        memory(),
        gpu(
            "cuda",
            cuda_devices(),
            "cargo install --path cli --features cuda",
        ),
    ];
    checks.extend(cuda_needs());
    checks.extend([
        gpu(
            "wgpu",
            wgpu_devices(),
            "cargo install --path cli --features wgpu",
        ),
        mpi(),
        nccl(),
        python(),
        cache(),
    ]);
    let broken = checks.iter().any(|check| check.state == State::Broken);
    let rows: Vec<Value> = checks
        .iter()
        .map(|c| json!({ "name": c.name, "state": c.state.name(), "found": c.found, "advice": c.advice }))
        .collect();
    let kernels = attention_kernels();
    let mut json = json!({ "checks": rows, "attention_kernels": kernels });
    let error = CliError::environment("something that apb needs is broken; see above");
    if broken {
        // One object: the report is what was asked for, and the error is in it.
        json["error"] = error.to_json()["error"].clone();
    }
    output.result(&json, |w| {
        print(w, &checks)?;
        kernels.iter().try_for_each(|table| write!(w, "\n{table}"))
    })?;
    match (broken, output.is_json()) {
        (false, _) => Ok(()),
        (true, false) => Err(error),
        (true, true) => {
            output::stderr_line(&format!("apb: {error}"));
            Err(error.printed())
        }
    }
}

fn print(w: &mut dyn Write, checks: &[Check]) -> std::io::Result<()> {
    for check in checks {
        writeln!(
            w,
            "{:<9} {:<8} {}",
            check.name,
            check.state.name(),
            check.found
        )?;
        if !check.advice.is_empty() {
            writeln!(w, "{:19}{}", "", check.advice)?;
        }
    }
    Ok(())
}

fn version() -> Check {
    let found = format!("{} ({})", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    Check::ok("apb", found)
}

fn cpu() -> Check {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let simd = burn_apb::kernels::simd_name().unwrap_or_default();
    let found = format!("{threads} threads, {simd}, computes in {:?}", DType::F32);
    Check::ok("cpu", found)
}

fn memory() -> Check {
    match crate::memory::available_bytes() {
        Some(bytes) => {
            let found = format!("{:.1} GiB available", bytes as f64 / (1u64 << 30) as f64);
            Check::ok("memory", found)
        }
        None => Check::missing("memory", "this system does not report it", ""),
    }
}

fn gpu(name: &'static str, devices: Option<usize>, advice: &'static str) -> Check {
    match devices {
        None => Check::missing(name, NOT_BUILT, advice),
        Some(0) => Check::missing(
            name,
            "built in, no device found",
            "install the device's driver",
        ),
        Some(devices) => Check::ok(name, format!("{devices} devices")),
    }
}

/// What the CUDA runtime opens, each by itself: any of them may be missing.
#[cfg(feature = "cuda")]
fn cuda_needs() -> Vec<Check> {
    let check = |need: crate::cuda::Need| match need.found {
        Some(found) => Check::ok(need.name, found),
        None => Check::missing(need.name, "not found", need.advice),
    };
    let mut checks: Vec<Check> = crate::cuda::needs().into_iter().map(check).collect();
    checks.push(match burn_apb::kernels::cublaslt_version() {
        Ok(version) => Check::ok("cublaslt", version),
        Err(reason) => Check::missing(
            "cublaslt",
            reason,
            "only needed for speed: without it Burn's products serve, which are tuned at first use",
        ),
    });
    checks
}

#[cfg(not(feature = "cuda"))]
fn cuda_needs() -> Vec<Check> {
    Vec::new()
}

/// The number of CUDA devices; none in a build without CUDA.
fn cuda_devices() -> Option<usize> {
    #[cfg(feature = "cuda")]
    return Some(
        burn::tensor::Device::enumerate(burn::tensor::DeviceType::Cuda)
            .into_iter()
            .count(),
    );
    #[cfg(not(feature = "cuda"))]
    None
}

/// The number of WebGPU devices; none in a build without WebGPU.
fn wgpu_devices() -> Option<usize> {
    #[cfg(feature = "wgpu")]
    return Some(
        burn::tensor::Device::enumerate(burn::tensor::DeviceType::Wgpu)
            .into_iter()
            .count(),
    );
    #[cfg(not(feature = "wgpu"))]
    None
}

/// The tables from which attention selects its kernel on GPUs, in order of preference.
fn attention_kernels() -> Vec<String> {
    vec![
        #[cfg(feature = "cuda")]
        burn_apb::kernels::tensor_core_table(),
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        burn_apb::kernels::portable_table(),
    ]
}

fn mpi() -> Check {
    if cfg!(not(feature = "mpi")) {
        return Check::missing(
            "mpi",
            NOT_BUILT,
            "for ranks as processes: apt install libopenmpi-dev openmpi-bin libclang-dev, then cargo \
             install --path cli --features mpi",
        );
    }
    match output_of("mpirun", &["--version"]) {
        Some(text) => Check::ok("mpi", text.lines().next().unwrap_or_default()),
        None => Check::missing(
            "mpi",
            "built in, no mpirun found",
            "only needed to start ranks on this machine: apt install openmpi-bin",
        ),
    }
}

fn nccl() -> Check {
    #[cfg(feature = "nccl")]
    return match burn_apb::ranks::nccl_version() {
        Ok(version) => Check::ok("nccl", version),
        Err(error) => Check::missing(
            "nccl",
            error.to_string(),
            "only needed for ranks as processes with a GPU each",
        ),
    };
    #[cfg(not(feature = "nccl"))]
    Check::missing(
        "nccl",
        NOT_BUILT,
        "for ranks as processes with a GPU each: cargo install --path cli --features nccl",
    )
}

fn python() -> Check {
    match output_of("python3", &["-m", "pip", "--version"]) {
        Some(text) => Check::ok(
            "python3",
            escape::line(text.trim())
                .chars()
                .take(60)
                .collect::<String>(),
        ),
        None => Check::missing(
            "python3",
            "no python3 with pip",
            "only needed to fetch a listed model where the hub cannot be reached",
        ),
    }
}

/// What a program prints on stdout; none where it is absent or fails.
fn output_of(program: &str, args: &[&str]) -> Option<String> {
    let done = std::process::Command::new(program)
        .args(args)
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    done.status.success().then_some(text)
}

fn cache() -> Check {
    match burn_apb::checkpoint::hub::cache_dir() {
        Ok(folder) => Check::ok("cache", escape::path(&folder)),
        Err(error) => Check {
            name: "cache",
            state: State::Broken,
            found: error.to_string(),
            advice: "set APB_CACHE to a folder that can be written",
        },
    }
}
