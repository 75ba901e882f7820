//! A collective among all that a group makes, and the processes that take part in it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Ranks;

/// The kind of a collective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Operation {
    /// Every process sends the same amount to all: APB's passing blocks.
    AllGather,
    /// Each sends to the next: one step of the ring.
    Shift,
    /// Each sends every other a part of its own: Ulysses.
    AllToAll,
    /// Partial attention outputs of rows that follow the document, with their normalisers.
    GatherPartials,
    /// One sends the same to all: the document, tokens.
    Broadcast,
    /// Small values of every process to all: settings, progress, errors.
    GatherValues,
}

impl Operation {
    const ALL: [Self; 6] = [
        Self::AllGather,
        Self::Shift,
        Self::AllToAll,
        Self::GatherPartials,
        Self::Broadcast,
        Self::GatherValues,
    ];

    /// The name used in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::AllGather => "all-gather",
            Self::Shift => "ring shift",
            Self::AllToAll => "all-to-all",
            Self::GatherPartials => "gather of partial outputs",
            Self::Broadcast => "broadcast",
            Self::GatherValues => "gather of values",
        }
    }
}

/// One collective. All processes make the same steps in the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Counted from 0.
    pub index: u64,
    /// The kind of collective.
    pub operation: Operation,
    /// The decoder layer, where it belongs to one.
    pub layer: Option<usize>,
    /// Bytes that this process receives.
    pub bytes: u64,
}

impl Step {
    /// Bytes of a [`header`](Self::header).
    pub(crate) const HEADER: usize = 16;

    /// Precedes every message, so that none is taken for another step's: MPI may well deliver data
    /// between two processes that are in different collectives.
    pub(crate) fn header(&self) -> [u8; Self::HEADER] {
        // Layers and operations are counted from 1 here; a message that was never written is all zeros.
        let layer = self.layer.map_or(0, |layer| layer as u32 + 1);
        let mut header = [0; Self::HEADER];
        header[..8].copy_from_slice(&self.index.to_le_bytes());
        header[8..12].copy_from_slice(&layer.to_le_bytes());
        header[12] = self.operation as u8 + 1;
        header
    }

    /// Describes the step of a message whose header is not the expected one.
    pub(crate) fn describe_header(message: &[u8]) -> String {
        let operation =
            |code: u8| (Operation::ALL.iter()).find(|operation| **operation as u8 + 1 == code);
        if let Some(header) = message.first_chunk::<{ Self::HEADER }>()
            && let Some(operation) = operation(header[12])
        {
            let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *header;
            return Self {
                index: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
                operation: *operation,
                layer: (u32::from_le_bytes([i, j, k, l]) as usize).checked_sub(1),
                bytes: (message.len() - Self::HEADER) as u64,
            }
            .to_string();
        }
        "another message or none".into()
    }

    /// Whether two processes at the same index are in the same collective. Bytes may differ, as the
    /// lengths of blocks do.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        self.index != other.index
            || (self.operation == other.operation && self.layer == other.layer)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.operation.name())?;
        if let Some(layer) = self.layer {
            write!(f, " of layer {layer}")?;
        }
        write!(f, " (step {}, {} bytes)", self.index, self.bytes)
    }
}

/// A process of the group, as messages name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Counted from 0.
    pub process: usize,
    /// The ranks that it drives.
    pub ranks: Ranks,
    /// The machine it runs on; empty within one process.
    pub host: String,
    /// Its process id on that machine.
    pub pid: u32,
}

impl Peer {
    /// This process, or a thread of it that drives one rank.
    pub(crate) fn here(process: usize, host: String) -> Self {
        Self {
            process,
            ranks: (process..process + 1).into(),
            host,
            pid: std::process::id(),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ranks)?;
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

/// This machine's name.
pub(crate) fn host() -> String {
    /// Longest name there can be, with its terminator (`HOST_NAME_MAX`).
    const ROOM: usize = 65;
    #[cfg(unix)]
    {
        let mut name = [0u8; ROOM];
        // SAFETY: the system writes at most as many bytes as the buffer has.
        let failed = unsafe { libc::gethostname(name.as_mut_ptr().cast(), ROOM) };
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(ROOM);
        if failed == 0 && end > 0 {
            return String::from_utf8_lossy(&name[..end]).into_owned();
        }
    }
    "this machine".into()
}
