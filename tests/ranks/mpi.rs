//! Ranks as processes: this very program, started again by mpirun.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use burn_apb::ranks::{Environment, JoinOptions, World};

use crate::suite;

/// Set where this program was started by mpirun; names the task.
pub const TASK: &str = "APB_TEST_TASK";

/// Starts the test `process` of this program as `processes` processes, with a task for them.
fn mpirun(processes: usize, task: &str) -> Output {
    let program: PathBuf = std::env::current_exe().expect("this program");
    Command::new("mpirun")
        .args(["-n", &processes.to_string()])
        .arg(program)
        .args(["--exact", "mpi::process", "--nocapture", "--test-threads=1"])
        .env(TASK, task)
        // More ranks than cores, and as root in containers.
        .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .output()
        .expect("mpirun starts; on Debian it is in openmpi-bin")
}

/// One process of those that [`mpirun`] started; nothing in an ordinary run of the tests.
#[test]
fn process() {
    let Ok(task) = std::env::var(TASK) else {
        return;
    };
    let environment = Environment::detect()
        .expect("numbers")
        .expect("started by mpirun");
    let options = JoinOptions {
        timeout: Duration::from_secs(20),
        ..JoinOptions::default()
    };
    let mut world = World::join(&environment, options).expect("joined");
    match task.as_str() {
        "suite" => {
            let processes = world.processes();
            suite::run(
                |each| world.group(processes * each).expect("even"),
                processes,
            );
        }
        other => panic!("no task {other}"),
    }
    let all = world
        .talk(serde_json::json!(world.process()))
        .expect("heard");
    assert_eq!(
        all,
        (0..world.processes())
            .map(|p| serde_json::json!(p))
            .collect::<Vec<_>>()
    );
    println!("process {} done", world.process());
    world.leave().expect("left");
}

#[test]
fn transport() {
    for processes in [1, 2, 3, 4] {
        let done = mpirun(processes, "suite");
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
