//! Failure detection: every two processes hold a TCP link with heartbeats, the step each is in, small
//! values and errors. Tensors do not pass here.
//!
//! A link that closes without [`Message::Leave`] is a process that ended; one without heartbeats is a
//! process that was stopped, or a machine or network that is down; a process that sends heartbeats but
//! stays at another step is slow, or runs something else. Each of these becomes a [`RankError`] on every
//! other process: from the call that waits, or, while it computes, from [`JoinOptions::on_failure`].

mod mesh;
mod message;
mod verdict;

use std::collections::HashMap;
use std::fmt;
use std::io::BufReader;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use self::message::{Message, receive, send};
use super::options::OnFailure;
use super::{JoinOptions, Operation, Peer, RankError, Ranks, Step};

pub(crate) use mesh::{Entry, listen};

/// Time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(100);
/// How long a process that was asked to end waits for the reason, and after a failure for the
/// acknowledgements of the others.
const GRACE: Duration = Duration::from_millis(500);
/// A gap in this process's own heartbeats that means it was stopped itself: the others are not late.
pub(crate) const OWN_GAP: Duration = Duration::from_secs(2);
/// Silence after which a process counts as stopped rather than slow.
const QUIET: Duration = Duration::from_secs(2);

/// The links to all other processes, and the threads that read and write them.
#[derive(Clone)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    /// Held by the world and its groups; none in the threads' own handles.
    _open: Option<Arc<Open>>,
}

/// Closes the links when the last handle is dropped; then the threads end.
struct Open(Arc<Shared>);

struct Shared {
    me: usize,
    timeout: Duration,
    /// Whether there is a failure.
    broken: AtomicBool,
    links: Vec<Mutex<Option<TcpStream>>>,
    state: Mutex<State>,
    /// Something arrived.
    changed: Condvar,
    /// Wakes the monitor thread.
    alarm: Condvar,
}

/// The state of all processes, and of this one's steps.
struct State {
    me: usize,
    members: Vec<Member>,
    step: Option<Step>,
    failure: Option<RankError>,
    /// Whether the failure has been reported to the user.
    reported: bool,
    finished: bool,
    values: HashMap<(u64, usize), Value>,
    delivered: HashMap<u64, Result<Vec<Vec<u8>>, String>>,
}

struct Member {
    peer: Peer,
    last_seen: Instant,
    step: Option<Step>,
    left: bool,
    /// Whether it has the failure, or has ended.
    notified: bool,
}

impl State {
    fn others(&self) -> impl Iterator<Item = &Member> {
        let others = move |member: &&Member| member.peer.process != self.me;
        self.members.iter().filter(others)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("process", &self.shared.me)
            .finish_non_exhaustive()
    }
}

impl Watch {
    /// Links process `me` with the others, which listen at the addresses of `directory`, within the start
    /// timeout, and starts the threads.
    pub(crate) fn start(
        me: usize,
        directory: Vec<Entry>,
        listener: &TcpListener,
        token: &str,
        options: JoinOptions,
    ) -> Result<Self, RankError> {
        let failed = |error: std::io::Error| RankError::Connect {
            reason: error.to_string(),
        };
        let links = mesh::connect(me, &directory, listener, token, options.start_timeout())?;
        let readers: Vec<_> = (links.iter())
            .map(|link| link.as_ref().map(TcpStream::try_clone).transpose())
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        let member = |entry: Entry| Member {
            peer: entry.peer,
            last_seen: Instant::now(),
            step: None,
            left: false,
            notified: false,
        };
        let shared = Arc::new(Shared {
            me,
            timeout: options.timeout,
            broken: AtomicBool::new(false),
            links: links.into_iter().map(Mutex::new).collect(),
            state: Mutex::new(State {
                me,
                members: directory.into_iter().map(member).collect(),
                step: None,
                failure: None,
                reported: false,
                finished: false,
                values: HashMap::new(),
                delivered: HashMap::new(),
            }),
            changed: Condvar::new(),
            alarm: Condvar::new(),
        });
        let watch = Self {
            _open: Some(Arc::new(Open(shared.clone()))),
            shared,
        };
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let spawned = std::thread::Builder::new().name(name.into()).spawn(work);
            spawned.map(drop).map_err(failed)
        };
        for (process, link) in readers.into_iter().enumerate() {
            if let Some(link) = link {
                let watch = watch.unguarded();
                spawn("apb-link", Box::new(move || watch.read_link(process, link)))?;
            }
        }
        let monitor = watch.unguarded();
        let JoinOptions {
            on_failure,
            terminated,
            ..
        } = options;
        spawn(
            "apb-monitor",
            Box::new(move || monitor.monitor(on_failure.as_ref(), &terminated)),
        )?;
        Ok(watch)
    }

    /// A handle that does not keep the links open.
    pub(crate) fn unguarded(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            _open: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a message or result, at most until the next heartbeat.
    fn pause<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let waited = self.shared.changed.wait_timeout(state, HEARTBEAT);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    pub(crate) fn process(&self) -> usize {
        self.shared.me
    }

    pub(crate) fn processes(&self) -> usize {
        self.shared.links.len()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.shared.timeout
    }

    /// The index of the next step, of whichever group.
    pub(crate) fn next_step(&self) -> u64 {
        self.lock().step.map_or(0, |step| step.index + 1)
    }

    /// A process as messages name it.
    pub(crate) fn peer(&self, process: usize) -> Peer {
        self.lock().members[process].peer.clone()
    }

    /// Sets the ranks in the names of processes.
    pub(crate) fn set_ranks(&self, ranks_of: impl Fn(usize) -> Ranks) {
        for member in &mut self.lock().members {
            member.peer.ranks = ranks_of(member.peer.process);
        }
    }

    /// Enters a step; fails where a process is lost.
    pub(crate) fn enter(&self, step: Step) -> Result<(), RankError> {
        let mut state = self.lock();
        state.step = Some(step);
        state.failure.clone().map_or(Ok(()), Err)
    }

    /// Fails where a process is lost.
    pub(crate) fn check(&self) -> Result<(), RankError> {
        match self.is_broken() {
            true => self.lock().failure.clone().map_or(Ok(()), Err),
            false => Ok(()),
        }
    }

    /// Whether a process is lost. The engine must not be called any more: it may end this process when it
    /// finds that out itself.
    pub(crate) fn is_broken(&self) -> bool {
        self.shared.broken.load(Ordering::Relaxed)
    }

    /// Stores the engine's result of a step.
    pub(crate) fn deliver(&self, index: u64, result: Result<Vec<Vec<u8>>, String>) {
        self.lock().delivered.insert(index, result);
        self.shared.changed.notify_all();
    }

    /// Waits for the engine's result of a step, unless a process is lost or late.
    pub(crate) fn wait(&self, step: Step) -> Result<Vec<Vec<u8>>, RankError> {
        let mut ready = |state: &mut State| state.delivered.remove(&step.index);
        let timeout = Some(self.shared.timeout);
        let result = self.wait_within(step, timeout, &mut ready, |state| state.behind(step))?;
        result.map_err(|reason| self.fail_step(step, RankError::Engine { at: step, reason }))
    }

    /// Records why a step that nobody waits for does not end, where that is known: a process is in another one, or it
    /// has waited for longer than the timeout.
    pub(crate) fn check_step(&self, step: Step, waited: Duration) {
        let state = self.lock();
        if state.failure.is_some() {
            return;
        }
        let late = || state.late(step, waited, &state.behind(step));
        let error = state
            .mismatch(step)
            .or_else(|| (waited >= self.shared.timeout).then(late));
        if let Some(error) = error {
            self.record_failure(state, error);
        }
    }

    fn wait_within<T>(
        &self,
        step: Step,
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
            if let Some(error) = &state.failure {
                return Err(error.clone());
            }
            if let Some(error) = state.mismatch(step) {
                return Err(self.record_failure(state, error));
            }
            if deadline.is_some_and(|deadline| waited >= deadline) {
                let error = state.late(step, waited, &missing(&state));
                return Err(self.record_failure(state, error));
            }
            let before = Instant::now();
            state = self.pause(state);
            // The clock runs on while this process is stopped; that is not the others' delay.
            waited += before.elapsed().min(OWN_GAP);
        }
    }

    /// Gathers a value from every process, in their order. Without a deadline a process may take as long as
    /// it lives.
    pub(crate) fn gather_values(
        &self,
        round: u64,
        value: Value,
        deadline: Option<Duration>,
    ) -> Result<Vec<Value>, RankError> {
        self.lock()
            .values
            .insert((round, self.shared.me), value.clone());
        self.send_all(&Message::Value { round, value });
        let count = self.processes();
        let step = Step {
            index: round,
            operation: Operation::GatherValues,
            layer: None,
            bytes: 0,
        };
        let mut ready = |state: &mut State| {
            let all = (0..count).all(|process| state.values.contains_key(&(round, process)));
            all.then(|| {
                let values =
                    (0..count).filter_map(|process| state.values.remove(&(round, process)));
                values.collect()
            })
        };
        self.wait_within(step, deadline, &mut ready, |state| {
            (0..count)
                .filter(|process| !state.values.contains_key(&(round, *process)))
                .collect()
        })
    }

    /// Sends the others the reason why this process cannot go on.
    pub(crate) fn fail(&self, reason: &str) {
        self.shared.broken.store(true, Ordering::Relaxed);
        let reason = reason.to_owned();
        self.send_all(&Message::Failed {
            reason,
            of_others: false,
        });
        let mut state = self.lock();
        state.reported = true;
        state.finished = true;
        self.shared.alarm.notify_all();
    }

    /// Ends this process once the others have the reason of the failure, so that each can report it: launchers
    /// and MPI end the rest as soon as one ends.
    pub(crate) fn exit(&self, code: i32) -> ! {
        self.acknowledge();
        let since = Instant::now();
        let mut state = self.lock();
        let quiet = QUIET.min(self.shared.timeout / 2);
        let pending = |state: &State| {
            let waits = |m: &Member| !m.notified && !m.left && m.last_seen.elapsed() < quiet;
            state.others().any(waits)
        };
        while pending(&state) && since.elapsed() < GRACE {
            state = self.pause(state);
        }
        end_process(code)
    }

    /// Whether the caller is the first, and so the one to report the failure to the user.
    pub(crate) fn claim_report(&self) -> bool {
        !std::mem::replace(&mut self.lock().reported, true)
    }

    /// Returns once every process leaves, however long that takes.
    pub(crate) fn leave(&self) -> Result<(), RankError> {
        self.send_all(&Message::Leave);
        let mut state = self.lock();
        loop {
            if let Some(error) = &state.failure {
                return Err(error.clone());
            }
            if state.others().all(|member| member.left) {
                state.finished = true;
                self.shared.alarm.notify_all();
                return Ok(());
            }
            state = self.pause(state);
        }
    }

    fn send_all(&self, message: &Message) {
        for link in &self.shared.links {
            send(link, message);
        }
    }

    /// Tells the others what this process knows of the failure.
    fn acknowledge(&self) {
        let reason = match &self.lock().failure {
            Some(RankError::Reported { reason, .. }) => Some(reason.clone()),
            known => known.as_ref().map(RankError::to_string),
        };
        self.send_all(&Message::Acknowledged { reason });
    }

    /// Records a failure that the engine or this process found in a step. Engines do not name the process
    /// at fault; its heartbeats may.
    pub(crate) fn fail_step(&self, step: Step, error: RankError) -> RankError {
        let since = Instant::now();
        let mut state = self.lock();
        if matches!(error, RankError::Engine { .. }) {
            while since.elapsed() < GRACE && state.failure.is_none() {
                if let Some(other) = state.mismatch(step) {
                    return self.record_failure(state, other);
                }
                state = self.pause(state);
            }
        }
        self.record_failure(state, error)
    }

    /// Records a failure that this process found, and sends it to the others.
    fn record_failure(&self, mut state: MutexGuard<'_, State>, error: RankError) -> RankError {
        if let Some(known) = &state.failure {
            return known.clone();
        }
        state.failure = Some(error.clone());
        self.shared.broken.store(true, Ordering::Relaxed);
        drop(state);
        self.shared.changed.notify_all();
        self.shared.alarm.notify_all();
        let reason = error.to_string();
        self.send_all(&Message::Failed {
            reason,
            of_others: true,
        });
        error
    }

    /// Records a failure that another process sent.
    fn accept_failure(&self, state: &mut State, error: RankError) {
        if state.failure.is_none() && !state.finished {
            state.failure = Some(error);
            self.shared.broken.store(true, Ordering::Relaxed);
            self.shared.alarm.notify_all();
        }
    }

    /// Reads one link until it ends.
    fn read_link(&self, process: usize, link: TcpStream) {
        let mut link = BufReader::new(link);
        while let Some(message) = receive(&mut link) {
            let mut state = self.lock();
            let at = state.step;
            let member = &mut state.members[process];
            member.last_seen = Instant::now();
            let peer = Box::new(member.peer.clone());
            match message {
                Message::Hello { .. } => {}
                Message::Heartbeat { step } => member.step = step,
                Message::Value { round, value } => {
                    state.values.insert((round, process), value);
                }
                Message::Failed { reason, of_others } => {
                    member.notified = true;
                    let error = match of_others {
                        true => RankError::Reported {
                            by: peer,
                            reason,
                            at,
                        },
                        false => RankError::Failed { peer, reason },
                    };
                    self.accept_failure(&mut state, error);
                }
                Message::Acknowledged { reason } => {
                    member.notified = true;
                    if let Some(reason) = reason {
                        let error = RankError::Reported {
                            by: peer,
                            reason,
                            at,
                        };
                        self.accept_failure(&mut state, error);
                    }
                }
                Message::Leave => member.left = true,
            }
            drop(state);
            self.shared.changed.notify_all();
        }
        let mut state = self.lock();
        state.members[process].notified = true;
        self.shared.changed.notify_all();
        let member = &state.members[process];
        if !member.left && !state.finished && state.failure.is_none() {
            let error = RankError::Exited {
                peer: Box::new(member.peer.clone()),
                at: state.step,
            };
            self.record_failure(state, error);
        }
    }

    /// Sends heartbeats and checks those of the others until the end.
    fn monitor(&self, on_failure: Option<&OnFailure>, terminated: &AtomicBool) {
        let mut last = Instant::now();
        let mut asked = None;
        loop {
            let mut state = self.lock();
            if state.finished && (state.reported || state.failure.is_none()) {
                return;
            }
            let now = Instant::now();
            let gap = now - last;
            if gap > OWN_GAP {
                for member in &mut state.members {
                    member.last_seen = (member.last_seen + gap).min(now);
                }
            }
            last = now;
            if terminated.load(Ordering::Relaxed) && asked.is_none() {
                asked = Some(now);
            }
            if let Some(error) = state.failure.clone() {
                // At once: a launcher kills the others as soon as one has ended.
                if !state.reported {
                    state.reported = on_failure.is_some();
                    let me = state.members[self.shared.me].peer.clone();
                    drop(state);
                    if let Some(ControlFlow::Break(code)) = on_failure.map(|call| call(&me, &error))
                    {
                        self.exit(code);
                    }
                    self.acknowledge();
                }
                return;
            } else if asked.is_some_and(|since| now - since >= GRACE) {
                let error = RankError::Failed {
                    peer: Box::new(state.members[self.shared.me].peer.clone()),
                    reason: "it was asked to end (SIGTERM)".into(),
                };
                self.record_failure(state, error);
                continue;
            } else if let Some(error) = state.unresponsive(now, self.shared.timeout) {
                self.record_failure(state, error);
                continue;
            }
            let step = state.step;
            drop(state);
            self.send_all(&Message::Heartbeat { step });
            let state = self.lock();
            if !state.finished {
                let waited = self.shared.alarm.wait_timeout(state, HEARTBEAT);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            }
        }
    }
}

/// Ends the process without the exit handlers of libraries.
pub(crate) fn end_process(code: i32) -> ! {
    #[cfg(unix)]
    // SAFETY: ends the process.
    unsafe {
        libc::_exit(code)
    }
    #[cfg(not(unix))]
    std::process::exit(code)
}

impl Drop for Open {
    fn drop(&mut self) {
        let watch = Watch {
            shared: self.0.clone(),
            _open: None,
        };
        let mut state = watch.lock();
        let failed = state.failure.is_some();
        let early = !state.finished && !failed;
        state.finished = true;
        drop(state);
        if failed {
            watch.acknowledge();
        } else if early {
            let reason = match std::thread::panicking() {
                true => "it panicked",
                false => "it dropped its world and groups before it left",
            };
            watch.send_all(&Message::Failed {
                reason: reason.into(),
                of_others: false,
            });
        }
        self.0.alarm.notify_all();
        for link in &self.0.links {
            let mut link = link.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(link) = link.take() {
                // The thread that reads it ends; one that is closed already needs no more.
                let _ = link.shutdown(Shutdown::Both);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ends_because_of_another_says_so_first() {
        let (listeners, directory): (Vec<_>, Vec<Entry>) =
            (0..2).map(|process| listen(process, None).unwrap()).unzip();
        let other = directory.clone();
        let timeout = Duration::from_secs(20);
        let follower = std::thread::scope(|scope| {
            let link = scope.spawn(|| mesh::connect(1, &other, &listeners[1], "token", timeout));
            let options = JoinOptions::default();
            let watch = Watch::start(0, directory, &listeners[0], "token", options).unwrap();
            let link = Mutex::new(link.join().unwrap().unwrap().swap_remove(0));
            // Process 2, which failed, is not heard here; process 1 heard it, and closes its link.
            let reason = Some("rank 2 dropped its world".into());
            send(&link, &Message::Acknowledged { reason });
            drop(link);
            let step = Step {
                index: 0,
                operation: Operation::GatherValues,
                layer: None,
                bytes: 0,
            };
            watch.wait(step).unwrap_err()
        });
        let RankError::Reported { by, reason, .. } = follower else {
            panic!("{follower}");
        };
        assert_eq!(
            (by.process, reason.as_str()),
            (1, "rank 2 dropped its world")
        );
    }
}
