//! The thread that calls NCCL, and the only one that does.
//!
//! The communicator does not block, so that the thread can check the ranks while NCCL connects, moves or
//! waits. Once a rank is lost it aborts the communicator, which ends the kernels that wait for that rank on
//! the device. A call of NCCL that blocks, blocks this thread and no other: the process can always report the
//! failure and end.

use std::any::Any;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::Duration;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream};

use super::library::{BYTES, Comm, Config, IN_PROGRESS, Library, SUCCESS, UniqueId};
use crate::ranks::watch::Watch;

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

enum Job {
    /// The transfers of one step, whose memory nothing else uses until they are done.
    Move {
        index: u64,
        transfers: Vec<Transfer>,
        kept: Kept,
    },
    /// Finalises NCCL, when every process does.
    Finish(Sender<Result<(), String>>),
}

/// Sends jobs to the thread.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    jobs: Sender<Job>,
}

impl Engine {
    /// Connects process `process` of `processes`, which takes GPU `device`, with the others; waits no
    /// longer than `timeout`.
    pub(super) fn start(
        library: &'static Library,
        device: usize,
        id: UniqueId,
        watch: Watch,
        timeout: Duration,
    ) -> Result<Self, String> {
        let (jobs, queue) = mpsc::channel();
        let (ready, connected) = mpsc::channel();
        let run = move || match Communicator::connect(library, device, id, &watch) {
            Ok(communicator) => {
                let _ = ready.send(Ok(()));
                serve(communicator, &queue, &watch);
            }
            Err(reason) => {
                let _ = ready.send(Err(reason));
            }
        };
        std::thread::Builder::new()
            .name("apb-nccl".into())
            .spawn(run)
            .map_err(|error| format!("no thread for NCCL: {error}"))?;
        match connected.recv_timeout(timeout) {
            Ok(result) => result.map(|()| Self { jobs }),
            Err(_) => Err(format!(
                "NCCL did not connect the processes within {timeout:?}; NCCL_DEBUG=INFO shows what it \
                 tries, NCCL_SOCKET_IFNAME names the network"
            )),
        }
    }

    /// Starts transfers, whose end is passed to [`Watch::deliver`].
    pub(super) fn submit(&self, index: u64, transfers: Vec<Transfer>, kept: Kept) {
        // A thread that has ended has passed the reason to the watch.
        let _ = self.jobs.send(Job::Move {
            index,
            transfers,
            kept,
        });
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

/// Runs the jobs in order until the end.
fn serve(communicator: Communicator, queue: &Receiver<Job>, watch: &Watch) {
    let mut moving: VecDeque<(u64, CudaEvent, Kept)> = VecDeque::new();
    let mut tests = 0;
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
                index,
                transfers,
                kept,
            }) => {
                tests = 0;
                match communicator.enqueue(&transfers, watch) {
                    Ok(event) => {
                        moving.push_back((index, event, kept));
                        Ok(())
                    }
                    Err(reason) => {
                        // Which of them have begun is unknown: their memory is never used again.
                        std::mem::forget(kept);
                        Err((index, reason))
                    }
                }
            }
            Ok(Job::Finish(done)) => {
                let _ = done.send(communicator.finish(watch));
                return;
            }
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) if moving.is_empty() => return,
            Err(RecvTimeoutError::Disconnected) => Ok(()),
        };
        let result = result.and_then(|()| match moving.front() {
            None => Ok(()),
            Some((index, event, _)) => match communicator.test(event) {
                Ok(false) => Ok(()),
                Ok(true) => {
                    watch.deliver(*index, Ok(Vec::new()));
                    moving.pop_front();
                    tests = 0;
                    Ok(())
                }
                Err(reason) => Err((*index, reason)),
            },
        });
        let failed = result.is_err();
        if let Err((index, reason)) = result {
            watch.deliver(index, Err(reason));
        }
        if failed || watch.is_broken() {
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

/// A communicator and the stream that it works on. It lives on one thread.
struct Communicator {
    library: &'static Library,
    comm: Comm,
    stream: Arc<CudaStream>,
}

impl Communicator {
    fn connect(
        library: &'static Library,
        device: usize,
        id: UniqueId,
        watch: &Watch,
    ) -> Result<Self, String> {
        let number = |n: usize| i32::try_from(n).map_err(|_| format!("{n} is no rank of NCCL's"));
        // The context is the device's primary one, as CubeCL's, so that addresses are the same.
        let stream = CudaContext::new(device)
            .and_then(|context| context.new_stream())
            .map_err(|error| format!("GPU {device}: {error}"))?;
        let mut config = Config::without_blocking();
        let mut comm: Comm = std::ptr::null_mut();
        let (process, processes) = (number(watch.process())?, number(watch.processes())?);
        // SAFETY: the pointers are to values of this function; `new_stream` has made the device's context
        // this thread's. NCCL has read the configuration when it returns.
        let code =
            unsafe { (library.init)(&raw mut comm, processes, id, process, &raw mut config) };
        let communicator = Self {
            library,
            comm,
            stream,
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

    /// Puts transfers on the stream, all at once, and an event behind them.
    fn enqueue(&self, transfers: &[Transfer], watch: &Watch) -> Result<CudaEvent, String> {
        let library = self.library;
        // SAFETY: takes no pointers; every group is ended below, on this thread.
        library.check(unsafe { (library.group_start)() }, self.comm)?;
        let begun = transfers
            .iter()
            .try_for_each(|transfer| self.begin(transfer));
        // SAFETY: ends the group begun above.
        let ended = library.check(unsafe { (library.group_end)() }, self.comm);
        begun.and(ended)?;
        // Kernels are launched by a thread of NCCL's own; the event belongs behind them.
        self.settle(watch)?;
        let event = self.stream.record_event(None);
        event.map_err(|error| format!("CUDA: {error}"))
    }

    fn begin(&self, transfer: &Transfer) -> Result<(), String> {
        let Self { library, comm, .. } = *self;
        let stream = self.stream.cu_stream().cast::<c_void>();
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

    /// Whether the stream has come to an event, unless NCCL found an error.
    fn test(&self, event: &CudaEvent) -> Result<bool, String> {
        let reached = event.try_is_complete();
        match reached.map_err(|error| format!("CUDA: {error}"))? {
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
