//! What can go wrong between ranks.

use std::time::Duration;

/// Why an exchange failed.
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
    /// A process did not take part in time.
    #[error("process {process} did not take part in exchange {exchange} within {waited:?}")]
    Timeout {
        /// The one that is missing.
        process: usize,
        /// Exchanges are counted from 0.
        exchange: u64,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A process ended while others needed it.
    #[error("process {process} ended before exchange {exchange}")]
    Gone {
        /// The one that ended.
        process: usize,
        /// Exchanges are counted from 0.
        exchange: u64,
    },
    /// Two processes are not at the same point of the same computation.
    #[error(
        "process {process} sent {found:?} in exchange {exchange}, expected {expected:?}; do all \
         processes have the same document, model and lengths?"
    )]
    Mismatch {
        /// The sender.
        process: usize,
        /// Exchanges are counted from 0.
        exchange: u64,
        /// Shape expected from it.
        expected: Vec<usize>,
        /// Shape received.
        found: Vec<usize>,
    },
}
