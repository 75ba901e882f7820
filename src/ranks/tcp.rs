//! What the rendezvous and the links between processes share: JSON lines, tokens, and a listener with a
//! timeout.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// Longest line that is read, in bytes: a directory entry has about 150, the selections of a trace may
/// have some millions.
const MAX_LINE_BYTES: u64 = 1 << 26;
/// Longest first line of a connection, in bytes: until it has shown the token, anyone may have sent it.
const MAX_HELLO_BYTES: u64 = 1 << 16;
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
    read_limited(from, MAX_LINE_BYTES)
}

/// As [`read_line`], of a connection that has to show the token with it: of a short line, and within `time`. No byte
/// behind the line is read.
pub(super) fn read_hello<T: DeserializeOwned>(stream: &TcpStream, time: Duration) -> Option<T> {
    let from = Timed::new(stream, time);
    read_limited(&mut BufReader::with_capacity(1, from), MAX_HELLO_BYTES)
}

fn read_limited<T: DeserializeOwned>(from: &mut impl BufRead, most: u64) -> Option<T> {
    let mut line = Vec::new();
    let mut limited = from.by_ref().take(most);
    limited.read_until(b'\n', &mut line).ok()?;
    line.ends_with(b"\n").then_some(())?;
    serde_json::from_slice(&line).ok()
}

/// A connection that is read for some time at most, however few bytes arrive at once.
pub(super) struct Timed<'s> {
    stream: &'s TcpStream,
    started: Instant,
    time: Duration,
}

impl<'s> Timed<'s> {
    pub(super) fn new(stream: &'s TcpStream, time: Duration) -> Self {
        Self {
            stream,
            started: Instant::now(),
            time,
        }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let left = self.time.saturating_sub(self.started.elapsed());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut stream = self.stream;
        stream.read(into)
    }
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
/// what `handshake`, which has so much time, returns beside the process; connections for which it returns
/// none are dropped.
/// [`ErrorKind::TimedOut`] names a process that is missing at the end of the timeout.
pub(super) fn accept_all<T>(
    listener: &TcpListener,
    timeout: Duration,
    slots: &mut [Option<T>],
    first: usize,
    handshake: impl Fn(TcpStream, Duration) -> Option<(usize, T)>,
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
                    .and_then(|()| stream.set_write_timeout(Some(HANDSHAKE_TIMEOUT)));
                let left = timeout.saturating_sub(started.elapsed());
                if prepared.is_ok()
                    && let Some((process, value)) = handshake(stream, left.min(HANDSHAKE_TIMEOUT))
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::Ipv4Addr;

    use super::*;

    /// What is read of a connection to which `write` writes.
    fn hello(time: Duration, write: impl FnOnce(TcpStream) + Send) -> Option<u32> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || write(TcpStream::connect(address).unwrap()));
            let (stream, _) = listener.accept().unwrap();
            read_hello(&stream, time)
        })
    }

    #[test]
    fn a_stranger_is_read_for_a_short_time_and_a_short_line() {
        let long = Duration::from_secs(20);
        let line = |mut stream: TcpStream, text: &str| {
            // The reader may have hung up.
            let _ = stream.write_all(text.as_bytes());
        };
        assert_eq!(hello(long, |stream| line(stream, "7\nrest")), Some(7));
        let text = format!("{}7\n", " ".repeat(MAX_HELLO_BYTES as usize));
        assert_eq!(hello(long, |stream| line(stream, &text)), None);
        let started = Instant::now();
        let slow = hello(Duration::from_millis(100), |mut stream| {
            // Each byte comes in time, all of them do not.
            while started.elapsed() < long && stream.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        assert_eq!(slow, None);
        assert!(started.elapsed() < long, "{:?}", started.elapsed());
    }
}
