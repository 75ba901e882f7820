//! `apb doctor`: what this build and this machine can do, and how to get what is missing.

use std::io::Write;

use burn::tensor::DType;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::output::Output;

/// Say what this machine can run, what is missing and how to get it
#[derive(clap::Args, Debug)]
pub struct Args {}

/// The outcome of one check.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    /// Not there, and not needed for the main job.
    Missing,
    Broken,
}

struct Check {
    name: &'static str,
    state: State,
    found: String,
    /// What to do about it; empty when there is nothing to do.
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

/// Runs the command.
pub fn run(_: &Args, output: &Output) -> Result<(), CliError> {
    let mut checks = vec![
        version(),
        cpu(),
        memory(),
        feature_gpu(
            "cuda",
            cfg!(feature = "cuda"),
            cuda_found,
            "cargo install --path . --features cuda",
        ),
    ];
    checks.extend(cuda_needs());
    checks.extend([
        feature_gpu(
            "wgpu",
            cfg!(feature = "wgpu"),
            wgpu_found,
            "cargo install --path . --features wgpu",
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
    output.result(
        &json!({ "checks": rows, "attention_kernels": kernels }),
        |w| {
            print(w, &checks)?;
            kernels.iter().try_for_each(|table| write!(w, "\n{table}"))
        },
    )?;
    if broken {
        return Err(CliError::environment(
            "something that apb needs is broken; see above",
        ));
    }
    Ok(())
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
    Check {
        name: "apb",
        state: State::Ok,
        found: format!("{} ({})", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH),
        advice: "",
    }
}

fn cpu() -> Check {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let simd = burn_apb::kernels::simd_name();
    Check {
        name: "cpu",
        state: State::Ok,
        found: format!("{threads} threads, {simd}, computes in {:?}", DType::F32),
        advice: "",
    }
}

fn memory() -> Check {
    let available = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
            line.split_whitespace().nth(1)?.parse::<f64>().ok()
        });
    match available {
        Some(kib) => Check {
            name: "memory",
            state: State::Ok,
            found: format!("{:.1} GiB available", kib / f64::from(1 << 20)),
            advice: "",
        },
        None => Check {
            name: "memory",
            state: State::Missing,
            found: "this system does not say how much is available".into(),
            advice: "",
        },
    }
}

fn feature(name: &'static str, built: bool, advice: &'static str) -> Check {
    let (state, found, advice) = match built {
        true => (State::Ok, "built in", ""),
        false => (State::Missing, "not in this build", advice),
    };
    Check {
        name,
        state,
        found: found.into(),
        advice,
    }
}

fn feature_gpu(
    name: &'static str,
    built: bool,
    found: fn() -> usize,
    advice: &'static str,
) -> Check {
    if !built {
        return feature(name, built, advice);
    }
    match found() {
        0 => Check {
            name,
            state: State::Missing,
            found: "built in, no device found".into(),
            advice: "install the device's driver",
        },
        devices => Check {
            name,
            state: State::Ok,
            found: format!("{devices} devices"),
            advice: "",
        },
    }
}

/// What the CUDA runtime opens, each by itself: any of them may be missing.
#[cfg(feature = "cuda")]
fn cuda_needs() -> Vec<Check> {
    let check = |need: crate::cuda::Need| Check {
        name: need.name,
        state: match need.found {
            Some(_) => State::Ok,
            None => State::Missing,
        },
        advice: if need.found.is_some() {
            ""
        } else {
            need.advice
        },
        found: need.found.unwrap_or_else(|| "not found".into()),
    };
    crate::cuda::needs().into_iter().map(check).collect()
}

#[cfg(not(feature = "cuda"))]
fn cuda_needs() -> Vec<Check> {
    Vec::new()
}

fn cuda_found() -> usize {
    #[cfg(feature = "cuda")]
    return burn::tensor::Device::enumerate(burn::tensor::DeviceType::Cuda)
        .into_iter()
        .count();
    #[cfg(not(feature = "cuda"))]
    0
}

fn wgpu_found() -> usize {
    #[cfg(feature = "wgpu")]
    return burn::tensor::Device::enumerate(burn::tensor::DeviceType::Wgpu)
        .into_iter()
        .count();
    #[cfg(not(feature = "wgpu"))]
    0
}

/// The tables by which attention chooses its kernel on GPUs, the first one first.
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
        return feature(
            "mpi",
            false,
            "for ranks as processes: apt install libopenmpi-dev openmpi-bin libclang-dev, then cargo \
             install --path . --features mpi",
        );
    }
    let version = std::process::Command::new("mpirun")
        .arg("--version")
        .output();
    let (state, found, advice) = match version {
        Ok(done) if done.status.success() => {
            let text = String::from_utf8_lossy(&done.stdout);
            (
                State::Ok,
                text.lines().next().unwrap_or_default().to_owned(),
                "",
            )
        }
        _ => (
            State::Missing,
            "built in, no mpirun found".into(),
            "only needed to start ranks on this machine: apt install openmpi-bin",
        ),
    };
    Check {
        name: "mpi",
        state,
        found,
        advice,
    }
}

fn nccl() -> Check {
    #[cfg(feature = "nccl")]
    return match burn_apb::ranks::nccl_version() {
        Ok(version) => Check {
            name: "nccl",
            state: State::Ok,
            found: version,
            advice: "",
        },
        Err(error) => Check {
            name: "nccl",
            state: State::Missing,
            found: error.to_string(),
            advice: "only needed for ranks as processes with a GPU each",
        },
    };
    #[cfg(not(feature = "nccl"))]
    feature(
        "nccl",
        false,
        "for ranks as processes with a GPU each: cargo install --path . --features nccl",
    )
}

fn python() -> Check {
    let pip = std::process::Command::new("python3")
        .args(["-m", "pip", "--version"])
        .output();
    match pip {
        Ok(done) if done.status.success() => Check {
            name: "python3",
            state: State::Ok,
            found: String::from_utf8_lossy(&done.stdout)
                .trim()
                .chars()
                .take(60)
                .collect(),
            advice: "",
        },
        _ => Check {
            name: "python3",
            state: State::Missing,
            found: "no python3 with pip".into(),
            advice: "only needed to fetch a listed model where the hub cannot be reached",
        },
    }
}

fn cache() -> Check {
    match burn_apb::checkpoint::hub::cache_dir() {
        Ok(folder) => Check {
            name: "cache",
            state: State::Ok,
            found: folder.display().to_string(),
            advice: "",
        },
        Err(error) => Check {
            name: "cache",
            state: State::Broken,
            found: error.to_string(),
            advice: "set APB_CACHE to a folder that can be written",
        },
    }
}
