//! `apb launch`: several processes of one command on this machine.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use burn_apb::ranks::TOKEN_VARIABLE;

use crate::error::{CliError, RANK_FAILED};
use crate::escape;
use crate::limits;

/// Start N processes of a command on this machine, each with torchrun's variables
///
/// They are started under mpirun; by a build with NCCL and without MPI, directly. Every process has RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. When one fails all are
/// ended; the exit code is 4 when a rank failed.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Processes to start
    #[arg(short, long = "processes", value_name = "N")]
    n: NonZeroUsize,
    /// What each of them runs, for example: apb generate --method apb ..
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Processes that are started at most: more are a slip of the finger.
const MOST_PROCESSES: usize = 4096;
/// The exit code of `env` and shells for a command that they cannot find.
const NOT_FOUND: i32 = 127;

/// Runs the command.
pub fn run(args: &Args) -> Result<(), CliError> {
    limits::at_most("--processes", args.n.get(), MOST_PROCESSES)?;
    if cfg!(not(any(feature = "mpi", feature = "nccl"))) {
        return Err(CliError::environment(
            "this build has no MPI, over which the processes would exchange; install one (Debian: \
             libopenmpi-dev openmpi-bin libclang-dev) and build with `cargo install --path cli \
             --features mpi`; for GPUs alone, --features nccl does",
        ));
    }
    let port = free_port()?;
    let code = match cfg!(feature = "mpi") {
        true => under_mpirun(args, port)?,
        false => directly(args, port)?,
    };
    match code {
        0 => Ok(()),
        NOT_FOUND => {
            let command = args.command.first().map(|name| name.to_string_lossy());
            Err(CliError::environment(format!(
                "{}, or a program that it starts, was not found",
                escape::line(&command.unwrap_or_default())
            )))
        }
        // The failed process has printed its error.
        code => std::process::exit(code),
    }
}

/// The variables of all processes.
fn shared_variables(args: &Args, port: u16) -> Vec<(&'static str, String)> {
    let secret: u128 = rand::random();
    let token = std::env::var(TOKEN_VARIABLE)
        .ok()
        .filter(|token| !token.is_empty());
    vec![
        ("MASTER_ADDR", "127.0.0.1".into()),
        ("MASTER_PORT", port.to_string()),
        ("WORLD_SIZE", args.n.to_string()),
        (
            TOKEN_VARIABLE,
            token.unwrap_or_else(|| format!("{secret:032x}")),
        ),
    ]
}

/// Starts the processes without mpirun, waits for them, and ends all after one has failed.
fn directly(args: &Args, port: u16) -> Result<i32, CliError> {
    /// The time in which the other ranks may report which rank failed.
    const PATIENCE: Duration = Duration::from_secs(10);
    const POLL: Duration = Duration::from_millis(20);
    let Some((program, rest)) = args.command.split_first() else {
        return Err(CliError::usage("no command was given"));
    };
    let shared = shared_variables(args, port);
    let mut running: Vec<Child> = Vec::new();
    for rank in 0..args.n.get() {
        let mut command = Command::new(program);
        let rank = rank.to_string();
        (command.args(rest).envs(shared.iter().cloned()))
            .envs([("RANK", &rank), ("LOCAL_RANK", &rank)]);
        end_with_parent(&mut command);
        match command.spawn() {
            Ok(child) => running.push(child),
            Err(error) => {
                running.iter_mut().for_each(end);
                return Err(CliError::environment(format!(
                    "{} cannot be started: {error}",
                    escape::line(&program.to_string_lossy())
                )));
            }
        }
    }
    let mut failed: Option<(i32, Instant)> = None;
    while !running.is_empty() {
        running.retain_mut(|child| {
            let code = match child.try_wait() {
                Ok(None) => return true,
                Ok(Some(status)) => exit_code(status),
                // Its state is unknown.
                Err(_) => RANK_FAILED,
            };
            if code != 0 && failed.is_none() {
                failed = Some((code, Instant::now()));
            }
            false
        });
        if failed.is_some_and(|(_, since)| since.elapsed() > PATIENCE) {
            running.iter_mut().for_each(end);
        }
        std::thread::sleep(POLL);
    }
    Ok(failed.map_or(0, |(code, _)| code))
}

/// Ends a process that may have ended by itself.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Starts the processes under mpirun, through which their MPI connects.
fn under_mpirun(args: &Args, port: u16) -> Result<i32, CliError> {
    let mut mpirun = Command::new("mpirun");
    // More processes than cores are the user's choice, and so is root. Other MPIs than Open MPI have no
    // such limits and ignore the variables.
    mpirun
        .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .envs(shared_variables(args, port));
    // `env` gives each process its own number whatever MPI this is, and becomes the command.
    for rank in 0..args.n.get() {
        if rank > 0 {
            mpirun.arg(":");
        }
        mpirun.args(["-n", "1", "env"]);
        mpirun
            .arg(format!("RANK={rank}"))
            .arg(format!("LOCAL_RANK={rank}"));
        mpirun.args(&args.command);
    }
    end_with_parent(&mut mpirun);
    adopt_orphans();
    let status = mpirun.status().map_err(|error| {
        CliError::environment(format!(
            "mpirun cannot be started: {error}; install an MPI (Debian: openmpi-bin) and have it in PATH"
        ))
    })?;
    end_orphans();
    Ok(exit_code(status))
}

/// The command's own exit code; that of a failed rank after a signal or a panic.
fn exit_code(status: ExitStatus) -> i32 {
    match status.code() {
        Some(code @ (0..=5 | NOT_FOUND)) => code,
        _ => RANK_FAILED,
    }
}

/// A free port of this machine.
fn free_port() -> Result<u16, CliError> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0));
    let address = listener.and_then(|listener| listener.local_addr());
    let address = address.map_err(|e| CliError::environment(format!("no port is free: {e}")))?;
    Ok(address.port())
}

/// Sends the process SIGTERM when this process ends, after which mpirun ends its ranks.
fn end_with_parent(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt;
        let ask = || {
            // SAFETY: a request about this process alone, without pointers.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) };
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(ask) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

/// Makes this process the parent of ranks that outlive mpirun.
fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    // SAFETY: a request about this process alone, without pointers.
    unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
    }
}

/// Waits until every rank has ended, which mpirun does not, and kills those that take too long.
fn end_orphans() {
    #[cfg(target_os = "linux")]
    {
        /// The time an ending process may take to free its memory.
        const PATIENCE: Duration = Duration::from_secs(2);
        const POLL: Duration = Duration::from_millis(5);
        let started = Instant::now();
        // SAFETY: asks for the end of any child, and nothing about it.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } >= 0 {
            if started.elapsed() > PATIENCE {
                let path = format!("/proc/self/task/{}/children", std::process::id());
                let children = std::fs::read_to_string(path).unwrap_or_default();
                for child in children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse().ok())
                {
                    // SAFETY: a signal to a child that has not been waited for, so its number is its own.
                    unsafe { libc::kill(child, libc::SIGKILL) };
                }
            }
            std::thread::sleep(POLL);
        }
    }
}
