//! What the rendezvous and the links between processes share: JSON lines, tokens, and a listener with a
//! timeout.

use std::io::{BufRead, Error, ErrorKind, Read, Result};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// Longest line that is read, in bytes: a directory entry has about 150, the selections of a trace may
/// have some millions.
const MAX_LINE_BYTES: u64 = 1 << 26;
/// Bytes of a token.
const TOKEN_BYTES: usize = 32;
/// Time that a new connection has to send its first line.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between two attempts to connect or accept.
pub(super) const POLL: Duration = Duration::from_millis(5);

/// A value as one line of JSON.
pub(super) fn encode_line(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// The value of the next line; none at the end, or where the line is something else.
pub(super) fn read_line<T: DeserializeOwned>(from: &mut impl BufRead) -> Option<T> {
    let mut line = Vec::new();
    let mut limited = from.by_ref().take(MAX_LINE_BYTES);
    limited.read_until(b'\n', &mut line).ok()?;
    line.ends_with(b"\n").then_some(())?;
    serde_json::from_slice(&line).ok()
}

/// A random token, in hexadecimal.
pub(super) fn new_token() -> String {
    let token: [u8; TOKEN_BYTES] = rand::random();
    token.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares tokens by their hashes, so that the time it takes is independent of the token.
pub(super) fn same_token(found: &str, expected: &str) -> bool {
    Sha256::digest(found.as_bytes()) == Sha256::digest(expected.as_bytes())
}

/// Accepts connections of the processes from `first` on, until each slot from there on is filled with
/// what `handshake` returns beside the process; connections for which it returns none are dropped.
/// [`ErrorKind::TimedOut`] names a process that is missing at the end of the timeout.
pub(super) fn accept_all<T>(
    listener: &TcpListener,
    timeout: Duration,
    slots: &mut [Option<T>],
    first: usize,
    handshake: impl Fn(TcpStream) -> Option<(usize, T)>,
) -> Result<()> {
    let started = Instant::now();
    listener.set_nonblocking(true)?;
    while let Some(missing) = slots.iter().skip(first).position(Option::is_none) {
        if started.elapsed() >= timeout {
            let process = first + missing;
            let reason = format!("process {process} did not connect within {timeout:?}");
            return Err(Error::new(ErrorKind::TimedOut, reason));
        }
        match listener.accept() {
            Ok((stream, _)) => {
                let prepared = (stream.set_nonblocking(false))
                    .and_then(|()| stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT)))
                    .and_then(|()| stream.set_write_timeout(Some(HANDSHAKE_TIMEOUT)));
                if prepared.is_ok()
                    && let Some((process, value)) = handshake(stream)
                    && process >= first
                    && let Some(slot @ None) = slots.get_mut(process)
                {
                    *slot = Some(value);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(POLL),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
