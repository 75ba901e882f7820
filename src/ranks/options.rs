//! How processes connect.

use std::time::Duration;

use super::{Peer, RankError};

/// Called with this process and the error, possibly on another thread, before the process ends with
/// [`RANK_FAILED`](super::RANK_FAILED).
pub type OnFailure = Box<dyn Fn(&Peer, &RankError) + Send>;

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
    /// Called with the error before the process ends because another was lost.
    pub on_failure: OnFailure,
}

/// Least time that processes have to start, however short the timeout: MPI alone may take seconds on a
/// busy machine.
const LEAST_START: Duration = Duration::from_secs(60);

/// The timeout where none is given.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

impl Default for JoinOptions {
    /// A minute, this machine only, MPI; a failure is printed.
    fn default() -> Self {
        Self {
            timeout: DEFAULT_TIMEOUT,
            rendezvous: None,
            transport: TransportKind::default(),
            on_failure: Box::new(|peer, error| eprintln!("{peer}: {error}")),
        }
    }
}

impl JoinOptions {
    /// Time that processes have to start.
    pub(super) fn start_timeout(&self) -> Duration {
        self.timeout.max(LEAST_START)
    }
}
