//! What can go wrong between ranks.

use std::time::Duration;

use super::place::{Peer, Place, list};

/// The exit code of a process that ends because a rank failed.
pub const RANK_FAILED: i32 = 4;

/// Why ranks could not go on together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RankError {
    /// The ranks cannot be shared out evenly.
    #[error("{ranks} ranks cannot be shared out evenly over {processes} processes; use a multiple")]
    Uneven {
        /// All ranks.
        ranks: usize,
        /// Processes that drive them.
        processes: usize,
    },
    /// Processes that live did not take part in time.
    #[error(
        "{} did not take part in the {at} within {:.1} s: alive, but {doing}; a slow rank may need a \
         longer --timeout",
        list(.peers), .waited.as_secs_f64()
    )]
    Timeout {
        /// The ones that are missing.
        peers: Vec<Peer>,
        /// Where they were waited for.
        at: Place,
        /// How long.
        waited: Duration,
        /// What is known of them.
        doing: String,
    },
    /// Nothing is heard of processes any more: they were stopped, or their machine or link is down.
    #[error(
        "nothing was heard of {} for {:.1} s (stopped, or its machine or link is down), {}",
        list(.peers), .silence.as_secs_f64(), during(.at.as_ref())
    )]
    Silent {
        /// The ones that are silent.
        peers: Vec<Peer>,
        /// Where this process stood.
        at: Option<Place>,
        /// Since they were heard last.
        silence: Duration,
    },
    /// A process ended while others needed it.
    #[error("{peer} ended, {}", during(.at.as_ref()))]
    Gone {
        /// The one that ended.
        peer: Box<Peer>,
        /// Where this process stood.
        at: Option<Place>,
    },
    /// Two processes are not at the same point of the same computation.
    #[error(
        "{peer} is at {found}, expected {expected}, {}; do all ranks run the same command?",
        during(.at.as_ref())
    )]
    Mismatch {
        /// The one that is elsewhere.
        peer: Box<Peer>,
        /// Where this process stood.
        at: Option<Place>,
        /// What this process expected.
        expected: String,
        /// What the other does or sent.
        found: String,
    },
    /// Two processes were started with something different.
    #[error(
        "{peer} differs from {other} in {what}: expected {expected}, found {found}; start all ranks \
         with the same command, model and crate version"
    )]
    Differs {
        /// The one that differs.
        peer: Box<Peer>,
        /// From whom.
        other: Box<Peer>,
        /// In what.
        what: String,
        /// What the other has.
        expected: String,
        /// What it has.
        found: String,
    },
    /// A process said that it cannot go on.
    #[error("{peer} failed: {reason}")]
    Failed {
        /// The one that said it.
        peer: Box<Peer>,
        /// Its reason.
        reason: String,
    },
    /// Another process found that ranks are lost.
    #[error("{by} reports: {reason}; this was heard {}", during(.at.as_ref()))]
    Reported {
        /// Who found it.
        by: Box<Peer>,
        /// What it found.
        reason: String,
        /// Where this process stood.
        at: Option<Place>,
    },
    /// The library that moves tensors failed.
    #[error("the {at} failed: {reason}")]
    Engine {
        /// What was to be done.
        at: Place,
        /// What the library said.
        reason: String,
    },
    /// The device could not give back or take a tensor.
    #[error("the device failed during the {at}: {reason}")]
    Device {
        /// What was to be done.
        at: Place,
        /// What the backend said.
        reason: String,
    },
    /// The processes did not find each other.
    #[error("the ranks could not be connected: {reason}")]
    Connect {
        /// Why, and what to do.
        reason: String,
    },
    /// A variable that a launcher sets says something impossible.
    #[error(
        "the environment's {name} is `{found}`, expected {expected}; start the ranks with `apb launch`, mpirun or srun"
    )]
    Environment {
        /// The variable.
        name: String,
        /// Its value.
        found: String,
        /// What it has to be.
        expected: String,
    },
    /// This build or machine lacks what moves tensors between processes.
    #[error("{reason}")]
    Unavailable {
        /// What is missing and how to get it.
        reason: String,
    },
}

/// Where this process stood, as a part of a sentence.
fn during(at: Option<&Place>) -> String {
    match at {
        Some(at) => format!("during the {at}"),
        None => "before the first exchange".into(),
    }
}
