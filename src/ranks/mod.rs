//! Who computes what, and how ranks exchange tensors.
//!
//! A *rank* owns a block of the document. A *process* drives one or more ranks: all of them on a
//! laptop, one on each GPU of a cluster. Strategies are written against a [`RankGroup`], which knows
//! the ranks that this process drives and moves tensors between ranks; between processes it uses a
//! [`Transport`]. Virtual ranks in one process and ranks on many machines are therefore one code
//! path: with one process every exchange is a change of owner and copies nothing.
//!
//! | transport | ranks are |
//! |---|---|
//! | [`Local`] | all in this process, driven one after the other |
//! | [`threads()`] | driven by threads of this process |
//! | MPI (feature `mpi`) | driven by the processes that mpirun, srun or `apb launch` started: [`World`] |
//! | NCCL (feature `nccl`) | driven by processes with a GPU each, started by any of those or by torchrun |
//!
//! Between processes every wait has a deadline, and a process that dies, stops, is late or does
//! something else becomes a [`RankError`] on all others that names it.

mod environment;
mod error;
mod group;
mod local;
#[cfg_attr(
    not(feature = "nccl"),
    allow(dead_code, reason = "MPI's processes meet through MPI")
)]
mod meeting;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
mod place;
#[cfg_attr(
    not(any(feature = "mpi", feature = "nccl")),
    allow(dead_code, reason = "a build without an engine joins no processes")
)]
mod signal;
mod threads;
mod transport;
#[cfg_attr(
    not(any(feature = "mpi", feature = "nccl")),
    allow(dead_code, reason = "a build without an engine joins no processes")
)]
mod watch;
mod world;

pub use environment::{Environment, Launcher};
pub use error::{RANK_FAILED, RankError};
pub use group::{PendingGather, PendingShift, RankGroup};
pub use local::Local;
#[cfg(feature = "nccl")]
pub use nccl::version as nccl_version;
pub use place::{Operation, Peer, Place};
pub use signal::end_process;
pub use threads::{Threads, threads};
pub use transport::{Ticket, Transport};
pub use watch::OnFailure;
pub use world::{Exchange, JoinOptions, Voice, World};
