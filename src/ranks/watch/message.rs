//! What processes say to each other beside the tensors: one JSON object a line.

use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ranks::Place;

/// Longest line that is read, in bytes; a fingerprint takes a few hundred, the selections of a trace may
/// take some millions.
const MAX_LINE_BYTES: u64 = 1 << 26;

/// What one process tells another.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// I am process so-and-so of this group.
    Hello { process: usize, token: String },
    /// I live, and stand here.
    Beat { place: Option<Place> },
    /// My word in a round of talks.
    Say { round: u64, value: Value },
    /// I cannot go on, or (`of_others`) I found that others cannot.
    Failed { reason: String, of_others: bool },
    /// I know that we cannot go on, and have said so.
    Heard,
    /// I am done and need nobody any more.
    Leave,
}

/// Writes a message; a link that takes no more is left alone from then on.
pub(super) fn send(link: &Mutex<Option<TcpStream>>, message: &Message) {
    // Messages are plain data, which JSON always holds.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    let mut link = link.lock().unwrap_or_else(PoisonError::into_inner);
    let sent = link.as_mut().map(|stream| stream.write_all(&line));
    if let Some(Err(_)) = sent {
        // Half a line may be out; whether the peer lives is for its own messages to show.
        *link = None;
    }
}

/// The next message; none at the end of the link or when it holds something else.
pub(super) fn receive(from: &mut impl BufRead) -> Option<Message> {
    let mut line = Vec::new();
    let read = from
        .by_ref()
        .take(MAX_LINE_BYTES)
        .read_until(b'\n', &mut line);
    match read {
        Ok(count) if count > 0 && line.ends_with(b"\n") => serde_json::from_slice(&line).ok(),
        _ => None,
    }
}
