//! A link between every two processes, made before anything is computed.

use std::io::BufReader;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::message::{Message, receive, send};
use crate::ranks::RankError;

/// How long a stranger may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest time a message may take to be handed to the system.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two looks for a new link.
const POLL: Duration = Duration::from_millis(5);
/// Any port does: nothing is sent.
const PROBE_PORT: u16 = 9;

/// The address at which this process can be reached by those that can reach `meeting`; loopback
/// unless one is told.
pub(crate) fn own_address(meeting: Option<&str>) -> Result<IpAddr, RankError> {
    let Some(meeting) = meeting else {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    };
    let failed = |error: std::io::Error| RankError::Connect {
        reason: format!("{meeting} cannot be reached from this machine: {error}"),
    };
    // Connecting a datagram socket sends nothing; it asks the system which way it would take.
    let any = match meeting.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => "[::]:0",
        _ => "0.0.0.0:0",
    };
    let socket = UdpSocket::bind(any).map_err(failed)?;
    socket.connect((meeting, PROBE_PORT)).map_err(failed)?;
    Ok(socket.local_addr().map_err(failed)?.ip())
}

/// Listens at an address of this process for the processes after it.
pub(crate) fn listen(address: IpAddr) -> Result<TcpListener, RankError> {
    TcpListener::bind((address, 0)).map_err(|error| RankError::Connect {
        reason: format!("cannot listen at {address}: {error}"),
    })
}

/// Connects process `me` with all others, by process: to those before it, whose addresses are in
/// `directory`, and from those after it, who know the token.
pub(super) fn connect(
    me: usize,
    directory: &[SocketAddr],
    listener: &TcpListener,
    token: &str,
    timeout: Duration,
) -> Result<Vec<Option<TcpStream>>, RankError> {
    let started = Instant::now();
    let left = || timeout.saturating_sub(started.elapsed());
    let mut links: Vec<Option<TcpStream>> = directory.iter().map(|_| None).collect();
    for (process, address) in directory.iter().enumerate().take(me) {
        let failed = |reason: String| RankError::Connect {
            reason: format!(
                "process {process} at {address} cannot be reached: {reason}; over several machines \
                 say where ranks meet with --rendezvous ADDRESS"
            ),
        };
        let wait = left().max(POLL);
        let link = TcpStream::connect_timeout(address, wait).map_err(|e| failed(e.to_string()))?;
        prepare(&link).map_err(|e| failed(e.to_string()))?;
        let link = Mutex::new(Some(link));
        let token = token.to_owned();
        send(&link, &Message::Hello { process: me, token });
        links[process] = link.into_inner().unwrap_or_default();
    }
    let failed = |error: std::io::Error| RankError::Connect {
        reason: format!("cannot accept links: {error}"),
    };
    listener.set_nonblocking(true).map_err(failed)?;
    while let Some(missing) = links.iter().skip(me + 1).position(Option::is_none) {
        if left().is_zero() {
            let process = me + 1 + missing;
            let reason = format!("process {process} did not come within {timeout:?}");
            return Err(RankError::Connect { reason });
        }
        match listener.accept() {
            Ok((link, _)) => {
                if let Some(process) = greeted(&link, token)
                    && process > me
                    && let Some(place @ None) = links.get_mut(process)
                {
                    *place = Some(link);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(POLL)
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(links)
}

/// Who a new link comes from, if it knows the token.
fn greeted(link: &TcpStream, token: &str) -> Option<usize> {
    link.set_nonblocking(false).ok()?;
    link.set_read_timeout(Some(HELLO_TIMEOUT)).ok()?;
    // One byte at a time: what follows the greeting belongs to whoever reads the link later.
    let message = receive(&mut BufReader::with_capacity(1, link))?;
    let Message::Hello {
        process,
        token: given,
    } = message
    else {
        return None;
    };
    // Hashes are compared, so that the time it takes says nothing about the token.
    let same = Sha256::digest(given.as_bytes()) == Sha256::digest(token.as_bytes());
    prepare(link).ok()?;
    same.then_some(process)
}

fn prepare(link: &TcpStream) -> std::io::Result<()> {
    link.set_nodelay(true)?;
    link.set_read_timeout(None)?;
    link.set_write_timeout(Some(WRITE_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(20);

    fn listeners(count: usize) -> (Vec<TcpListener>, Vec<SocketAddr>) {
        let listeners: Vec<_> = (0..count)
            .map(|_| listen(own_address(None).unwrap()).unwrap())
            .collect();
        let directory = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
        (listeners, directory)
    }

    #[test]
    fn every_two_are_linked_and_strangers_are_not() {
        let (listeners, directory) = listeners(3);
        // Strangers come first: one without the token, one with a process that there is not, one with
        // something else altogether, one that says nothing.
        let hello = |token: &str, process| {
            let link = Mutex::new(Some(TcpStream::connect(directory[0]).unwrap()));
            let token = token.into();
            send(&link, &Message::Hello { process, token });
            link.into_inner().unwrap()
        };
        let mut noise = TcpStream::connect(directory[0]).unwrap();
        noise.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let strangers = [
            hello("guess", 1),
            hello("secret", 7),
            Some(noise),
            Some(TcpStream::connect(directory[0]).unwrap()),
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
        // What one says the other hears: the links are those of the right two.
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            let link = links[from][to].as_ref().unwrap().try_clone().unwrap();
            let said = Message::Say {
                round: from as u64,
                value: to.into(),
            };
            send(&Mutex::new(Some(link)), &said);
            let heard = receive(&mut BufReader::new(links[to][from].as_ref().unwrap()));
            assert!(matches!(heard, Some(Message::Say { round, .. }) if round == from as u64));
        }
    }

    #[test]
    fn a_process_that_does_not_come_is_named() {
        let (listeners, directory) = listeners(2);
        let short = Duration::from_millis(100);
        let missing = connect(0, &directory, &listeners[0], "secret", short);
        let Err(RankError::Connect { reason }) = missing else {
            panic!("{missing:?}");
        };
        assert!(reason.contains("process 1"), "{reason}");
    }

    #[test]
    fn loopback_is_used_unless_told() {
        assert!(own_address(None).unwrap().is_loopback());
        assert!(own_address(Some("127.0.0.1")).unwrap().is_loopback());
        let nowhere = own_address(Some("no such host.invalid"));
        assert!(
            matches!(nowhere, Err(RankError::Connect { .. })),
            "{nowhere:?}"
        );
    }
}
