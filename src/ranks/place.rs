//! Where an exchange stands, and who takes part in it.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// What processes do together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Operation {
    /// Every process gives the same amount to all: APB's passing blocks.
    AllGather,
    /// Each gives its own to the next: a step of the ring.
    Shift,
    /// Each gives every other something of its own: Ulysses.
    AllToAll,
    /// Partial attention outputs of rows that follow the document, with their normalisers.
    GatherPartials,
    /// One gives the same to all: tokens.
    Broadcast,
    /// One gives each its own: the document.
    Scatter,
    /// Processes compare what they were started with, or how far they came.
    Agree,
}

impl Operation {
    /// All of them.
    #[cfg(feature = "mpi")]
    const ALL: [Self; 7] = [
        Self::AllGather,
        Self::Shift,
        Self::AllToAll,
        Self::GatherPartials,
        Self::Broadcast,
        Self::Scatter,
        Self::Agree,
    ];

    /// The name used in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::AllGather => "all-gather",
            Self::Shift => "ring shift",
            Self::AllToAll => "all-to-all",
            Self::GatherPartials => "gather of partial outputs",
            Self::Broadcast => "broadcast",
            Self::Scatter => "scatter",
            Self::Agree => "agreement",
        }
    }
}

/// One exchange among all that a group makes, in the same order on every process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Exchanges are counted from 0.
    pub exchange: u64,
    /// What is done.
    pub operation: Operation,
    /// The decoder layer, where it belongs to one.
    pub layer: Option<usize>,
    /// Bytes that this process receives.
    pub bytes: u64,
}

impl Place {
    /// Bytes of a [`stamp`](Self::stamp).
    #[cfg(feature = "mpi")]
    pub(crate) const STAMP: usize = 16;

    /// What goes in front of every message, so that none is taken for another's: two processes that
    /// make different collectives at the same time may well exchange something.
    #[cfg(feature = "mpi")]
    pub(crate) fn stamp(&self) -> [u8; Self::STAMP] {
        // Layers are counted from 1 here; a message that was never written is all zeros.
        let layer = self.layer.map_or(0, |layer| layer as u32 + 1);
        let mut stamp = [0; Self::STAMP];
        stamp[..8].copy_from_slice(&self.exchange.to_le_bytes());
        stamp[8..12].copy_from_slice(&layer.to_le_bytes());
        stamp[12] = self.operation as u8 + 1;
        stamp
    }

    /// What a stamp that is not this place's says.
    #[cfg(feature = "mpi")]
    pub(crate) fn read_stamp(stamp: &[u8]) -> String {
        let number = |range: Range<usize>| {
            let bytes = stamp.get(range).unwrap_or_default();
            bytes
                .iter()
                .rev()
                .fold(0u64, |all, byte| all << 8 | u64::from(*byte))
        };
        let of = |operation: &&Operation| u64::from(**operation as u8) + 1 == number(12..13);
        let Some(operation) = Operation::ALL.iter().find(of) else {
            return "another message or none".into();
        };
        let layer = match number(8..12) {
            0 => String::new(),
            layer => format!(" of layer {}", layer - 1),
        };
        format!("{}{layer} (exchange {})", operation.name(), number(0..8))
    }

    /// Whether two processes that speak of the same exchange mean the same by it. Bytes may differ:
    /// blocks do.
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.exchange != other.exchange
            || (self.operation == other.operation && self.layer == other.layer)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.operation.name())?;
        if let Some(layer) = self.layer {
            write!(f, " of layer {layer}")?;
        }
        write!(f, " (exchange {}, {} bytes)", self.exchange, self.bytes)
    }
}

/// A process of the group, as messages name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Counted from 0.
    pub process: usize,
    /// The ranks that it drives.
    pub ranks: Range<usize>,
    /// The machine it runs on; empty within one process.
    pub host: String,
    /// Its number there.
    pub pid: u32,
}

impl Peer {
    /// A driver of one rank within this process.
    pub fn here(process: usize) -> Self {
        Self {
            process,
            ranks: process..process + 1,
            host: String::new(),
            pid: std::process::id(),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ranks.len() {
            1 => write!(f, "rank {}", self.ranks.start)?,
            _ => write!(
                f,
                "ranks {} to {}",
                self.ranks.start,
                self.ranks.end.saturating_sub(1)
            )?,
        }
        match self.host.is_empty() {
            true => Ok(()),
            false => write!(f, " (host {}, pid {})", self.host, self.pid),
        }
    }
}

/// Peers in a sentence.
pub(crate) fn list(peers: &[Peer]) -> String {
    let names: Vec<String> = peers.iter().map(ToString::to_string).collect();
    match names.is_empty() {
        true => "a rank".into(),
        false => names.join(" and "),
    }
}
