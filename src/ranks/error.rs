//! What can go wrong between ranks.

use std::time::Duration;

use super::step::{Operation, Peer, Step, list};
use crate::quoted::Quoted;

/// Why a collective, or the connection of processes, failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RankError {
    /// The ranks cannot be divided evenly over the processes.
    #[error("{ranks} ranks cannot be divided evenly over {processes} processes; use a multiple")]
    Uneven {
        /// All ranks.
        ranks: usize,
        /// Processes that drive them.
        processes: usize,
    },
    /// A rank that a group does not have.
    #[error("there is no rank {rank} of {ranks}; ranks count from 0")]
    NoSuchRank {
        /// The rank asked for.
        rank: usize,
        /// All ranks.
        ranks: usize,
    },
    /// Processes that live did not enter a collective in time.
    #[error(
        "{} did not take part in the {at} within {:.1} s: alive, but {doing}; a slow rank may need a \
         longer --timeout",
        list(.peers), .waited.as_secs_f64()
    )]
    Timeout {
        /// The processes that are missing.
        peers: Vec<Peer>,
        /// The collective.
        at: Step,
        /// Time waited.
        waited: Duration,
        /// The last steps of those processes.
        doing: String,
    },
    /// Processes send no heartbeats any more: they were stopped, or their machine or network is down.
    #[error(
        "no heartbeat from {} for {:.1} s (stopped, or its machine or network is down), {}",
        list(.peers), .silence.as_secs_f64(), during(.at.as_ref())
    )]
    Unresponsive {
        /// The processes without heartbeats.
        peers: Vec<Peer>,
        /// The last step of this process.
        at: Option<Step>,
        /// Time since their last message.
        silence: Duration,
    },
    /// A process ended before the others were done.
    #[error("{peer} ended, {}", during(.at.as_ref()))]
    Exited {
        /// The process that ended.
        peer: Box<Peer>,
        /// The last step of this process.
        at: Option<Step>,
    },
    /// Two processes are in different collectives.
    #[error(
        "{peer} is at {found}, expected {expected}, {}; do all ranks run the same command?",
        during(.at.as_ref())
    )]
    Mismatch {
        /// The other process.
        peer: Box<Peer>,
        /// The last step of this process.
        at: Option<Step>,
        /// What this process expected.
        expected: String,
        /// What the other process does or sent.
        found: String,
    },
    /// Two processes were started with different settings.
    #[error(
        "{peer} differs from {other} in {what}: expected {expected}, found {found}; start all ranks \
         with the same command, model and crate version"
    )]
    Differs {
        /// The process that differs.
        peer: Box<Peer>,
        /// One of the majority.
        other: Box<Peer>,
        /// The setting.
        what: String,
        /// The majority's value.
        expected: String,
        /// The process's value.
        found: String,
    },
    /// A process reported that it cannot go on.
    #[error("{peer} failed: {reason}")]
    Failed {
        /// That process.
        peer: Box<Peer>,
        /// Its reason.
        reason: String,
    },
    /// Another process found that a process is lost.
    #[error("{by} reports: {reason}; this arrived {}", during(.at.as_ref()))]
    Reported {
        /// The process that found it.
        by: Box<Peer>,
        /// What it found.
        reason: String,
        /// The last step of this process.
        at: Option<Step>,
    },
    /// Tensors that the collective cannot move.
    #[error("the {} of this process takes {expected}, found {found}", .operation.name())]
    Tensors {
        /// The kind of collective.
        operation: Operation,
        /// How many, of which shapes.
        expected: String,
        /// What was given.
        found: String,
    },
    /// The library that moves tensors failed.
    #[error("the {at} failed: {reason}")]
    Engine {
        /// The collective.
        at: Step,
        /// The library's message.
        reason: String,
    },
    /// A tensor could not be copied from or to the device.
    #[error("the device failed during the {at}: {reason}")]
    Device {
        /// The collective.
        at: Step,
        /// The backend's message.
        reason: String,
    },
    /// The processes could not be connected.
    #[error("the ranks could not be connected: {reason}")]
    Connect {
        /// Why, and what to do.
        reason: String,
    },
    /// A launcher's variable has an invalid value.
    #[error(
        "the environment's {name} is `{}`, expected {expected}; start the ranks with `apb launch`, mpirun or srun",
        Quoted(found)
    )]
    Environment {
        /// The variable.
        name: String,
        /// Its value.
        found: String,
        /// What it has to be.
        expected: String,
    },
    /// This build or machine has no library that moves tensors between processes.
    #[error("{reason}")]
    Unavailable {
        /// What is missing and how to install it.
        reason: String,
    },
}

/// The last step of this process, as a part of a sentence.
fn during(at: Option<&Step>) -> String {
    match at {
        Some(at) => format!("during the {at}"),
        None => "before the first step".into(),
    }
}
