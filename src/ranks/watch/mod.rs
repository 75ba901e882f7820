//! Who lives: beside the tensors, every two processes hold a small link over which they say that
//! they live, where they stand, and what went wrong.
//!
//! It carries no tensor. A link that ends without a farewell is a process that ended; one that falls
//! silent is a process that was stopped, or a machine or cable that is down; a process that speaks
//! but stands elsewhere is slow, or does something else. Each of these becomes a [`RankError`] on
//! every other process, in the wait it is in or, where it computes, shortly afterwards by
//! [`OnFailure`].

mod mesh;
mod message;
mod verdict;

use std::collections::HashMap;
use std::fmt;
use std::io::BufReader;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use self::message::{Message, receive, send};
use self::verdict::{elsewhere, late, silent};
use super::signal;
use super::{Operation, Peer, Place, RANK_FAILED, RankError, end_process};

#[cfg_attr(
    not(any(feature = "mpi", feature = "nccl")),
    allow(
        unused_imports,
        reason = "a build without an engine joins no processes"
    )
)]
pub(crate) use mesh::{listen, own_address};

/// Between two signs of life.
const BEAT: Duration = Duration::from_millis(100);
/// How long a process that was asked to end waits to hear why, and one that failed for the others to know.
const GRACE: Duration = Duration::from_millis(500);
/// A gap in this process's own beats that means it was stopped itself: others cannot be blamed.
const OWN_GAP: Duration = Duration::from_secs(2);
/// Silence after which a process counts as stopped rather than slow.
const QUIET: Duration = Duration::from_secs(2);

/// Called, perhaps on a thread of its own, with who this process is and what the ranks are lost to, before the process ends with
/// [`RANK_FAILED`].
pub type OnFailure = Box<dyn Fn(&Peer, &RankError) + Send>;

/// This process's view of all others.
#[derive(Clone)]
pub(crate) struct Watch(Arc<Shared>);

struct Shared {
    me: usize,
    timeout: Duration,
    /// Whether there is a failure, or nobody left to fail.
    broken: AtomicBool,
    links: Vec<Mutex<Option<TcpStream>>>,
    state: Mutex<State>,
    /// Something arrived.
    changed: Condvar,
    /// The guard has something to do.
    alarm: Condvar,
}

/// What is known now.
pub(crate) struct State {
    members: Vec<Member>,
    place: Option<Place>,
    failure: Option<(RankError, Instant)>,
    /// Whether somebody has told the user.
    told: bool,
    over: bool,
    said: HashMap<(u64, usize), Value>,
    delivered: HashMap<u64, Result<Vec<Vec<u8>>, String>>,
}

struct Member {
    peer: Peer,
    heard: Instant,
    place: Option<Place>,
    left: bool,
    /// Whether it knows of the failure, or is gone.
    informed: bool,
}

impl State {
    /// What the engine brought for an exchange, once it is there.
    pub(crate) fn take(&mut self, exchange: u64) -> Option<Result<Vec<Vec<u8>>, String>> {
        self.delivered.remove(&exchange)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("process", &self.0.me)
            .finish_non_exhaustive()
    }
}

impl Watch {
    /// Connects process `me` with the others, who listen at the addresses of `directory`, within
    /// `start`, and starts to watch them.
    pub(crate) fn start(
        me: usize,
        directory: Vec<(Peer, SocketAddr)>,
        listener: &TcpListener,
        token: &str,
        start: Duration,
        timeout: Duration,
        on_failure: OnFailure,
    ) -> Result<Self, RankError> {
        let (peers, addresses): (Vec<_>, Vec<_>) = directory.into_iter().unzip();
        let links = mesh::connect(me, &addresses, listener, token, start)?;
        let readers: Vec<_> = (links.iter())
            .map(|link| link.as_ref().map(TcpStream::try_clone).transpose())
            .collect::<Result<_, _>>()
            .map_err(|error| RankError::Connect {
                reason: error.to_string(),
            })?;
        let member = |peer| Member {
            peer,
            heard: Instant::now(),
            place: None,
            left: false,
            informed: false,
        };
        let watch = Self(Arc::new(Shared {
            me,
            timeout,
            broken: AtomicBool::new(false),
            links: links.into_iter().map(Mutex::new).collect(),
            state: Mutex::new(State {
                members: peers.into_iter().map(member).collect(),
                place: None,
                failure: None,
                told: false,
                over: false,
                said: HashMap::new(),
                delivered: HashMap::new(),
            }),
            changed: Condvar::new(),
            alarm: Condvar::new(),
        }));
        let spawn =
            |name: &str, work: Box<dyn FnOnce() + Send>| -> Result<JoinHandle<()>, RankError> {
                let builder = std::thread::Builder::new().name(name.into());
                builder.spawn(work).map_err(|error| RankError::Connect {
                    reason: error.to_string(),
                })
            };
        for (process, link) in readers.into_iter().enumerate() {
            if let Some(link) = link {
                let watch = watch.clone();
                spawn("apb-link", Box::new(move || watch.listen_to(process, link)))?;
            }
        }
        let guard = watch.clone();
        spawn("apb-guard", Box::new(move || guard.guard(&on_failure)))?;
        Ok(watch)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn process(&self) -> usize {
        self.0.me
    }

    pub(crate) fn processes(&self) -> usize {
        self.0.links.len()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.0.timeout
    }

    /// Exchanges made so far, by whatever groups.
    pub(crate) fn exchanges(&self) -> u64 {
        self.lock().place.map_or(0, |place| place.exchange + 1)
    }

    /// A process as messages name it.
    pub(crate) fn peer(&self, process: usize) -> Peer {
        self.lock().members[process].peer.clone()
    }

    /// Names processes by ranks from now on.
    pub(crate) fn share_out(&self, ranks_each: usize) {
        for member in &mut self.lock().members {
            let first = member.peer.process * ranks_each;
            member.peer.ranks = first..first + ranks_each;
        }
    }

    /// Says where this process stands.
    pub(crate) fn enter(&self, place: Place) -> Result<(), RankError> {
        let mut state = self.lock();
        state.place = Some(place);
        match &state.failure {
            Some((error, _)) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Whether a process is lost, and the engine had better be left alone: it may end this process when it
    /// finds out by itself.
    pub(crate) fn is_broken(&self) -> bool {
        self.0.broken.load(Ordering::Relaxed)
    }

    /// Takes what the engine brought for an exchange.
    pub(crate) fn deliver(&self, exchange: u64, result: Result<Vec<Vec<u8>>, String>) {
        self.lock().delivered.insert(exchange, result);
        self.0.changed.notify_all();
    }

    /// Waits in an exchange until `ready`, or until some process is lost or late.
    pub(crate) fn wait<T>(
        &self,
        place: Place,
        mut ready: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, RankError> {
        let me = self.0.me;
        self.wait_within(place, Some(self.0.timeout), &mut ready, |state| {
            let behind = |member: &&Member| {
                member.peer.process != me
                    && member.place.is_none_or(|at| at.exchange < place.exchange)
            };
            state
                .members
                .iter()
                .filter(behind)
                .map(|m| m.peer.process)
                .collect()
        })
    }

    fn wait_within<T>(
        &self,
        place: Place,
        deadline: Option<Duration>,
        ready: &mut dyn FnMut(&mut State) -> Option<T>,
        missing: impl Fn(&State) -> Vec<usize>,
    ) -> Result<T, RankError> {
        let mut waited = Duration::ZERO;
        let mut state = self.lock();
        loop {
            if let Some(result) = ready(&mut state) {
                return Ok(result);
            }
            if let Some((error, _)) = &state.failure {
                return Err(error.clone());
            }
            if let Some(error) = elsewhere(&state, self.0.me, place) {
                return Err(self.found(state, error));
            }
            if deadline.is_some_and(|deadline| waited >= deadline) {
                let error = late(&state, self.0.me, place, waited, &missing(&state));
                return Err(self.found(state, error));
            }
            let before = Instant::now();
            state = (self.0.changed.wait_timeout(state, BEAT))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            // While this process is stopped its own clock runs on; that is not the others' delay.
            waited += before.elapsed().min(OWN_GAP);
        }
    }

    /// Says `value` in a round of talks and hears what every process says, in their order; without a
    /// deadline a process may take as long as it lives.
    pub(crate) fn talk(
        &self,
        round: u64,
        value: Value,
        deadline: Option<Duration>,
    ) -> Result<Vec<Value>, RankError> {
        let me = self.0.me;
        self.lock().said.insert((round, me), value.clone());
        self.tell_all(&Message::Say { round, value });
        let count = self.processes();
        let place = Place {
            exchange: round,
            operation: Operation::Agree,
            layer: None,
            bytes: 0,
        };
        let mut ready = |state: &mut State| {
            let all = (0..count).all(|process| state.said.contains_key(&(round, process)));
            all.then(|| {
                let said = (0..count).filter_map(|process| state.said.remove(&(round, process)));
                said.collect()
            })
        };
        self.wait_within(place, deadline, &mut ready, |state| {
            (0..count)
                .filter(|process| !state.said.contains_key(&(round, *process)))
                .collect()
        })
    }

    /// This process cannot go on: tells the others.
    pub(crate) fn fail(&self, reason: &str) {
        self.0.broken.store(true, Ordering::Relaxed);
        let reason = reason.to_owned();
        self.tell_all(&Message::Failed {
            reason,
            of_others: false,
        });
        let mut state = self.lock();
        state.told = true;
        state.over = true;
        self.0.alarm.notify_all();
    }

    /// Ends this process once the others know why, so that each can say so: launchers and MPI end the rest
    /// as soon as they see one end.
    pub(crate) fn give_up(&self) -> ! {
        self.tell_all(&Message::Heard);
        let since = Instant::now();
        let me = self.0.me;
        let mut state = self.lock();
        let pending = |state: &State| {
            let quiet = QUIET.min(self.0.timeout / 2);
            (state.members.iter()).any(|m| {
                m.peer.process != me && !m.informed && !m.left && m.heard.elapsed() < quiet
            })
        };
        while pending(&state) && since.elapsed() < GRACE {
            state = (self.0.changed.wait_timeout(state, BEAT))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        end_process(RANK_FAILED)
    }

    /// Whether the failure is still to be told to the user; asked by whoever is about to.
    pub(crate) fn take_telling(&self) -> bool {
        !std::mem::replace(&mut self.lock().told, true)
    }

    /// Leaves once every process is ready to, however long that takes.
    pub(crate) fn leave(&self) -> Result<(), RankError> {
        self.tell_all(&Message::Leave);
        let me = self.0.me;
        let mut state = self.lock();
        loop {
            if let Some((error, _)) = &state.failure {
                return Err(error.clone());
            }
            if state
                .members
                .iter()
                .all(|member| member.left || member.peer.process == me)
            {
                state.over = true;
                self.0.alarm.notify_all();
                return Ok(());
            }
            state = (self.0.changed.wait_timeout(state, BEAT))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn tell_all(&self, message: &Message) {
        for link in &self.0.links {
            send(link, message);
        }
    }

    /// A failure that the engine or this process found in an exchange; tells the others. Where the
    /// engine cannot say which process is to blame, their own words may.
    pub(crate) fn raise(&self, place: Place, error: RankError) -> RankError {
        let since = Instant::now();
        let mut state = self.lock();
        if matches!(error, RankError::Engine { .. }) {
            while since.elapsed() < GRACE && state.failure.is_none() {
                if let Some(other) = elsewhere(&state, self.0.me, place) {
                    return self.found(state, other);
                }
                state = (self.0.changed.wait_timeout(state, BEAT))
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        }
        self.found(state, error)
    }

    /// Keeps a failure that this process found, and tells the others.
    fn found(&self, mut state: MutexGuard<'_, State>, error: RankError) -> RankError {
        if let Some((known, _)) = &state.failure {
            return known.clone();
        }
        state.failure = Some((error.clone(), Instant::now()));
        self.0.broken.store(true, Ordering::Relaxed);
        drop(state);
        self.0.changed.notify_all();
        self.0.alarm.notify_all();
        let reason = error.to_string();
        self.tell_all(&Message::Failed {
            reason,
            of_others: true,
        });
        error
    }

    /// Keeps a failure that another process told of.
    fn heard(&self, state: &mut State, error: RankError) {
        if state.failure.is_none() && !state.over {
            state.failure = Some((error, Instant::now()));
            self.0.broken.store(true, Ordering::Relaxed);
            self.0.alarm.notify_all();
        }
    }

    /// Reads one link until it ends.
    fn listen_to(&self, process: usize, link: TcpStream) {
        let mut link = BufReader::new(link);
        while let Some(message) = receive(&mut link) {
            let mut state = self.lock();
            let at = state.place;
            let member = &mut state.members[process];
            member.heard = Instant::now();
            let peer = Box::new(member.peer.clone());
            match message {
                Message::Hello { .. } => {}
                Message::Beat { place } => member.place = place,
                Message::Say { round, value } => {
                    state.said.insert((round, process), value);
                }
                Message::Failed { reason, of_others } => {
                    member.informed = true;
                    let error = match of_others {
                        true => RankError::Reported {
                            by: peer,
                            reason,
                            at,
                        },
                        false => RankError::Failed { peer, reason },
                    };
                    self.heard(&mut state, error);
                }
                Message::Heard => member.informed = true,
                Message::Leave => member.left = true,
            }
            drop(state);
            self.0.changed.notify_all();
        }
        let mut state = self.lock();
        state.members[process].informed = true;
        self.0.changed.notify_all();
        let member = &state.members[process];
        if !member.left && !state.over && state.failure.is_none() {
            let error = RankError::Gone {
                peer: Box::new(member.peer.clone()),
                at: state.place,
            };
            self.found(state, error);
        }
    }

    /// Says that this process lives, and looks after the others, until all is over.
    fn guard(&self, on_failure: &dyn Fn(&Peer, &RankError)) {
        let mut last = Instant::now();
        let mut asked_to_end = None;
        loop {
            let mut state = self.lock();
            if state.over {
                return;
            }
            let now = Instant::now();
            let gap = now - last;
            if gap > OWN_GAP {
                for member in &mut state.members {
                    member.heard = (member.heard + gap).min(now);
                }
            }
            last = now;
            if signal::asked_to_end() && asked_to_end.is_none() {
                asked_to_end = Some(now);
            }
            if let Some((error, _)) = state.failure.clone() {
                // At once: a launcher kills the others as soon as it has seen one end.
                if !std::mem::replace(&mut state.told, true) {
                    let me = state.members[self.0.me].peer.clone();
                    drop(state);
                    on_failure(&me, &error);
                    self.give_up();
                }
            } else if asked_to_end.is_some_and(|since| now - since >= GRACE) {
                let error = RankError::Failed {
                    peer: Box::new(state.members[self.0.me].peer.clone()),
                    reason: "it was asked to end (SIGTERM)".into(),
                };
                self.found(state, error);
                continue;
            } else if let Some(error) = silent(&state, self.0.me, now, self.0.timeout) {
                self.found(state, error);
                continue;
            }
            let place = state.place;
            drop(state);
            self.tell_all(&Message::Beat { place });
            let state = self.lock();
            if !state.over {
                drop(
                    self.0
                        .alarm
                        .wait_timeout(state, BEAT)
                        .unwrap_or_else(PoisonError::into_inner),
                );
            }
        }
    }
}
