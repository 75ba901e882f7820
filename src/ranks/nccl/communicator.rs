//! The thread that calls NCCL, and the only one that does.
//!
//! The communicator does not block, so that the thread can check the ranks while NCCL connects, moves or
//! waits. Once a rank is lost it aborts the communicator, which ends the kernels that wait for that rank on
//! the device. A call of NCCL that blocks, blocks this thread and no other: the process can always report the
//! failure and end.

use std::any::Any;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::library::{BYTES, Comm, Config, IN_PROGRESS, Library, SUCCESS, UniqueId};
use crate::cuda::{Event, Order};
use crate::ranks::watch::{OWN_GAP, Watch};
use crate::ranks::{RankError, Step};

/// Tests in a row before the thread sleeps, for low latency.
const EAGER_TESTS: u32 = 200;
/// Time between tests after those.
const REST: Duration = Duration::from_micros(20);
/// Time between two checks of the ranks while nothing is moved.
const CHECK: Duration = Duration::from_millis(50);

/// Memory of the device: address and bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub address: u64,
    pub bytes: usize,
}

/// One transfer of a step.
#[derive(Debug, Clone, Copy)]
pub(super) enum Transfer {
    /// The bytes of every process to all: `to` has room for those of all.
    AllGather {
        from: Span,
        to: Span,
    },
    /// Process `root`'s bytes to all, in place.
    Broadcast {
        root: usize,
        span: Span,
    },
    Send {
        to: usize,
        span: Span,
    },
    Receive {
        from: usize,
        span: Span,
    },
}

/// Keeps memory alive while it is moved.
pub(super) type Kept = Vec<Box<dyn Any + Send>>;

/// Where the end of a step's transfers is on the device, once they are on the stream.
pub(super) type End = Arc<OnceLock<Event>>;

enum Job {
    /// The transfers of one step, whose memory nothing else uses until they are done.
    Move {
        step: Step,
        /// They start behind it.
        ready: Option<Event>,
        transfers: Vec<Transfer>,
        end: End,
        kept: Kept,
    },
    /// Finalises NCCL, when every process does.
    Finish(Sender<Result<(), String>>),
}

/// Sends jobs to the thread.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    jobs: Sender<Job>,
    order: Arc<Order>,
}

impl Engine {
    /// Connects this process, which takes GPU `device`, with the others; waits no longer than `timeout`.
    pub(super) fn start(
        library: &'static Library,
        device: usize,
        id: UniqueId,
        watch: Watch,
        timeout: Duration,
    ) -> Result<Self, String> {
        let order = Order::new(device).map_err(|error| format!("GPU {device}: {error}"))?;
        let order = Arc::new(order);
        let (jobs, queue) = mpsc::channel();
        let (ready, connected) = mpsc::channel();
        let run = {
            let order = order.clone();
            move || match Communicator::connect(library, order, id, &watch) {
                Ok(communicator) => {
                    let _ = ready.send(Ok(()));
                    serve(communicator, &queue, &watch);
                }
                Err(reason) => {
                    let _ = ready.send(Err(reason));
                }
            }
        };
        std::thread::Builder::new()
            .name("apb-nccl".into())
            .spawn(run)
            .map_err(|error| format!("no thread for NCCL: {error}"))?;
        match connected.recv_timeout(timeout) {
            Ok(result) => result.map(|()| Self { jobs, order }),
            Err(_) => Err(format!(
                "NCCL did not connect the processes within {timeout:?}; NCCL_DEBUG=INFO shows what it \
                 tries, NCCL_SOCKET_IFNAME names the network"
            )),
        }
    }

    /// The stream that NCCL works on.
    pub(super) fn order(&self) -> &Order {
        &self.order
    }

    /// Starts transfers behind `ready`, or at once. [`Watch::deliver`] gets their end: that they are on the stream where
    /// the stream [is ordered](Order::is_total) with all else, and then `end` is set; else that they are done.
    pub(super) fn submit(
        &self,
        step: Step,
        ready: Option<Event>,
        transfers: Vec<Transfer>,
        kept: Kept,
    ) -> End {
        let end = End::default();
        // A thread that has ended has passed the reason to the watch.
        let _ = self.jobs.send(Job::Move {
            step,
            ready,
            transfers,
            end: end.clone(),
            kept,
        });
        end
    }

    /// Finalises NCCL, which waits for all processes, no longer than `timeout`.
    pub(super) fn finish(&self, timeout: Duration) -> Result<(), String> {
        let (done, finished) = mpsc::channel();
        let _ = self.jobs.send(Job::Finish(done));
        finished
            .recv_timeout(timeout)
            .map_err(|_| format!("NCCL did not end within {timeout:?}"))?
    }
}

/// Transfers on the stream.
struct Moving {
    step: Step,
    ready: Option<Event>,
    end: End,
    /// How long they have waited for other processes.
    waited: Duration,
    /// Kept alive until they are done.
    _kept: Kept,
}

/// Runs the jobs in order until the end.
fn serve(communicator: Communicator, queue: &Receiver<Job>, watch: &Watch) {
    let ordered = communicator.order.is_total();
    let mut moving: VecDeque<Moving> = VecDeque::new();
    let mut tests = 0;
    let mut checked = Instant::now();
    loop {
        let job = match moving.is_empty() {
            true => queue.recv_timeout(CHECK),
            false => queue.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            }),
        };
        let result = match job {
            Ok(Job::Move {
                step,
                ready,
                transfers,
                end,
                kept,
            }) => {
                tests = 0;
                match communicator.enqueue(ready.as_ref(), &transfers, watch) {
                    Ok(event) => {
                        // Nothing else sets it.
                        let _ = end.set(event);
                        if ordered {
                            watch.deliver(step.index, Ok(Vec::new()));
                        }
                        moving.push_back(Moving {
                            step,
                            ready,
                            end,
                            waited: Duration::ZERO,
                            _kept: kept,
                        });
                        Ok(())
                    }
                    Err(reason) => {
                        // Which of them have begun is unknown: their memory is never used again.
                        std::mem::forget(kept);
                        watch.deliver(step.index, Err(reason.clone()));
                        Err((step, reason))
                    }
                }
            }
            Ok(Job::Finish(done)) => {
                // It ends what is on the stream as well.
                let finished = communicator.finish(watch);
                if finished.is_err() {
                    std::mem::forget(moving);
                }
                let _ = done.send(finished);
                return;
            }
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) if moving.is_empty() => return,
            Err(RecvTimeoutError::Disconnected) => Ok(()),
        };
        let result = result.and_then(|()| match moving.front() {
            None => Ok(()),
            Some(first) => match communicator.test(&first.end) {
                Ok(false) => Ok(()),
                Ok(true) => {
                    if !ordered {
                        watch.deliver(first.step.index, Ok(Vec::new()));
                    }
                    moving.pop_front();
                    tests = 0;
                    Ok(())
                }
                Err(reason) if ordered => Err((first.step, reason)),
                Err(reason) => {
                    watch.deliver(first.step.index, Err(reason.clone()));
                    Err((first.step, reason))
                }
            },
        });
        let passed = checked.elapsed();
        if ordered && passed >= CHECK {
            checked = Instant::now();
            if let Some(first) = moving.front_mut() {
                first.wait(passed, watch);
            }
        }
        let failed = result.is_err();
        if failed || watch.is_broken() {
            // Nobody waits for a step that was delivered: the failure is everybody's, before its transfers end.
            if let (true, Err((step, reason))) = (ordered, result) {
                watch.fail_step(step, RankError::Engine { at: step, reason });
            }
            std::mem::forget(moving);
            communicator.abort();
            return;
        }
        tests += 1;
        if tests > EAGER_TESTS {
            std::thread::sleep(REST);
        }
    }
}

impl Moving {
    /// Counts time in which the others could have come, and has the watch say who has not once it is too long.
    fn wait(&mut self, passed: Duration, watch: &Watch) {
        // Before that, this process computes what it sends.
        let ready = self.ready.as_ref().map(Event::is_reached);
        if matches!(ready, None | Some(Ok(true))) {
            self.ready = None;
            // The clock runs on while this process is stopped; that is not the others' delay.
            self.waited += passed.min(OWN_GAP);
        }
        watch.check_step(self.step, self.waited);
    }
}

/// A communicator and the stream that it works on. It lives on one thread.
struct Communicator {
    library: &'static Library,
    comm: Comm,
    order: Arc<Order>,
}

impl Communicator {
    fn connect(
        library: &'static Library,
        order: Arc<Order>,
        id: UniqueId,
        watch: &Watch,
    ) -> Result<Self, String> {
        let number = |n: usize| i32::try_from(n).map_err(|_| format!("{n} is no rank of NCCL's"));
        let mut config = Config::without_blocking();
        let mut comm: Comm = std::ptr::null_mut();
        let (process, processes) = (number(watch.process())?, number(watch.processes())?);
        // The context is the device's primary one, as CubeCL's, so that addresses are the same.
        let code = order.within(|_| {
            // SAFETY: the pointers are to values of this function, and the device's context is this thread's. NCCL has
            // read the configuration when it returns.
            Ok(unsafe { (library.init)(&raw mut comm, processes, id, process, &raw mut config) })
        })?;
        let communicator = Self {
            library,
            comm,
            order,
        };
        match (library.check(code, comm)).and_then(|_| communicator.settle(watch)) {
            Ok(()) => Ok(communicator),
            Err(reason) => {
                communicator.abort();
                Err(reason)
            }
        }
    }

    /// Waits until what was called is under way on the device.
    fn settle(&self, watch: &Watch) -> Result<(), String> {
        while !self.settled()? {
            if watch.is_broken() {
                return Err("a rank was lost".into());
            }
            std::thread::sleep(REST);
        }
        Ok(())
    }

    fn settled(&self) -> Result<bool, String> {
        let mut state = IN_PROGRESS;
        // SAFETY: the communicator was made by NCCL and is not yet gone; the pointer is to a number here.
        let code = unsafe { (self.library.async_error)(self.comm, &raw mut state) };
        self.library.check(code, self.comm)?;
        self.library.check(state, self.comm)
    }

    /// Puts transfers on the stream, all at once, behind `ready`; returns where they end.
    fn enqueue(
        &self,
        ready: Option<&Event>,
        transfers: &[Transfer],
        watch: &Watch,
    ) -> Result<Event, String> {
        let library = self.library;
        if let Some(ready) = ready {
            self.order.follow(ready)?;
        }
        self.order.within(|stream| {
            // SAFETY: takes no pointers; every group is ended below, on this thread.
            library.check(unsafe { (library.group_start)() }, self.comm)?;
            let begun = transfers
                .iter()
                .try_for_each(|transfer| self.begin(transfer, stream.cast()));
            // SAFETY: ends the group begun above.
            let ended = library.check(unsafe { (library.group_end)() }, self.comm);
            begun.and(ended)
        })?;
        // Kernels are launched by a thread of NCCL's own; the event belongs behind them.
        self.settle(watch)?;
        self.order.point()
    }

    fn begin(&self, transfer: &Transfer, stream: *mut c_void) -> Result<(), String> {
        let Self { library, comm, .. } = *self;
        let at = |span: Span| span.address as *mut c_void;
        // Peers are processes of the world, whose number fits (`connect`).
        let peer = |process: usize| process as i32;
        // SAFETY: the addresses are the device's, of as many bytes, and are kept until the event behind
        // these transfers (`serve`); communicator and stream live as long as `self`.
        let code = unsafe {
            match *transfer {
                Transfer::AllGather { from, to } => {
                    (library.all_gather)(at(from), at(to), from.bytes, BYTES, comm, stream)
                }
                Transfer::Broadcast { root, span } => {
                    let count = span.bytes;
                    (library.broadcast)(at(span), at(span), count, BYTES, peer(root), comm, stream)
                }
                Transfer::Send { to, span } => {
                    (library.send)(at(span), span.bytes, BYTES, peer(to), comm, stream)
                }
                Transfer::Receive { from, span } => {
                    (library.receive)(at(span), span.bytes, BYTES, peer(from), comm, stream)
                }
            }
        };
        library.check(code, comm).map(|_| ())
    }

    /// Whether the stream has come to an end, unless NCCL found an error.
    fn test(&self, end: &End) -> Result<bool, String> {
        match end.get().map_or(Ok(true), Event::is_reached)? {
            true => Ok(true),
            false => self.settled().map(|_| false),
        }
    }

    /// Waits for the others and frees all.
    fn finish(self, watch: &Watch) -> Result<(), String> {
        // SAFETY: nothing is moving any more, and the communicator is not used after this.
        let code = unsafe { (self.library.finalize)(self.comm) };
        let settled = (self.library.check(code, self.comm)).and_then(|_| self.settle(watch));
        if let Err(reason) = settled {
            self.abort();
            return Err(reason);
        }
        // SAFETY: finalised above.
        match unsafe { (self.library.destroy)(self.comm) } {
            SUCCESS | IN_PROGRESS => Ok(()),
            code => (self.library.check(code, std::ptr::null_mut())).map(|_| ()),
        }
    }

    /// Ends all transfers, those on the device as well.
    fn abort(self) {
        if !self.comm.is_null() {
            // SAFETY: made by NCCL and not used after this. Its result changes nothing: the others are
            // lost.
            unsafe { (self.library.abort)(self.comm) };
        }
    }
}
