//! The thread that calls MPI, and the only one that does.
//!
//! Requests are started without blocking and tested in turns. A call that blocks, for a process that is
//! lost for instance, blocks this thread and no other: the process can always report the failure and end.
//! An MPI that has lost a process cannot be finalised, so after a failure it never is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

use burn::tensor::Bytes;
use mpi::ffi;
use mpi::raw::AsRaw;
use mpi::topology::SimpleCommunicator;
use mpi::traits::Communicator;

/// Tests in a row before the thread sleeps, for low latency.
const EAGER_TESTS: u32 = 200;
/// Sleeps between tests get longer up to this, so that cores are left to the kernels.
const LONGEST_REST: Duration = Duration::from_micros(200);
/// After the last request MPI may still hold data that it reported as sent; it needs calls to send it.
const LINGER: Duration = Duration::from_millis(200);
const LINGER_REST: Duration = Duration::from_millis(1);
/// The same, without end, for processes that are late.
const IDLE_REST: Duration = Duration::from_millis(20);
/// Time between two looks at whether this process was asked to end.
const CHECK: Duration = Duration::from_millis(50);

/// Buffers received, by process where there are several.
pub(super) type Received = Result<Vec<Vec<u8>>, String>;

/// Called with the result.
pub(super) type Done = Box<dyn FnOnce(Received) + Send>;

/// A request to the thread.
pub(super) enum Job {
    /// The bytes of every process to all, the same length each: one buffer, by process.
    AllGather(Bytes),
    /// Messages to and from single processes: buffers in the order of `receive`.
    SendReceive {
        /// Destinations and bytes.
        send: Vec<(usize, Bytes)>,
        /// Sources and lengths in bytes.
        receive: Vec<(usize, usize)>,
        /// Distinguishes this step from those before and after.
        tag: i32,
    },
    /// Process `root`'s bytes to all, in place.
    Broadcast {
        root: usize,
        /// The same length on every process.
        bytes: Vec<u8>,
    },
    /// A check, made before every call from now on, after which MPI is not called any more.
    StopIf(Box<dyn Fn() -> bool + Send>),
    /// Finalises MPI, when every process does.
    Finalize,
}

/// Sends requests to the thread.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    jobs: Sender<(Job, Done)>,
    /// Set when this process was asked to end.
    terminated: Arc<AtomicBool>,
}

/// MPI's number of this process, and of all.
pub(super) type Size = (usize, usize);

impl Engine {
    /// Starts MPI on a thread of its own; waits for it no longer than `timeout`.
    pub(super) fn start(
        timeout: Duration,
        terminated: Arc<AtomicBool>,
    ) -> Result<(Self, Size), String> {
        let (jobs, queue) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        std::thread::Builder::new()
            .name("apb-mpi".into())
            .spawn(move || serve(&queue, &ready))
            .map_err(|error| error.to_string())?;
        let size = receive(&started, timeout, &terminated)??;
        Ok((Self { jobs, terminated }, size))
    }

    /// Queues a request.
    pub(super) fn submit(&self, job: Job, done: Done) {
        // The thread ends only after the last job of all.
        let _ = self.jobs.send((job, done));
    }

    /// Queues a request and waits for its result.
    pub(super) fn run(&self, job: Job, timeout: Duration) -> Received {
        let (sender, receiver) = mpsc::channel();
        self.submit(job, Box::new(move |result| drop(sender.send(result))));
        receive(&receiver, timeout, &self.terminated)?
    }
}

/// Receives within the timeout; fails when this process was asked to end, as launchers do when another is lost.
fn receive<T>(
    receiver: &Receiver<T>,
    timeout: Duration,
    terminated: &AtomicBool,
) -> Result<T, String> {
    let started = Instant::now();
    loop {
        match receiver.recv_timeout(CHECK) {
            Ok(received) => return Ok(received),
            Err(RecvTimeoutError::Disconnected) => return Err("MPI ended".into()),
            Err(RecvTimeoutError::Timeout) if terminated.load(Ordering::Relaxed) => {
                return Err(
                    "the launcher ended this process; another ended before it joined".into(),
                );
            }
            Err(RecvTimeoutError::Timeout) if started.elapsed() >= timeout => {
                return Err(format!("MPI did not answer within {timeout:?}"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Requests under way, with the memory that MPI reads and writes until they are complete.
struct Pending {
    requests: Vec<ffi::MPI_Request>,
    /// Never touched before the requests are done; moving a `Vec` or `Bytes` leaves its memory where it is.
    received: Vec<Vec<u8>>,
    /// Likewise.
    sent: Vec<Bytes>,
    /// Whether the first requests are receives from single processes, one for each buffer.
    single: bool,
    done: Option<Done>,
}

fn serve(queue: &Receiver<(Job, Done)>, ready: &Sender<Result<Size, String>>) {
    let Some((universe, _)) = mpi::initialize_with_threading(mpi::Threading::Funneled) else {
        let _ = ready.send(Err("MPI was started by this process before".into()));
        return;
    };
    let world = universe.world();
    let comm = world.as_raw();
    // SAFETY: `comm` lives as long as `universe`. Errors are to come back rather than end the process.
    unsafe { ffi::MPI_Comm_set_errhandler(comm, ffi::RSMPI_ERRORS_RETURN) };
    let number = |n: i32| usize::try_from(n).unwrap_or_default();
    let _ = ready.send(Ok((number(world.rank()), number(world.size()))));

    let mut broken: Box<dyn Fn() -> bool + Send> = Box::new(|| false);
    let mut active: Vec<Pending> = Vec::new();
    let mut tests = 0;
    let mut last = Instant::now();
    loop {
        let next = match active.is_empty() {
            false => queue.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            }),
            true if last.elapsed() < LINGER => queue.recv_timeout(LINGER_REST),
            true => queue.recv_timeout(IDLE_REST),
        };
        match next {
            Ok((Job::Finalize, done)) => {
                drop(universe);
                done(Ok(Vec::new()));
                return;
            }
            Ok((Job::StopIf(check), done)) => {
                broken = check;
                done(Ok(Vec::new()));
                continue;
            }
            Ok((job, done)) if !broken() => {
                tests = 0;
                last = Instant::now();
                match start(&world, job) {
                    Ok(mut pending) => {
                        pending.done = Some(done);
                        active.push(pending);
                    }
                    Err(reason) => done(Err(reason)),
                }
            }
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            // The world and its groups were dropped before all processes left: MPI is never finalised, and keeps the
            // buffers of what is under way. Whoever waits for that learns that nothing comes.
            Err(RecvTimeoutError::Disconnected) => {
                active.iter_mut().for_each(|pending| pending.done = None);
                std::mem::forget(active);
                std::mem::forget(universe);
                return;
            }
        }
        if broken() {
            // Callers get the error from the watch; MPI keeps its buffers.
            std::mem::forget(std::mem::take(&mut active));
            std::thread::sleep(IDLE_REST);
            continue;
        }
        if active.is_empty() {
            progress(comm);
            continue;
        }
        let before = active.len();
        active.retain_mut(|pending| !finished(pending));
        if active.len() < before {
            tests = 0;
            last = Instant::now();
            continue;
        }
        tests += 1;
        if tests < EAGER_TESTS {
            std::thread::yield_now();
        } else {
            std::thread::sleep(
                Duration::from_micros(u64::from(tests / EAGER_TESTS) * 10).min(LONGEST_REST),
            );
        }
    }
}

/// Lets MPI make progress.
fn progress(comm: ffi::MPI_Comm) {
    let mut found = 0;
    // SAFETY: `comm` is the world's, `found` lives through the call, no status is asked for.
    unsafe {
        ffi::MPI_Iprobe(
            ffi::RSMPI_ANY_SOURCE,
            ffi::RSMPI_ANY_TAG,
            comm,
            &raw mut found,
            ffi::RSMPI_STATUS_IGNORE,
        )
    };
}

/// Whether all requests are done, or one failed; then the result is on its way.
fn finished(pending: &mut Pending) -> bool {
    let mut done = 0;
    // SAFETY: a status is plain numbers.
    let status = || unsafe { std::mem::zeroed::<ffi::MPI_Status>() };
    let mut statuses: Vec<_> = pending.requests.iter().map(|_| status()).collect();
    // SAFETY: the requests are live or null, there is a status for each, and `pending` holds their buffers.
    let code = unsafe {
        ffi::MPI_Testall(
            pending.requests.len() as i32,
            pending.requests.as_mut_ptr(),
            &raw mut done,
            statuses.as_mut_ptr(),
        )
    };
    let result = match checked(code) {
        Err(reason) => Err(reason),
        Ok(()) if done == 0 => return false,
        Ok(()) => {
            let mut received = std::mem::take(&mut pending.received);
            if pending.single {
                // A message shorter than expected is no error in MPI; the length shows it.
                for (buffer, status) in received.iter_mut().zip(&statuses) {
                    let mut length = 0;
                    // SAFETY: the status is of a receive that is done, of bytes.
                    unsafe { ffi::MPI_Get_count(status, ffi::RSMPI_UINT8_T, &raw mut length) };
                    buffer.truncate(usize::try_from(length).unwrap_or_default());
                }
            }
            Ok(received)
        }
    };
    if result.is_err() {
        // MPI may still use the buffers of requests that are not done: they are leaked.
        std::mem::forget(std::mem::take(&mut pending.received));
        std::mem::forget(std::mem::take(&mut pending.sent));
    }
    if let Some(done) = pending.done.take() {
        done(result);
    }
    true
}

/// Starts the requests of a job.
fn start(world: &SimpleCommunicator, job: Job) -> Result<Pending, String> {
    let mut pending = Pending {
        requests: Vec::new(),
        received: Vec::new(),
        sent: Vec::new(),
        single: false,
        done: None,
    };
    match begin(world, job, &mut pending) {
        Ok(()) => Ok(pending),
        Err(reason) => {
            // MPI may still use the buffers of requests that were started before: they are leaked.
            std::mem::forget(pending);
            Err(reason)
        }
    }
}

/// Starts requests one after another. Each buffer is in `pending` before MPI is given its address, after an error too.
fn begin(world: &SimpleCommunicator, job: Job, pending: &mut Pending) -> Result<(), String> {
    let comm = world.as_raw();
    // SAFETY: a constant of MPI's, which has started.
    let byte = unsafe { ffi::RSMPI_UINT8_T };
    // SAFETY: as above.
    let request = || unsafe { ffi::RSMPI_REQUEST_NULL };
    match job {
        Job::AllGather(bytes) => {
            let count = count(bytes.len())?;
            let mut all = buffer(bytes.len() * world.size() as usize);
            let (from, to) = (address(&bytes), all.as_mut_ptr().cast());
            pending.sent.push(bytes);
            pending.received.push(all);
            let mut new = request();
            // SAFETY: the buffers lie on the heap, are owned by `pending`, and are neither freed nor accessed until the
            // request is complete; there is room for `count` bytes of every process.
            let code = unsafe {
                ffi::MPI_Iallgather(from, count, byte, to, count, byte, comm, &raw mut new)
            };
            checked(code)?;
            pending.requests.push(new);
        }
        Job::SendReceive { send, receive, tag } => {
            pending.single = true;
            for (from, length) in receive {
                let count = count(length)?;
                let mut message = buffer(length);
                let to = message.as_mut_ptr().cast();
                pending.received.push(message);
                let mut new = request();
                // SAFETY: as above; there is room for `count` bytes.
                let code = unsafe {
                    ffi::MPI_Irecv(to, count, byte, from as i32, tag, comm, &raw mut new)
                };
                checked(code)?;
                pending.requests.push(new);
            }
            for (to, bytes) in send {
                let count = count(bytes.len())?;
                let from = address(&bytes);
                pending.sent.push(bytes);
                let mut new = request();
                // SAFETY: as above; there are `count` bytes.
                let code = unsafe {
                    ffi::MPI_Isend(from, count, byte, to as i32, tag, comm, &raw mut new)
                };
                checked(code)?;
                pending.requests.push(new);
            }
        }
        Job::Broadcast { root, mut bytes } => {
            let count = count(bytes.len())?;
            let all = bytes.as_mut_ptr().cast();
            pending.received.push(bytes);
            let mut new = request();
            // SAFETY: as above; there are `count` bytes.
            let code =
                unsafe { ffi::MPI_Ibcast(all, count, byte, root as i32, comm, &raw mut new) };
            checked(code)?;
            pending.requests.push(new);
        }
        Job::StopIf(_) | Job::Finalize => {}
    }
    Ok(())
}

/// Zeros to receive into. Rust's pointer of an empty buffer may be MPI's `MPI_IN_PLACE` (1 in Open MPI), so
/// even an empty one is allocated.
fn buffer(length: usize) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(length.max(1));
    buffer.resize(length, 0);
    buffer
}

/// The address of bytes to send; see [`buffer`].
fn address(bytes: &[u8]) -> *const std::ffi::c_void {
    static NOTHING: u8 = 0;
    match bytes.is_empty() {
        true => (&raw const NOTHING).cast(),
        false => bytes.as_ptr().cast(),
    }
}

/// A length as MPI's integer type.
fn count(bytes: usize) -> Result<i32, String> {
    i32::try_from(bytes)
        .map_err(|_| format!("{bytes} bytes in one message; MPI counts to {}", i32::MAX))
}

fn checked(code: i32) -> Result<(), String> {
    if code == ffi::MPI_SUCCESS as i32 {
        return Ok(());
    }
    let mut text = vec![0u8; ffi::MPI_MAX_ERROR_STRING as usize];
    let mut length = 0;
    // SAFETY: the text has room for the longest message.
    unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), &raw mut length) };
    text.truncate(usize::try_from(length).unwrap_or_default());
    Err(format!(
        "MPI error {code}: {}",
        String::from_utf8_lossy(&text)
    ))
}
