//! The transport suite, and the faults of NCCL itself.

use std::process::Command;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use burn_apb::ranks::{Environment, JoinOptions, RankError, RankOrder, World};

use crate::launcher::{join, options, task, task_with};
use crate::{faults, suite};

/// Ranks a process, in each order.
const SHARES: [(RankOrder, [usize; 2]); 2] =
    [(RankOrder::InOrder, [1, 2]), (RankOrder::Folded, [2, 3])];
/// Processes that connect, but for one.
const RANKS: usize = 3;

/// One process of the suite.
pub fn process(environment: &Environment) {
    let world = join(environment);
    let processes = world.processes();
    for (order, shares) in SHARES {
        let group = |each| {
            let group = world.group(processes * each).expect("even");
            group.with_order(order)
        };
        suite::run(&Device::flex(), group, processes, &shares);
    }
    world.leave().expect("left");
    println!("process {} done", world.process());
}

/// Runs a task to its good end.
pub fn run(mut command: Command, processes: usize) {
    let done = command.output().expect("it starts");
    let stdout = String::from_utf8_lossy(&done.stdout);
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "{processes} processes:\n{stdout}{stderr}"
    );
    for process in 0..processes {
        let line = format!("process {process} done");
        assert!(stdout.contains(&line), "{stdout}{stderr}");
    }
}

/// Work of other streams comes early or late, and is waited for by events alone.
#[test]
fn every_exchange() {
    for (processes, seed) in [(1, "1"), (2, "2"), (4, "3"), (8, "4")] {
        let mut command = task(processes, "suite");
        command.env("STAND_IN_JITTER", seed);
        run(command, processes);
    }
}

/// Drivers without events of a context: the host waits.
#[test]
fn every_exchange_with_an_old_driver() {
    let mut command = task(3, "suite");
    command
        .env("STAND_IN_JITTER", "5")
        .env("STAND_IN_DRIVER", "12040");
    run(command, 3);
}

/// Where an event of the context is not recorded, or not waited for, exchanges are wrong: the tests above would see it.
#[test]
fn an_order_that_is_missing() {
    for (fault, seed) in [("record", "6"), ("wait", "7")] {
        let mut command = task(2, "suite");
        command
            .env("STAND_IN_JITTER", seed)
            .env("STAND_IN_CUDA_FAULT", fault);
        let done = command.output().expect("it starts");
        assert!(!done.status.success(), "{fault}");
    }
}

/// A rank whose transfers come late, and not too late.
#[test]
fn a_rank_that_is_late() {
    run(task_with(3, "suite", Some("late:1:2:500,late:2:5:300")), 3);
}

/// One process of those that NCCL does not connect.
pub fn connect(environment: &Environment) {
    let refused = World::join(environment, options(environment)).expect_err("a fault");
    println!("process {} got {refused}", environment.process);
}

/// NCCL does not connect a rank: the others name it, and do not wait until the time to connect is over.
#[test]
fn a_rank_that_nccl_does_not_connect() {
    for rank in 0..RANKS {
        let fault = format!("init-error:{rank}");
        let started = Instant::now();
        let mut command = task_with(RANKS, "connect", Some(&fault));
        let done = command.output().expect("it starts");
        assert!(started.elapsed() < Duration::from_secs(60), "{fault}");
        let stdout = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "{fault}: {stdout}");
        for process in 0..RANKS {
            let (_, line) = (stdout.split_once(&format!("process {process} got ")))
                .unwrap_or_else(|| panic!("{fault}: process {process}: {stdout}"));
            let message = line.lines().next().unwrap_or_default();
            let expected = match process == rank {
                true => "a fault that was asked for".to_owned(),
                false => format!("rank {rank} (host"),
            };
            assert!(message.contains(&expected), "{fault}: {message}");
        }
    }
}

/// One process of those that join, the last in another order than the others.
pub fn join_in_orders(environment: &Environment) {
    let rank_order = match environment.process == RANKS - 1 {
        true => RankOrder::Folded,
        false => RankOrder::InOrder,
    };
    let options = JoinOptions {
        rank_order,
        ..options(environment)
    };
    let refused = World::join(environment, options).expect_err("another order");
    let RankError::Differs { peer, what, .. } = &refused else {
        panic!("{refused}");
    };
    assert_eq!((peer.process, what.as_str()), (RANKS - 1, "rank order"));
    println!("process {} done", environment.process);
}

#[test]
fn a_rank_order_that_differs_is_named_by_all() {
    run(task(RANKS, "orders"), RANKS);
}

macro_rules! faults {
    ($($name:ident: $kind:literal, $expected:literal, $cause:ident;)*) => {$(
        #[test]
        fn $name() {
            faults::check($kind, $expected, faults::Cause::$cause);
        }
    )*};
}

faults! {
    an_asynchronous_error: "nccl-async", "NCCL", Unknown;
    an_asynchronous_error_of_the_system: "nccl-system", "NCCL", Unknown;
    a_group_that_hangs: "nccl-hang", "", Named;
    aborts_that_never_return: "nccl-hang-abort", "", Named;
    a_call_that_never_returns: "nccl-hang-call", "", Named;
    transfers_that_are_too_late: "nccl-late", "", Named;
    killed_in_a_call: "nccl-die", "ended", Named;
    killed_and_noticed_by_nccl: "nccl-noticed", "ended", Named;
}
