//! A TCP link between every two processes, made before anything is computed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::message::{Message, send};
use crate::ranks::tcp::{POLL, accept_all, read_hello, same_token};
use crate::ranks::{Peer, RankError};

/// Longest time that writing a message may block.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Any port serves: no packet is sent.
const PROBE_PORT: u16 = 9;

/// A process, and where the others connect to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub peer: Peer,
    pub address: SocketAddr,
}

fn failed(reason: String) -> RankError {
    RankError::Connect { reason }
}

/// The address of this machine on the network of `rendezvous`; loopback where there is none.
fn own_address(rendezvous: Option<&str>) -> Result<IpAddr, RankError> {
    let Some(rendezvous) = rendezvous else {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    };
    // Connecting a datagram socket sends nothing; it selects the route and with it the address.
    let any = match rendezvous.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => "[::]:0",
        _ => "0.0.0.0:0",
    };
    let address = UdpSocket::bind(any).and_then(|socket| {
        socket.connect((rendezvous, PROBE_PORT))?;
        Ok(socket.local_addr()?.ip())
    });
    address.map_err(|error| {
        failed(format!(
            "{rendezvous} cannot be reached from this machine: {error}"
        ))
    })
}

/// A listener for the processes after this one, and its entry in the directory.
pub(crate) fn listen(
    process: usize,
    rendezvous: Option<&str>,
) -> Result<(TcpListener, Entry), RankError> {
    let address = own_address(rendezvous)?;
    let bound = TcpListener::bind((address, 0)).and_then(|listener| {
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    let (listener, address) =
        bound.map_err(|error| failed(format!("cannot listen at {address}: {error}")))?;
    let peer = Peer::here(process, crate::ranks::host());
    Ok((listener, Entry { peer, address }))
}

/// Links process `me` with all others: connects to those before it, at the addresses of `directory`,
/// and accepts those after it that send the token. Returns links by process.
pub(super) fn connect(
    me: usize,
    directory: &[Entry],
    listener: &TcpListener,
    token: &str,
    timeout: Duration,
) -> Result<Vec<Option<TcpStream>>, RankError> {
    let started = Instant::now();
    let left = || timeout.saturating_sub(started.elapsed());
    let mut links: Vec<Option<TcpStream>> = directory.iter().map(|_| None).collect();
    for (process, Entry { address, .. }) in directory.iter().enumerate().take(me) {
        let link = TcpStream::connect_timeout(address, left().max(POLL))
            .and_then(|link| configure(&link).map(|()| link))
            .map_err(|error| {
                failed(format!(
                    "process {process} at {address} cannot be reached: {error}; on several machines \
                     pass an address of the network between them with --rendezvous ADDRESS"
                ))
            })?;
        let link = Mutex::new(Some(link));
        let token = token.to_owned();
        send(&link, &Message::Hello { process: me, token });
        links[process] = link.into_inner().unwrap_or_default();
    }
    accept_all(listener, left(), &mut links, me + 1, |link, time| {
        let hello: Message = read_hello(&link, time)?;
        match hello {
            Message::Hello {
                process,
                token: found,
            } if same_token(&found, token) => {
                configure(&link).ok()?;
                Some((process, link))
            }
            _ => None,
        }
    })
    .map_err(|error| failed(format!("cannot accept links: {error}")))?;
    Ok(links)
}

fn configure(link: &TcpStream) -> std::io::Result<()> {
    link.set_nodelay(true)?;
    link.set_read_timeout(None)?;
    link.set_write_timeout(Some(WRITE_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Write};

    use super::*;
    use crate::ranks::watch::message::receive;

    const TIMEOUT: Duration = Duration::from_secs(20);

    fn listeners(count: usize) -> (Vec<TcpListener>, Vec<Entry>) {
        (0..count)
            .map(|process| listen(process, None).unwrap())
            .unzip()
    }

    #[test]
    fn every_two_processes_are_linked_and_strangers_are_dropped() {
        let (listeners, directory) = listeners(3);
        // Strangers connect first: with another token, as a process that does not exist, with another
        // protocol, and without sending anything.
        let hello = |token: &str, process| {
            let link = Mutex::new(Some(TcpStream::connect(directory[0].address).unwrap()));
            let token = token.into();
            send(&link, &Message::Hello { process, token });
            link.into_inner().unwrap()
        };
        let mut noise = TcpStream::connect(directory[0].address).unwrap();
        noise.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let strangers = [
            hello("guess", 1),
            hello("secret", 7),
            Some(noise),
            Some(TcpStream::connect(directory[0].address).unwrap()),
        ];
        let links: Vec<_> = std::thread::scope(|scope| {
            let joined: Vec<_> = (listeners.iter().enumerate())
                .map(|(me, listener)| {
                    let directory = &directory;
                    scope.spawn(move || connect(me, directory, listener, "secret", TIMEOUT))
                })
                .collect();
            joined
                .into_iter()
                .map(|thread| thread.join().unwrap().unwrap())
                .collect()
        });
        drop(strangers);
        for (me, links) in links.iter().enumerate() {
            let linked: Vec<bool> = links.iter().map(Option::is_some).collect();
            let expected: Vec<bool> = (0..3).map(|process| process != me).collect();
            assert_eq!(linked, expected);
        }
        // Each link connects the two processes that it is stored for.
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            let link = links[from][to].as_ref().unwrap().try_clone().unwrap();
            let sent = Message::Value {
                round: from as u64,
                value: to.into(),
            };
            send(&Mutex::new(Some(link)), &sent);
            let received = receive(&mut BufReader::new(links[to][from].as_ref().unwrap()));
            assert!(matches!(received, Some(Message::Value { round, .. }) if round == from as u64));
        }
    }

    #[test]
    fn a_missing_process_is_named() {
        let (listeners, directory) = listeners(2);
        let short = Duration::from_millis(100);
        let missing = connect(0, &directory, &listeners[0], "secret", short);
        let Err(RankError::Connect { reason }) = missing else {
            panic!("{missing:?}");
        };
        assert!(reason.contains("process 1"), "{reason}");
    }

    #[test]
    fn loopback_is_used_without_a_rendezvous() {
        assert!(own_address(None).unwrap().is_loopback());
        assert!(own_address(Some("127.0.0.1")).unwrap().is_loopback());
        let nowhere = own_address(Some("no such host.invalid"));
        assert!(
            matches!(nowhere, Err(RankError::Connect { .. })),
            "{nowhere:?}"
        );
    }
}
