//! Ranks, the processes that drive them, and the collectives between them.
//!
//! A *rank* owns a block of the document. A *process* drives one or more ranks: all of them on a
//! laptop, one on each GPU of a cluster. Methods are written against a [`RankGroup`], which holds
//! the ranks that this process drives and moves tensors between ranks; between processes it uses a
//! [`Transport`]. Virtual ranks in one process and ranks on many machines are therefore one code
//! path: a process alone is a [`World`] of one, and its collectives copy nothing. Which ranks a process drives, where
//! it drives several, is their [`RankOrder`].
//!
//! | transport | ranks are |
//! |---|---|
//! | [`Local`] | all in this process, driven one after the other |
//! | [`RankGroup::alone`] | one here, the others absent: they send zeros, so that one rank can be measured |
//! | [`threads()`] | driven by threads of this process |
//! | MPI (feature `mpi`) | driven by the processes that mpirun, srun or `apb launch` started: [`World`] |
//! | NCCL (feature `nccl`) | driven by processes with a GPU each, started by any of those or by torchrun |
//!
//! Between processes every wait has a timeout, and a process that dies, stops, is late or does
//! something else becomes a [`RankError`] on all others that names it.

#![cfg_attr(
    not(all(feature = "mpi", feature = "nccl-engine")),
    allow(
        dead_code,
        unused_imports,
        reason = "some functions serve one of the two engines"
    )
)]

mod alone;
mod environment;
mod error;
mod group;
mod local;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl-engine")]
mod nccl;
mod options;
mod order;
mod rendezvous;
mod step;
mod tcp;
mod threads;
mod transport;
mod watch;
mod world;

pub use environment::{Environment, Launcher};
pub use error::RankError;
pub use group::{PendingGather, PendingShift, RankGroup};
pub use local::Local;
#[cfg(feature = "nccl-engine")]
pub use nccl::version as nccl_version;
pub use options::{JoinOptions, OnFailure, TransportKind};
pub use order::{RankOrder, Ranks};
pub use rendezvous::TOKEN_VARIABLE;
pub use step::{Operation, Peer, Step};
pub use threads::{Threads, threads};
pub use transport::{Ticket, Transport};
pub use world::{FailureReporter, World};

pub(crate) use step::host;
