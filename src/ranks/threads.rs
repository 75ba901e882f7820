//! Ranks driven by threads of one process: for several devices in one process, and for tests of what
//! processes do.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use burn::tensor::Tensor;

use super::{Peer, Place, RankError, Ticket, Transport};

/// Connects threads of one process, each of which counts as a process of the group.
#[derive(Debug)]
pub struct Threads {
    shared: Arc<Shared>,
    process: usize,
    deadline: Duration,
}

#[derive(Debug)]
struct Shared {
    processes: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// Something on its way.
#[derive(Debug)]
struct Letter {
    place: Place,
    from: usize,
    to: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Tensor(Box<Tensor<4>>),
    Bytes(Vec<u8>),
}

#[derive(Debug)]
struct State {
    letters: Vec<Letter>,
    gone: Vec<bool>,
}

impl Shared {
    /// A thread that panicked has its `gone` set by its drop; what it left is still whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The transports of `processes` threads. An exchange that takes longer than `deadline` fails and
/// names the thread that is missing; so does one with a thread that has ended.
pub fn threads(processes: usize, deadline: Duration) -> Vec<Threads> {
    let shared = Arc::new(Shared {
        processes,
        state: Mutex::new(State {
            letters: Vec::new(),
            gone: vec![false; processes],
        }),
        changed: Condvar::new(),
    });
    (0..processes)
        .map(|process| Threads {
            shared: Arc::clone(&shared),
            process,
            deadline,
        })
        .collect()
}

impl Transport for Threads {
    fn processes(&self) -> usize {
        self.shared.processes
    }

    fn process(&self) -> usize {
        self.process
    }

    fn shares_workers(&self) -> bool {
        true
    }

    fn start(
        &mut self,
        place: Place,
        outgoing: Vec<Option<Tensor<4>>>,
        mut incoming: Vec<Option<[usize; 4]>>,
    ) -> Result<Ticket, RankError> {
        let mut held = vec![None; self.processes()];
        for (to, tensor) in outgoing.into_iter().enumerate() {
            match tensor {
                None => {}
                Some(tensor) if to == self.process => held[to] = Some(tensor),
                Some(tensor) => self.send(place, to, Content::Tensor(Box::new(tensor))),
            }
        }
        incoming[self.process] = None;
        Ok(Ticket {
            place,
            held,
            incoming,
            like: None,
        })
    }

    fn finish(&mut self, ticket: Ticket) -> Result<Vec<Option<Tensor<4>>>, RankError> {
        let Ticket {
            place,
            mut held,
            incoming,
            ..
        } = ticket;
        let started = Instant::now();
        for (process, expected) in incoming.into_iter().enumerate() {
            let Some(expected) = expected else { continue };
            let content = self.receive(place, process, started)?;
            held[process] = match content {
                Content::Tensor(tensor) if tensor.dims() == expected => Some(*tensor),
                other => return Err(mismatch(place, process, format!("{expected:?}"), &other)),
            };
        }
        Ok(held)
    }

    fn broadcast(
        &mut self,
        place: Place,
        root: usize,
        bytes: Vec<u8>,
    ) -> Result<Vec<u8>, RankError> {
        if self.process == root {
            for to in (0..self.processes()).filter(|to| *to != root) {
                self.send(place, to, Content::Bytes(bytes.clone()));
            }
            return Ok(bytes);
        }
        match self.receive(place, root, Instant::now())? {
            Content::Bytes(found) if found.len() == bytes.len() => Ok(found),
            other => Err(mismatch(
                place,
                root,
                format!("{} bytes", bytes.len()),
                &other,
            )),
        }
    }

    fn scatter(
        &mut self,
        place: Place,
        root: usize,
        parts: Vec<Vec<u8>>,
    ) -> Result<Vec<u8>, RankError> {
        let mut mine = Vec::new();
        if self.process == root {
            for (to, part) in parts.into_iter().enumerate() {
                match to == root {
                    true => mine = part,
                    false => self.send(place, to, Content::Bytes(part)),
                }
            }
            return Ok(mine);
        }
        match self.receive(place, root, Instant::now())? {
            Content::Bytes(found) => Ok(found),
            other => Err(mismatch(place, root, "bytes".into(), &other)),
        }
    }
}

impl Threads {
    fn send(&self, place: Place, to: usize, content: Content) {
        self.shared.lock().letters.push(Letter {
            place,
            from: self.process,
            to,
            content,
        });
        self.shared.changed.notify_all();
    }

    fn receive(
        &self,
        place: Place,
        process: usize,
        started: Instant,
    ) -> Result<Content, RankError> {
        let peer = Box::new(Peer::here(process));
        let mut state = self.shared.lock();
        loop {
            let wanted = |letter: &Letter| {
                letter.place.exchange == place.exchange
                    && letter.from == process
                    && letter.to == self.process
            };
            if let Some(index) = state.letters.iter().position(wanted) {
                let letter = state.letters.swap_remove(index);
                if !letter.place.agrees_with(&place) {
                    return Err(RankError::Mismatch {
                        peer,
                        at: Some(place),
                        expected: place.to_string(),
                        found: letter.place.to_string(),
                    });
                }
                return Ok(letter.content);
            }
            if state.gone[process] {
                let at = Some(place);
                return Err(RankError::Gone { peer, at });
            }
            let waited = started.elapsed();
            let Some(left) = self.deadline.checked_sub(waited) else {
                return Err(RankError::Timeout {
                    peers: vec![*peer],
                    at: place,
                    waited,
                    doing: "elsewhere in this process".into(),
                });
            };
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

fn mismatch(place: Place, process: usize, expected: String, found: &Content) -> RankError {
    RankError::Mismatch {
        peer: Box::new(Peer::here(process)),
        at: Some(place),
        expected,
        found: match found {
            Content::Tensor(tensor) => format!("{:?}", tensor.dims()),
            Content::Bytes(bytes) => format!("{} bytes", bytes.len()),
        },
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.lock().gone[self.process] = true;
        self.shared.changed.notify_all();
    }
}
