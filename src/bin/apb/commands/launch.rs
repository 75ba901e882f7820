//! `apb launch`: several processes of one command on this machine.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::process::{Command, ExitStatus};

use burn_apb::ranks::RANK_FAILED;

use crate::error::CliError;

/// Start N processes of a command on this machine, each with torchrun's variables, under mpirun
///
/// Every process has RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. When one fails all are
/// ended; the exit code is 4 when a rank was lost.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Processes to start
    #[arg(short, long = "processes", value_name = "N")]
    n: NonZeroUsize,
    /// What each of them runs, for example: apb generate --method apb ..
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), CliError> {
    if cfg!(not(feature = "mpi")) {
        return Err(CliError::environment(
            "this build has no MPI, over which the processes would exchange; install one (Debian: \
             libopenmpi-dev openmpi-bin libclang-dev) and build with `cargo install --path . \
             --features mpi`",
        ));
    }
    let port = free_port()?;
    let mut mpirun = Command::new("mpirun");
    // More processes than cores are the user's choice, and so is root. Other MPIs than Open MPI have no
    // such limits and ignore the variables.
    mpirun
        .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", port.to_string())
        .env("WORLD_SIZE", args.n.to_string());
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
    match exit_code(status) {
        0 => Ok(()),
        // What failed has said so itself.
        code => std::process::exit(code),
    }
}

/// The command's own exit code; that of a lost rank when one was ended by a signal or fell over.
fn exit_code(status: ExitStatus) -> i32 {
    /// A command that a shell cannot find.
    const NOT_FOUND: i32 = 127;
    match status.code() {
        Some(code @ (0..=5 | NOT_FOUND)) => code,
        _ => RANK_FAILED,
    }
}

/// A port of this machine that nobody listens at now.
fn free_port() -> Result<u16, CliError> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0));
    let address = listener.and_then(|listener| listener.local_addr());
    let address = address.map_err(|e| CliError::environment(format!("no port is free: {e}")))?;
    Ok(address.port())
}

/// mpirun ends its processes when it is asked to end, and the system asks it to when this process is
/// gone: no rank is left behind.
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

/// Has the system give this process the ranks that mpirun leaves behind.
fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    // SAFETY: a request about this process alone, without pointers.
    unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
    }
}

/// Waits until every rank is gone, which mpirun does not; kills what is still there after a while.
fn end_orphans() {
    #[cfg(target_os = "linux")]
    {
        use std::time::{Duration, Instant};

        /// What an ending process may take to give its memory back.
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
