//! This very program, started again as several processes.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use burn_apb::ranks::{Environment, JoinOptions, TransportKind, World};

use crate::{faults, methods, overlap, products, transport};

/// The folder with the stand-ins' libraries.
const FOLDER: &str = "APB_STAND_INS";
/// Set where this program was started by a test; names the task.
const TASK: &str = "APB_TEST_TASK";
/// How many processes the launcher starts.
const PROCESSES: &str = "APB_TEST_PROCESSES";
/// Set to change a byte of every transfer: every test that compares values must fail.
const SPOIL: &str = "APB_TEST_SPOIL";
/// Longest wait for another process in these tests.
pub const TIMEOUT: Duration = Duration::from_secs(4);
/// The group of NCCL calls with a fault: that of the third layer, after which [`faults`] marks the time.
const FAULTY_CALL: usize = 4;
/// What the last processes have to end once one has failed.
const GRACE: Duration = Duration::from_secs(4 + 4);

/// Starts a task as several processes.
pub fn task(processes: usize, task: &str) -> Command {
    task_with(processes, task, None)
}

/// The same with faults of the stand-in for NCCL.
pub fn task_with(processes: usize, task: &str, faults: Option<&str>) -> Command {
    let folder = std::env::var_os(FOLDER).expect("scripts/test-nccl, which sets APB_STAND_INS");
    let mut command = this("launcher::launch");
    command
        .env(TASK, task)
        .env(PROCESSES, processes.to_string())
        .env("LD_LIBRARY_PATH", folder)
        .env("RUST_BACKTRACE", "0");
    let spoil = std::env::var_os(SPOIL).map(|_| "spoil:0");
    let faults: Vec<&str> = spoil.into_iter().chain(faults).collect();
    command.env("STAND_IN_NCCL_FAULT", faults.join(","));
    command
}

fn this(test: &str) -> Command {
    let program: PathBuf = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args([
        "--exact",
        test,
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    command
}

/// Starts the processes and waits for them. Once one has failed, those that do not end are killed.
#[test]
#[ignore = "started by the other tests"]
fn launch() {
    let processes: usize = std::env::var(PROCESSES)
        .expect("a number")
        .parse()
        .expect("a number");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let fault = nccl_fault(&std::env::var(TASK).expect("a task"), processes);
    let start = |process: usize| {
        let mut command = this("launcher::process");
        command.envs(fault.iter().map(|(name, value)| (name, value)));
        command
            .env("RANK", process.to_string())
            .env("LOCAL_RANK", process.to_string())
            .env("WORLD_SIZE", processes.to_string())
            .env("MASTER_ADDR", Ipv4Addr::LOCALHOST.to_string())
            .env("MASTER_PORT", port.to_string());
        command.spawn().expect("a process")
    };
    let mut running: Vec<Child> = (0..processes).map(start).collect();
    let mut failed: Option<Instant> = None;
    while !running.is_empty() {
        running.retain_mut(|child| match child.try_wait().expect("a child") {
            None => true,
            Some(status) => {
                if !status.success() {
                    failed.get_or_insert_with(Instant::now);
                }
                false
            }
        });
        if failed.is_some_and(|since| since.elapsed() > GRACE) {
            for child in &mut running {
                // It may have ended.
                let _ = child.kill();
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(failed.is_none(), "a process failed");
}

/// The variables of the fault of NCCL itself that a task asks for: of `fault nccl-hang 2 ..`, that of rank 2 in the middle
/// of its prefill.
fn nccl_fault(task: &str, processes: usize) -> Vec<(&'static str, String)> {
    let fault = || {
        let (kind, rest) = task.strip_prefix("fault nccl-")?.split_once(' ')?;
        let rank: usize = rest.split(' ').next()?.parse().ok()?;
        Some((kind, rank))
    };
    let Some((kind, rank)) = fault() else {
        return Vec::new();
    };
    let of = |kind: &str| format!("{kind}:{rank}:{FAULTY_CALL}");
    let faults = match kind {
        "system" => of("async") + ":system",
        "late" => of("late") + ":20000",
        "noticed" => of("die"),
        "hang-abort" => {
            let others = (0..processes).filter(|other| *other != rank);
            let aborts = others.map(|other| format!("hang-abort:{other}"));
            aborts.chain([of("hang")]).collect::<Vec<_>>().join(",")
        }
        kind => of(kind),
    };
    let mut variables = vec![("STAND_IN_NCCL_FAULT", faults)];
    if kind == "noticed" {
        variables.push(("STAND_IN_NCCL_NOTICE", "1".into()));
    }
    variables
}

/// The transport of process `process`, each with a GPU of its own.
pub fn transport_kind(environment: &Environment) -> TransportKind {
    TransportKind::Nccl {
        device: environment.local_process,
    }
}

/// A world whose timeout is no part of a test.
pub fn join(environment: &Environment) -> World {
    World::join(environment, options(environment)).expect("joined")
}

/// How [`join`] joins.
pub fn options(environment: &Environment) -> JoinOptions {
    JoinOptions {
        timeout: Duration::from_secs(60),
        transport: transport_kind(environment),
        ..JoinOptions::default()
    }
}

/// One process of those that [`launch`] started.
#[test]
#[ignore = "started by the launcher"]
fn process() {
    let task = std::env::var(TASK).expect("a task");
    let environment = Environment::detect().expect("numbers").expect("a rank");
    let mut words = task.split(' ');
    let (kind, rest) = (words.next().unwrap_or_default(), task.split_once(' '));
    let rest = rest.map_or("", |(_, rest)| rest);
    match kind {
        "suite" => transport::process(&environment),
        "connect" => transport::connect(&environment),
        "orders" => transport::join_in_orders(&environment),
        "methods" => methods::process(&environment, rest),
        "products" => products::process(&environment),
        "copies" => products::between_copies(),
        "test" => products::test(),
        "overlap" => overlap::process(&environment, rest),
        "library" => faults::process_that_lives_on(&environment, rest.as_ref()),
        "fault" => faults::process(&environment, rest),
        other => panic!("no task {other}"),
    }
}
