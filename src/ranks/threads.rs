//! Ranks driven by threads of one process: for several devices in one process, and for tests of what
//! processes do.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use burn::tensor::Tensor;

use super::{RankError, Ticket, Transport};

/// Connects threads of one process, each of which counts as a process of the group.
#[derive(Debug)]
pub struct Threads {
    shared: Arc<Shared>,
    process: usize,
    exchanges: u64,
    deadline: Duration,
}

#[derive(Debug)]
struct Shared {
    processes: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// A tensor on its way.
#[derive(Debug)]
struct Letter {
    exchange: u64,
    from: usize,
    to: usize,
    tensor: Tensor<4>,
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
            exchanges: 0,
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
        outgoing: Vec<Option<Tensor<4>>>,
        mut incoming: Vec<Option<[usize; 4]>>,
    ) -> Result<Ticket, RankError> {
        let exchange = self.exchanges;
        self.exchanges += 1;
        let mut held = vec![None; self.processes()];
        let mut state = self.shared.lock();
        for (to, tensor) in outgoing.into_iter().enumerate() {
            let Some(tensor) = tensor else { continue };
            if to == self.process {
                held[to] = Some(tensor);
            } else {
                state.letters.push(Letter {
                    exchange,
                    from: self.process,
                    to,
                    tensor,
                });
            }
        }
        drop(state);
        self.shared.changed.notify_all();
        incoming[self.process] = None;
        Ok(Ticket {
            exchange,
            held,
            incoming,
        })
    }

    fn finish(&mut self, ticket: Ticket) -> Result<Vec<Option<Tensor<4>>>, RankError> {
        let Ticket {
            exchange,
            mut held,
            incoming,
        } = ticket;
        let started = Instant::now();
        let mut state = self.shared.lock();
        for (process, expected) in incoming.into_iter().enumerate() {
            let Some(expected) = expected else { continue };
            let tensor = loop {
                let wanted = |letter: &Letter| {
                    letter.exchange == exchange
                        && letter.from == process
                        && letter.to == self.process
                };
                if let Some(index) = state.letters.iter().position(wanted) {
                    break state.letters.swap_remove(index).tensor;
                }
                if state.gone[process] {
                    return Err(RankError::Gone { process, exchange });
                }
                let waited = started.elapsed();
                let Some(left) = self.deadline.checked_sub(waited) else {
                    return Err(RankError::Timeout {
                        process,
                        exchange,
                        waited,
                    });
                };
                state = self
                    .shared
                    .changed
                    .wait_timeout(state, left)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            };
            if tensor.dims() != expected {
                return Err(RankError::Mismatch {
                    process,
                    exchange,
                    expected: expected.to_vec(),
                    found: tensor.dims().to_vec(),
                });
            }
            held[process] = Some(tensor);
        }
        Ok(held)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.lock().gone[self.process] = true;
        self.shared.changed.notify_all();
    }
}
