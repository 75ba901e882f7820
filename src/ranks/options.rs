//! How processes connect.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::{Peer, RankError, RankOrder};

/// Called with this process and the error when another is lost. `Break` with an exit code ends this process, as
/// [`World::exit`](super::World::exit) does.
pub type OnFailure = Box<dyn Fn(&Peer, &RankError) -> ControlFlow<i32> + Send>;

/// The library that moves tensors between processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportKind {
    /// MPI, through the host's memory (feature `mpi`).
    #[default]
    Mpi,
    /// NCCL, from GPU to GPU (feature `nccl`). The rendezvous is at `MASTER_ADDR:MASTER_PORT`; where that
    /// is not loopback, `APB_RANK_TOKEN` holds a secret that all processes share.
    Nccl {
        /// The GPU of this process, which no other process uses.
        device: usize,
    },
}

/// How processes connect, and their timeout.
pub struct JoinOptions {
    /// Timeout of a collective, and longest time without a heartbeat.
    pub timeout: Duration,
    /// An address of the network between the machines, such as the first one's; none where all processes
    /// are on this machine.
    pub rendezvous: Option<String>,
    /// The library that moves tensors between the processes.
    pub transport: TransportKind,
    /// Which ranks each process drives; the same on all processes.
    pub rank_order: RankOrder,
    /// Called once, on a thread of its own, as soon as a process is lost. The calls that wait for it return the
    /// same error, and a prefill or an answer under way ends with it.
    pub on_failure: Option<OnFailure>,
    /// Set by a program that was asked to end. Launchers send SIGTERM to all processes once one has failed: with a
    /// handler that sets this instead of ending, the process learns within half a second which one that was. If
    /// none is found to be lost, it reports to the others that it ends.
    pub terminated: Arc<AtomicBool>,
}

/// Least time that processes have to start, however short the timeout: MPI alone may take seconds on a
/// busy machine.
const LEAST_START: Duration = Duration::from_secs(60);

/// The timeout where none is given.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

impl Default for JoinOptions {
    /// A minute, this machine only, MPI, ranks in order; nothing is called.
    fn default() -> Self {
        Self {
            timeout: DEFAULT_TIMEOUT,
            rendezvous: None,
            transport: TransportKind::default(),
            rank_order: RankOrder::default(),
            on_failure: None,
            terminated: Arc::default(),
        }
    }
}

impl JoinOptions {
    /// Time that processes have to start.
    pub(super) fn start_timeout(&self) -> Duration {
        self.timeout.max(LEAST_START)
    }
}
