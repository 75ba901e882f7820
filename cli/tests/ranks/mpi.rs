//! Ranks as processes: this very program, started again by mpirun.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use burn::tensor::Device;
use burn_apb::ranks::{Environment, JoinOptions, RankOrder, TransportKind, World};

use crate::{faults, suite};

/// Set where this program was started by mpirun; names the task.
const TASK: &str = "APB_TEST_TASK";
/// Longest wait for another process in these tests.
pub const TIMEOUT: Duration = Duration::from_secs(4);

/// mpirun with more processes than cores, and as root in containers.
pub fn mpirun(processes: usize) -> Command {
    let mut command = Command::new("mpirun");
    command
        .args(["-n", &processes.to_string()])
        .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command
}

/// Starts the test `process` of this program as several processes, with a task for them.
pub fn task(processes: usize, task: &str) -> Command {
    let program: PathBuf = std::env::current_exe().expect("this program");
    let mut command = mpirun(processes);
    command
        .arg(program)
        .args([
            "--exact",
            "mpi::process",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(TASK, task)
        .env("RUST_BACKTRACE", "0");
    command
}

/// What connects the processes.
pub fn transport_kind(_: &Environment) -> TransportKind {
    TransportKind::Mpi
}

/// One process of those that [`task`] started.
#[test]
#[ignore = "started by the other tests, as several processes"]
fn process() {
    let task = std::env::var(TASK).expect("a task");
    let environment = Environment::detect()
        .expect("numbers")
        .expect("started by mpirun");
    if let Some(folder) = task.strip_prefix("library ") {
        return faults::process_that_lives_on(&environment, folder.as_ref());
    }
    if let Some(fault) = task.strip_prefix("fault ") {
        return faults::process(&environment, fault);
    }
    let options = JoinOptions {
        timeout: Duration::from_secs(30),
        ..JoinOptions::default()
    };
    let mut world = World::join(&environment, options).expect("joined");
    let processes = world.processes();
    for (order, shares) in [(RankOrder::InOrder, [1, 2]), (RankOrder::Folded, [2, 3])] {
        let group = |each| {
            let group = world.group(processes * each).expect("even");
            group.with_order(order)
        };
        suite::run(&Device::flex(), group, processes, &shares);
    }
    let all = world.all_gather_values(world.process()).expect("gathered");
    assert_eq!(all, (0..processes).collect::<Vec<_>>());
    if processes > 1 {
        // A value of another type is refused with the first process that has one.
        let odd = match world.process() {
            1 => world.all_gather_values("text".to_owned()).err(),
            _ => world.all_gather_values(1).err(),
        };
        let named = odd.expect("a mismatch").to_string();
        let first = &world.peers()[usize::from(world.process() != 1)];
        assert!(named.contains(&first.to_string()), "{named}, not {first}");
    }
    println!("process {} done", world.process());
    world.leave().expect("left");
}

#[test]
fn transport() {
    for processes in [1, 2, 3, 4] {
        let done = task(processes, "suite").output();
        let done = done.expect("mpirun starts; on Debian it is in openmpi-bin");
        let stdout = String::from_utf8_lossy(&done.stdout);
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert!(
            done.status.success(),
            "{processes} processes:\n{stdout}{stderr}"
        );
        for process in 0..processes {
            assert!(
                stdout.contains(&format!("process {process} done")),
                "{stdout}{stderr}"
            );
        }
    }
}
