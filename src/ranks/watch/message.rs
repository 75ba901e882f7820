//! Messages between processes beside the tensors: one JSON object a line.

use std::io::{BufRead, Write};
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ranks::Step;
use crate::ranks::tcp::{encode_line, read_line};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// The first message of a link.
    Hello { process: usize, token: String },
    /// The sender lives, and its last step is this.
    Heartbeat { step: Option<Step> },
    /// The sender's value in a gather of values.
    Value { round: u64, value: Value },
    /// The sender cannot go on, or (`of_others`) found that others cannot.
    Failed { reason: String, of_others: bool },
    /// The sender has the failure, and this is what it knows of it: it may end before the process that
    /// failed is heard.
    Acknowledged { reason: Option<String> },
    /// The sender is done and needs no other process any more.
    Leave,
}

/// Writes a message. After an error the link is not written to again.
pub(super) fn send(link: &Mutex<Option<TcpStream>>, message: &Message) {
    // Messages are plain data, which JSON always holds.
    let line = encode_line(message).unwrap_or_default();
    let mut link = link.lock().unwrap_or_else(PoisonError::into_inner);
    let sent = link.as_mut().map(|stream| stream.write_all(&line));
    if let Some(Err(_)) = sent {
        // Half a line may have been sent. Whether the peer lives is decided by its own messages.
        *link = None;
    }
}

/// The next message; none at the end of the link or where the line is something else.
pub(super) fn receive(from: &mut impl BufRead) -> Option<Message> {
    read_line(from)
}
