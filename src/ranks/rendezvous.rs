//! How processes without MPI exchange their addresses: process 0 listens at `MASTER_ADDR:MASTER_PORT`,
//! receives an entry from each of the others, and sends all of them the whole directory.
//!
//! Each connection carries one line of JSON in each direction. One without the token is dropped.

use std::io::{BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::RankError;
use super::tcp::{
    POLL, Timed, accept_all, encode_line, new_token, read_hello, read_line, same_token,
};
use super::watch::Entry;

/// The environment variable with the token that all processes share.
pub const TOKEN_VARIABLE: &str = "APB_RANK_TOKEN";

/// Process 0's address, and what the processes were started with.
#[derive(Debug, Clone)]
pub(super) struct Rendezvous {
    pub address: SocketAddr,
    /// This process, counted from 0, and how many there are.
    pub process: usize,
    pub processes: usize,
    /// The same on all; may be empty where only this machine can connect.
    pub token: String,
    /// Longest wait for the others.
    pub timeout: Duration,
}

/// What process 0 sends to all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Response {
    /// By process.
    pub directory: Vec<Entry>,
    /// The token of the links between every two processes.
    pub token: String,
    /// What the engine needs to connect.
    pub engine: Vec<u8>,
}

/// What the others send to process 0.
#[derive(Serialize, Deserialize)]
struct Request {
    token: String,
    processes: usize,
    entry: Entry,
}

fn failed(reason: String) -> RankError {
    RankError::Connect { reason }
}

/// The socket address of `host:port`.
pub(super) fn resolve(host: &str, port: u16) -> Result<SocketAddr, RankError> {
    let found = (host, port).to_socket_addrs().map(|mut found| found.next());
    found.ok().flatten().ok_or_else(|| {
        failed(format!(
            "MASTER_ADDR {host} cannot be resolved on this machine"
        ))
    })
}

/// The token from the environment. It is required where other machines can connect.
pub(super) fn token(address: IpAddr) -> Result<String, RankError> {
    let token = std::env::var(TOKEN_VARIABLE).unwrap_or_default();
    match token.is_empty() && !address.is_loopback() {
        true => Err(failed(format!(
            "the rendezvous at {address} can be reached from other machines; set {TOKEN_VARIABLE} to \
             the same secret on all of them"
        ))),
        false => Ok(token),
    }
}

impl Rendezvous {
    /// Sends `entry` to process 0 and returns its response. `engine` is used on process 0.
    pub(super) fn join(&self, entry: Entry, engine: Vec<u8>) -> Result<Response, RankError> {
        match self.process {
            0 => self.serve(entry, engine),
            _ => self.request(entry),
        }
    }

    fn serve(&self, entry: Entry, engine: Vec<u8>) -> Result<Response, RankError> {
        let mut joined: Vec<Option<(Entry, Option<TcpStream>)>> =
            (0..self.processes).map(|_| None).collect();
        joined[0] = Some((entry, None));
        TcpListener::bind(self.address)
            .and_then(|listener| {
                accept_all(&listener, self.timeout, &mut joined, 1, |stream, time| {
                    let request: Request = read_hello(&stream, time)?;
                    let valid = same_token(&request.token, &self.token)
                        && request.processes == self.processes;
                    let process = request.entry.peer.process;
                    valid.then_some((process, (request.entry, Some(stream))))
                })
            })
            .map_err(|error| failed(format!("rendezvous at {}: {error}", self.address)))?;
        let (directory, streams): (Vec<_>, Vec<_>) = joined.into_iter().flatten().unzip();
        let response = Response {
            directory,
            token: new_token(),
            engine,
        };
        for (process, stream) in streams.into_iter().enumerate() {
            if let Some(mut stream) = stream {
                let sent = encode_line(&response).and_then(|line| stream.write_all(&line));
                sent.map_err(|error| {
                    failed(format!(
                        "process {process} ended during the rendezvous: {error}"
                    ))
                })?;
            }
        }
        Ok(response)
    }

    fn request(&self, entry: Entry) -> Result<Response, RankError> {
        let started = Instant::now();
        let request = Request {
            token: self.token.clone(),
            processes: self.processes,
            entry,
        };
        loop {
            let left = self.timeout.saturating_sub(started.elapsed()).max(POLL);
            // Process 0 may not listen yet.
            match TcpStream::connect_timeout(&self.address, left) {
                Ok(mut stream) => {
                    let sent = encode_line(&request).and_then(|request| stream.write_all(&request));
                    let response = sent
                        .ok()
                        .and_then(|()| read_line(&mut BufReader::new(Timed::new(&stream, left))));
                    return response.ok_or_else(|| {
                        failed(format!(
                            "process 0 at {} did not answer: not all processes connected, or \
                             {TOKEN_VARIABLE} or the number of processes differs, or another program \
                             listens there",
                            self.address
                        ))
                    });
                }
                Err(_) if started.elapsed() < self.timeout => std::thread::sleep(POLL),
                Err(error) => {
                    let address = self.address;
                    return Err(failed(format!(
                        "process 0 at {address} cannot be reached: {error}"
                    )));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::ranks::Peer;

    fn free() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.local_addr().unwrap()
    }

    fn entry(process: usize) -> Entry {
        Entry {
            peer: Peer::here(process, String::new()),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1000 + process as u16)),
        }
    }

    fn rendezvous(
        address: SocketAddr,
        process: usize,
        token: &str,
        timeout: Duration,
    ) -> Rendezvous {
        Rendezvous {
            address,
            process,
            processes: 3,
            token: token.into(),
            timeout,
        }
    }

    #[test]
    fn all_receive_the_same_directory_in_any_order() {
        let address = free();
        let timeout = Duration::from_secs(20);
        let received: Vec<Response> = std::thread::scope(|scope| {
            // These, and one with another token, connect before process 0 listens.
            let join = |process: usize, token: &'static str| {
                scope.spawn(move || {
                    let engine = vec![7; if process == 0 { 128 } else { 0 }];
                    rendezvous(address, process, token, timeout).join(entry(process), engine)
                })
            };
            let others = [join(2, "secret"), join(1, "secret")];
            let stranger = join(1, "guess");
            std::thread::sleep(3 * POLL);
            let first = join(0, "secret");
            let mut all = vec![first.join().unwrap().unwrap()];
            all.extend(others.map(|other| other.join().unwrap().unwrap()));
            let refused = stranger.join().unwrap();
            assert!(
                matches!(refused, Err(RankError::Connect { .. })),
                "{refused:?}"
            );
            all
        });
        assert_eq!(received[0].directory, [entry(0), entry(1), entry(2)]);
        assert_eq!(received[0].engine, [7; 128]);
        assert!(received.iter().all(|response| *response == received[0]));
    }

    #[test]
    fn a_missing_process_is_named() {
        let short = Duration::from_millis(100);
        let missing = rendezvous(free(), 0, "", short).join(entry(0), Vec::new());
        let Err(RankError::Connect { reason }) = missing else {
            panic!("{missing:?}");
        };
        assert!(reason.contains("process 1"), "{reason}");
        let alone = rendezvous(free(), 1, "", short).join(entry(1), Vec::new());
        assert!(matches!(alone, Err(RankError::Connect { .. })), "{alone:?}");
    }

    #[test]
    fn other_machines_need_a_token() {
        assert!(token(IpAddr::V4(Ipv4Addr::LOCALHOST)).is_ok());
        let open = token(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
        match std::env::var_os(TOKEN_VARIABLE) {
            Some(_) => assert!(open.is_ok()),
            None => assert!(matches!(open, Err(RankError::Connect { .. }))),
        }
    }
}
