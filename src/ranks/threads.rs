//! Ranks driven by threads of one process: for several devices in one process, and for tests of
//! collectives.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use burn::tensor::Tensor;

use super::{Peer, RankError, Step, Ticket, Transport};

/// Connects threads of one process, each of which counts as a process of the group.
#[derive(Debug)]
pub struct Threads {
    shared: Arc<Shared>,
    process: usize,
    timeout: Duration,
}

#[derive(Debug)]
struct Shared {
    processes: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// A message under way.
#[derive(Debug)]
struct Message {
    step: Step,
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
    messages: Vec<Message>,
    ended: Vec<bool>,
}

impl Shared {
    /// A thread that panicked sets `ended` when it is dropped; the state is still valid.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The transports of `processes` threads. A collective that takes longer than `timeout` fails and names
/// the thread that is missing; so does one with a thread that has ended.
pub fn threads(processes: usize, timeout: Duration) -> Vec<Threads> {
    let shared = Arc::new(Shared {
        processes,
        state: Mutex::new(State {
            messages: Vec::new(),
            ended: vec![false; processes],
        }),
        changed: Condvar::new(),
    });
    (0..processes)
        .map(|process| Threads {
            shared: Arc::clone(&shared),
            process,
            timeout,
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
        step: Step,
        mut outgoing: Vec<Option<Tensor<4>>>,
        incoming: Vec<Option<[usize; 4]>>,
    ) -> Result<Ticket, RankError> {
        let ticket = Ticket::new(step, self.process, &mut outgoing, incoming);
        for (to, tensor) in outgoing.into_iter().enumerate() {
            if let Some(tensor) = tensor {
                self.send(step, to, Content::Tensor(Box::new(tensor)));
            }
        }
        Ok(ticket)
    }

    fn finish(&mut self, ticket: Ticket) -> Result<Vec<Option<Tensor<4>>>, RankError> {
        let Ticket {
            step,
            mut held,
            incoming,
            ..
        } = ticket;
        let started = Instant::now();
        for (process, expected) in incoming.into_iter().enumerate() {
            let Some(expected) = expected else { continue };
            let content = self.receive(step, process, started)?;
            held[process] = match content {
                Content::Tensor(tensor) if tensor.dims() == expected => Some(*tensor),
                other => return Err(mismatch(step, process, format!("{expected:?}"), &other)),
            };
        }
        Ok(held)
    }

    fn broadcast(&mut self, step: Step, root: usize, bytes: Vec<u8>) -> Result<Vec<u8>, RankError> {
        let expected = bytes.len();
        if self.process == root {
            for to in 0..self.processes() {
                self.send(step, to, Content::Bytes(bytes.clone()));
            }
        }
        let wrong = |found| mismatch(step, root, format!("{expected} bytes"), found);
        match self.receive(step, root, Instant::now())? {
            Content::Bytes(found) if found.len() == expected => Ok(found),
            other => Err(wrong(&other)),
        }
    }
}

impl Threads {
    fn send(&self, step: Step, to: usize, content: Content) {
        self.shared.lock().messages.push(Message {
            step,
            from: self.process,
            to,
            content,
        });
        self.shared.changed.notify_all();
    }

    fn receive(&self, step: Step, process: usize, started: Instant) -> Result<Content, RankError> {
        let peer = Box::new(Peer::here(process, String::new()));
        let mut state = self.shared.lock();
        loop {
            let wanted = |message: &Message| {
                message.step.index == step.index
                    && message.from == process
                    && message.to == self.process
            };
            if let Some(index) = state.messages.iter().position(wanted) {
                let message = state.messages.swap_remove(index);
                if !message.step.agrees_with(&step) {
                    return Err(RankError::Mismatch {
                        peer,
                        at: Some(step),
                        expected: step.to_string(),
                        found: message.step.to_string(),
                    });
                }
                return Ok(message.content);
            }
            if state.ended[process] {
                let at = Some(step);
                return Err(RankError::Exited { peer, at });
            }
            let waited = started.elapsed();
            let Some(left) = self.timeout.checked_sub(waited) else {
                return Err(RankError::Timeout {
                    peers: vec![*peer],
                    at: step,
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

fn mismatch(step: Step, process: usize, expected: String, found: &Content) -> RankError {
    RankError::Mismatch {
        peer: Box::new(Peer::here(process, String::new())),
        at: Some(step),
        expected,
        found: match found {
            Content::Tensor(tensor) => format!("{:?}", tensor.dims()),
            Content::Bytes(bytes) => format!("{} bytes", bytes.len()),
        },
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.lock().ended[self.process] = true;
        self.shared.changed.notify_all();
    }
}
