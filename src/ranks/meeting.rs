//! Where processes meet that no MPI has connected: process 0 listens at `MASTER_ADDR:MASTER_PORT`, hears
//! from each of the others who and where it is, and tells all of them what they need to go on.
//!
//! One line of JSON each way, and the connection ends. Who does not know the token is sent away.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Peer, RankError};

/// The variable that holds the token that all processes share.
pub(super) const TOKEN: &str = "APB_RANK_TOKEN";
/// Longest line that is read, in bytes; a directory entry takes about 150.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// How long a visitor may take to say who it is, and to take its answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks for a visitor, or two tries to be one.
const POLL: Duration = Duration::from_millis(20);

/// Where the processes meet, and what they know of each other before.
#[derive(Debug, Clone)]
pub(super) struct Meeting {
    /// Process 0's address and port.
    pub at: SocketAddr,
    /// This process, counted from 0, and how many there are.
    pub process: usize,
    pub processes: usize,
    /// Known to all of them; may be empty where only this machine can connect.
    pub token: String,
    /// How long to wait for the others.
    pub timeout: Duration,
}

/// A process, and where the watch of the others reaches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub peer: Peer,
    pub address: SocketAddr,
}

/// What process 0 tells all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Agreement {
    /// By process.
    pub directory: Vec<Entry>,
    /// Keeps strangers out of the links between every two processes.
    pub token: String,
    /// What the engine needs to connect.
    pub engine: Vec<u8>,
}

/// A visitor's line.
#[derive(Serialize, Deserialize)]
struct Arrival {
    token: String,
    processes: usize,
    entry: Entry,
}

/// The socket address of `host:port`.
pub(super) fn resolve(host: &str, port: u16) -> Result<SocketAddr, RankError> {
    let failed = |reason: String| RankError::Connect {
        reason: format!("MASTER_ADDR {host} is no address that this machine knows: {reason}"),
    };
    let mut found = (host, port)
        .to_socket_addrs()
        .map_err(|error| failed(error.to_string()))?;
    found.next().ok_or_else(|| failed("none found".into()))
}

/// The token that the environment gives. Without one only this machine may connect.
pub(super) fn token(at: IpAddr) -> Result<String, RankError> {
    let token = std::env::var(TOKEN).unwrap_or_default();
    match token.is_empty() && !at.is_loopback() {
        true => Err(RankError::Connect {
            reason: format!(
                "the ranks meet at {at}, which other machines reach; set {TOKEN} to one secret of your \
                 choice on all of them"
            ),
        }),
        false => Ok(token),
    }
}

impl Meeting {
    /// Tells process 0 of `entry` and hears what it tells all. On process 0, `engine` is what it tells.
    pub(super) fn join(&self, entry: Entry, engine: Vec<u8>) -> Result<Agreement, RankError> {
        match self.process {
            0 => self.receive(entry, engine),
            _ => self.visit(entry),
        }
    }

    fn receive(&self, entry: Entry, engine: Vec<u8>) -> Result<Agreement, RankError> {
        let failed = |error: std::io::Error| RankError::Connect {
            reason: format!("cannot listen at {}: {error}", self.at),
        };
        let listener = TcpListener::bind(self.at).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let started = Instant::now();
        let mut arrived: Vec<Option<(Entry, Option<TcpStream>)>> =
            (0..self.processes).map(|_| None).collect();
        arrived[0] = Some((entry, None));
        while let Some(missing) = arrived.iter().position(Option::is_none) {
            if started.elapsed() >= self.timeout {
                return Err(RankError::Connect {
                    reason: format!(
                        "process {missing} did not come to {} within {:?}",
                        self.at, self.timeout
                    ),
                });
            }
            match listener.accept() {
                Ok((visitor, _)) => {
                    if let Some(arrival) = self.welcome(&visitor)
                        && let Some(place @ None) = arrived.get_mut(arrival.entry.peer.process)
                    {
                        *place = Some((arrival.entry, Some(visitor)));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    std::thread::sleep(POLL);
                }
                Err(error) => return Err(failed(error)),
            }
        }
        let (directory, visitors): (Vec<_>, Vec<_>) = arrived.into_iter().flatten().unzip();
        let agreement = Agreement {
            directory,
            token: secret(),
            engine,
        };
        for (process, visitor) in visitors.into_iter().enumerate() {
            if let Some(mut visitor) = visitor {
                write_line(&mut visitor, &agreement).map_err(|error| RankError::Connect {
                    reason: format!("process {process} left before all had come: {error}"),
                })?;
            }
        }
        Ok(agreement)
    }

    /// What a visitor says, if it knows the token and was started with as many others.
    fn welcome(&self, visitor: &TcpStream) -> Option<Arrival> {
        visitor.set_nonblocking(false).ok()?;
        visitor.set_read_timeout(Some(PATIENCE)).ok()?;
        visitor.set_write_timeout(Some(PATIENCE)).ok()?;
        let arrival: Arrival = read_line(visitor)?;
        // Hashes are compared, so that the time it takes says nothing about the token.
        let same =
            Sha256::digest(arrival.token.as_bytes()) == Sha256::digest(self.token.as_bytes());
        (same && arrival.processes == self.processes).then_some(arrival)
    }

    fn visit(&self, entry: Entry) -> Result<Agreement, RankError> {
        let started = Instant::now();
        let arrival = Arrival {
            token: self.token.clone(),
            processes: self.processes,
            entry,
        };
        loop {
            let left = self.timeout.saturating_sub(started.elapsed());
            // Process 0 may not listen yet.
            match TcpStream::connect_timeout(&self.at, left.max(POLL)) {
                Ok(mut link) => {
                    let sent = (link.set_read_timeout(Some(left.max(POLL))))
                        .and_then(|()| write_line(&mut link, &arrival));
                    let answer = sent.ok().and_then(|()| read_line(&link));
                    return answer.ok_or_else(|| RankError::Connect {
                        reason: format!(
                            "process 0 at {} gave no answer: not all processes came, or {TOKEN} or \
                             the number of processes differs, or something else listens there",
                            self.at
                        ),
                    });
                }
                Err(_) if started.elapsed() < self.timeout => std::thread::sleep(POLL),
                Err(error) => {
                    return Err(RankError::Connect {
                        reason: format!("process 0 cannot be reached at {}: {error}", self.at),
                    });
                }
            }
        }
    }
}

/// A token that nobody can guess.
fn secret() -> String {
    /// Bytes of it.
    const BYTES: usize = 32;
    let token: [u8; BYTES] = rand::random();
    crate::hex::encode(&token)
}

fn write_line(to: &mut TcpStream, value: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)
}

fn read_line<T: DeserializeOwned>(from: &TcpStream) -> Option<T> {
    let mut line = Vec::new();
    let mut reader = BufReader::new(from.take(MAX_LINE_BYTES));
    reader.read_until(b'\n', &mut line).ok()?;
    serde_json::from_slice(&line).ok()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn free() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.local_addr().unwrap()
    }

    fn entry(process: usize) -> Entry {
        Entry {
            peer: Peer::here(process),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1000 + process as u16)),
        }
    }

    fn meeting(at: SocketAddr, process: usize, token: &str, timeout: Duration) -> Meeting {
        Meeting {
            at,
            process,
            processes: 3,
            token: token.into(),
            timeout,
        }
    }

    #[test]
    fn all_hear_the_same_whoever_comes_first() {
        let at = free();
        let timeout = Duration::from_secs(20);
        let heard: Vec<Agreement> = std::thread::scope(|scope| {
            // The visitors, and strangers among them, come before there is anybody.
            let join = |process: usize, token: &'static str| {
                scope.spawn(move || {
                    let engine = if process == 0 {
                        vec![7; 128]
                    } else {
                        Vec::new()
                    };
                    meeting(at, process, token, timeout).join(entry(process), engine)
                })
            };
            let visitors = [join(2, "secret"), join(1, "secret")];
            let stranger = join(1, "guess");
            std::thread::sleep(3 * POLL);
            let first = join(0, "secret");
            let mut all = vec![first.join().unwrap().unwrap()];
            all.extend(visitors.map(|visitor| visitor.join().unwrap().unwrap()));
            let refused = stranger.join().unwrap();
            assert!(
                matches!(refused, Err(RankError::Connect { .. })),
                "{refused:?}"
            );
            all
        });
        assert_eq!(heard[0].directory, [entry(0), entry(1), entry(2)]);
        assert_eq!(heard[0].engine, [7; 128]);
        assert!(heard.iter().all(|agreement| *agreement == heard[0]));
    }

    #[test]
    fn a_process_that_does_not_come_is_named() {
        let short = Duration::from_millis(100);
        let missing = meeting(free(), 0, "", short).join(entry(0), Vec::new());
        let Err(RankError::Connect { reason }) = missing else {
            panic!("{missing:?}");
        };
        assert!(reason.contains("process 1"), "{reason}");
        let alone = meeting(free(), 1, "", short).join(entry(1), Vec::new());
        assert!(matches!(alone, Err(RankError::Connect { .. })), "{alone:?}");
    }

    #[test]
    fn other_machines_need_a_token() {
        assert!(token(IpAddr::V4(Ipv4Addr::LOCALHOST)).is_ok());
        let open = token(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
        match std::env::var_os(TOKEN) {
            Some(_) => assert!(open.is_ok()),
            None => assert!(matches!(open, Err(RankError::Connect { .. }))),
        }
    }
}
