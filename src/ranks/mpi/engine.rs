//! The thread that speaks to MPI, and the only one.
//!
//! Everything is started without blocking and tested for in turns. What the library does inside those
//! calls, a wait for a process that is lost included, holds up this thread and no other: the process
//! can always say what happened and end. An MPI that has lost a process cannot be finalised, so after a
//! failure it never is.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

use burn::tensor::Bytes;
use mpi::ffi;
use mpi::raw::AsRaw;
use mpi::topology::SimpleCommunicator;
use mpi::traits::Communicator;

use crate::ranks::signal;

/// Tests in a row before the thread rests: what arrives at once is taken at once.
const EAGER_TESTS: u32 = 200;
/// Rests between tests get longer up to this, so that cores are left to whoever computes.
const LONGEST_REST: Duration = Duration::from_micros(200);
/// After the last exchange MPI may still hold data that it said was sent; it needs calls to send it.
const LINGER: Duration = Duration::from_millis(200);
const LINGER_REST: Duration = Duration::from_millis(1);
/// The same, without end, for whoever takes part late.
const IDLE_REST: Duration = Duration::from_millis(20);

/// Between two looks for a word from the launcher.
const LOOK: Duration = Duration::from_millis(50);

/// Buffers received, by process where there are several.
pub(super) type Received = Result<Vec<Vec<u8>>, String>;

/// What to do with a result.
pub(super) type Reply = Box<dyn FnOnce(Received) + Send>;

/// Something to move.
pub(super) enum Job {
    /// Everybody's bytes to all, as many each: one buffer, by process.
    AllGather(Bytes),
    /// To and from single processes: buffers in the order of `receive`.
    Exchange {
        /// Where to, and what.
        send: Vec<(usize, Bytes)>,
        /// Where from, and how many bytes.
        receive: Vec<(usize, usize)>,
        /// Tells this exchange from those before and after.
        tag: i32,
    },
    /// From each to each: one buffer, by process.
    AllToAll {
        /// By process, one after the other.
        send: Bytes,
        /// Bytes to each process.
        send_counts: Vec<usize>,
        /// Bytes from each process.
        receive_counts: Vec<usize>,
    },
    /// Process `root`'s bytes to all, in place.
    Broadcast {
        /// Whose.
        root: usize,
        /// As many on every process.
        bytes: Vec<u8>,
    },
    /// Process `root`'s bytes, some to each.
    Scatter {
        /// Whose.
        root: usize,
        /// On `root`: by process, one after the other.
        send: Vec<u8>,
        /// On `root`: bytes to each process.
        counts: Vec<usize>,
        /// Bytes to this process.
        receive: usize,
    },
    /// Asks from now on, before every call, whether MPI is to be left alone.
    Heed(Box<dyn Fn() -> bool + Send>),
    /// Says goodbye to MPI; only when every process does.
    Finalize,
}

/// The way to the thread.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    jobs: Sender<(Job, Reply)>,
}

/// Which process this is, and of how many, as MPI has it.
pub(super) type Size = (usize, usize);

impl Engine {
    /// Starts MPI on a thread of its own; waits for it no longer than `timeout`.
    pub(super) fn start(timeout: Duration) -> Result<(Self, Size), String> {
        let (jobs, queue) = mpsc::channel();
        let (ready, started) = mpsc::channel();
        std::thread::Builder::new()
            .name("apb-mpi".into())
            .spawn(move || serve(&queue, &ready))
            .map_err(|error| error.to_string())?;
        let size = receive(&started, timeout)??;
        Ok((Self { jobs }, size))
    }

    /// Gives the thread something to move.
    pub(super) fn submit(&self, job: Job, reply: Reply) {
        // The thread ends only after the last job of all.
        let _ = self.jobs.send((job, reply));
    }

    /// Moves something and waits for it.
    pub(super) fn run(&self, job: Job, timeout: Duration) -> Received {
        let (sender, receiver) = mpsc::channel();
        self.submit(job, Box::new(move |result| drop(sender.send(result))));
        receive(&receiver, timeout)?
    }
}

/// What comes within the timeout; nothing once the launcher, which lost another process, asked this one
/// to end.
fn receive<T>(receiver: &Receiver<T>, timeout: Duration) -> Result<T, String> {
    let started = Instant::now();
    loop {
        match receiver.recv_timeout(LOOK) {
            Ok(received) => return Ok(received),
            Err(RecvTimeoutError::Disconnected) => return Err("MPI ended".into()),
            Err(RecvTimeoutError::Timeout) if signal::asked_to_end() => {
                return Err(
                    "the launcher ended this process; another did not even come to join".into(),
                );
            }
            Err(RecvTimeoutError::Timeout) if started.elapsed() >= timeout => {
                return Err(format!("MPI did not answer within {timeout:?}"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Requests under way, with the memory that MPI reads and writes until they are done.
struct Pending {
    requests: Vec<ffi::MPI_Request>,
    /// Never touched before the requests are done; moving a `Vec` or `Bytes` leaves its memory where it is.
    received: Vec<Vec<u8>>,
    _sent: Vec<Bytes>,
    _scattered: Vec<u8>,
    _counts: Vec<Vec<i32>>,
    /// Whether the first requests are receives from single processes, one for each buffer.
    single: bool,
    reply: Option<Reply>,
}

fn serve(queue: &Receiver<(Job, Reply)>, ready: &Sender<Result<Size, String>>) {
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
            Ok((Job::Finalize, reply)) => {
                drop(universe);
                reply(Ok(Vec::new()));
                return;
            }
            Ok((Job::Heed(check), reply)) => {
                broken = check;
                reply(Ok(Vec::new()));
                continue;
            }
            Ok((job, reply)) if !broken() => {
                tests = 0;
                last = Instant::now();
                match start(&world, job) {
                    Ok(mut pending) => {
                        pending.reply = Some(reply);
                        active.push(pending);
                    }
                    Err(reason) => reply(Err(reason)),
                }
            }
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            // Whoever used it is gone without a goodbye: the process is about to end.
            Err(RecvTimeoutError::Disconnected) => {
                std::mem::forget(universe);
                return;
            }
        }
        if broken() {
            // Whoever waits hears of it from the watch; MPI keeps its buffers.
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

/// Lets MPI do what it has left to do.
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
    let mut statuses: Vec<ffi::MPI_Status> = pending
        .requests
        .iter()
        .map(|_| unsafe { std::mem::zeroed() })
        .collect();
    // SAFETY: the requests are live or null, and their buffers are held by `pending`.
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
                // A shorter message than expected is no error to MPI; the length tells.
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
        // MPI may still write to buffers of requests that it did not give up: they stay.
        std::mem::forget(std::mem::take(&mut pending.received));
    }
    if let Some(reply) = pending.reply.take() {
        reply(result);
    }
    true
}

/// Starts what is asked for.
fn start(world: &SimpleCommunicator, job: Job) -> Result<Pending, String> {
    let comm = world.as_raw();
    let byte = unsafe { ffi::RSMPI_UINT8_T };
    let mut pending = Pending {
        requests: Vec::new(),
        received: Vec::new(),
        _sent: Vec::new(),
        _scattered: Vec::new(),
        _counts: Vec::new(),
        single: false,
        reply: None,
    };
    // SAFETY (of all blocks below): every buffer and count array that is handed over is owned by
    // `pending`, lies on the heap, and is neither moved nor touched until its request is done.
    let request = || unsafe { ffi::RSMPI_REQUEST_NULL };
    match job {
        Job::AllGather(bytes) => {
            let count = count(bytes.len())?;
            let mut all = buffer(bytes.len() * world.size() as usize);
            let mut new = request();
            checked(unsafe {
                ffi::MPI_Iallgather(
                    address(&bytes),
                    count,
                    byte,
                    all.as_mut_ptr().cast(),
                    count,
                    byte,
                    comm,
                    &raw mut new,
                )
            })?;
            pending.requests.push(new);
            pending.received.push(all);
            pending._sent.push(bytes);
        }
        Job::Exchange { send, receive, tag } => {
            pending.single = true;
            for (from, length) in receive {
                let mut message = buffer(length);
                let mut new = request();
                checked(unsafe {
                    ffi::MPI_Irecv(
                        message.as_mut_ptr().cast(),
                        count(length)?,
                        byte,
                        from as i32,
                        tag,
                        comm,
                        &raw mut new,
                    )
                })?;
                pending.requests.push(new);
                pending.received.push(message);
            }
            for (to, bytes) in send {
                let mut new = request();
                checked(unsafe {
                    ffi::MPI_Isend(
                        address(&bytes),
                        count(bytes.len())?,
                        byte,
                        to as i32,
                        tag,
                        comm,
                        &raw mut new,
                    )
                })?;
                pending.requests.push(new);
                pending._sent.push(bytes);
            }
        }
        Job::AllToAll {
            send,
            send_counts,
            receive_counts,
        } => {
            let (out, out_at) = counts(&send_counts)?;
            let (into, into_at) = counts(&receive_counts)?;
            let mut all = buffer(receive_counts.iter().sum());
            let mut new = request();
            checked(unsafe {
                ffi::MPI_Ialltoallv(
                    address(&send),
                    out.as_ptr(),
                    out_at.as_ptr(),
                    byte,
                    all.as_mut_ptr().cast(),
                    into.as_ptr(),
                    into_at.as_ptr(),
                    byte,
                    comm,
                    &raw mut new,
                )
            })?;
            pending.requests.push(new);
            pending.received.push(all);
            pending._sent.push(send);
            pending._counts = vec![out, out_at, into, into_at];
        }
        Job::Broadcast { root, mut bytes } => {
            let mut new = request();
            checked(unsafe {
                ffi::MPI_Ibcast(
                    bytes.as_mut_ptr().cast(),
                    count(bytes.len())?,
                    byte,
                    root as i32,
                    comm,
                    &raw mut new,
                )
            })?;
            pending.requests.push(new);
            pending.received.push(bytes);
        }
        Job::Scatter {
            root,
            send,
            counts: send_counts,
            receive,
        } => {
            let (out, out_at) = counts(&send_counts)?;
            let mut mine = buffer(receive);
            let mut new = request();
            checked(unsafe {
                ffi::MPI_Iscatterv(
                    address(&send),
                    out.as_ptr(),
                    out_at.as_ptr(),
                    byte,
                    mine.as_mut_ptr().cast(),
                    count(receive)?,
                    byte,
                    root as i32,
                    comm,
                    &raw mut new,
                )
            })?;
            pending.requests.push(new);
            pending.received.push(mine);
            pending._scattered = send;
            pending._counts = vec![out, out_at];
        }
        Job::Heed(_) | Job::Finalize => {}
    }
    Ok(pending)
}

/// Zeros to receive into. Rust's pointer to nothing may be MPI's word for "in place" (1 in Open MPI), so
/// even a buffer of no bytes lies somewhere.
fn buffer(length: usize) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(length.max(1));
    buffer.resize(length, 0);
    buffer
}

/// Where bytes to send lie; see [`buffer`].
fn address(bytes: &[u8]) -> *const std::ffi::c_void {
    static NOTHING: u8 = 0;
    match bytes.is_empty() {
        true => (&raw const NOTHING).cast(),
        false => bytes.as_ptr().cast(),
    }
}

/// A length as MPI counts.
fn count(bytes: usize) -> Result<i32, String> {
    i32::try_from(bytes)
        .map_err(|_| format!("{bytes} bytes in one message; MPI counts to {}", i32::MAX))
}

/// Lengths, and where each begins.
fn counts(lengths: &[usize]) -> Result<(Vec<i32>, Vec<i32>), String> {
    let mut starts = Vec::with_capacity(lengths.len());
    let mut next = 0;
    for length in lengths {
        starts.push(count(next)?);
        next += length;
    }
    count(next)?;
    let lengths = lengths
        .iter()
        .map(|length| count(*length))
        .collect::<Result<_, _>>()?;
    Ok((lengths, starts))
}

fn checked(code: i32) -> Result<(), String> {
    if code == ffi::MPI_SUCCESS as i32 {
        return Ok(());
    }
    let mut text = vec![0u8; ffi::MPI_MAX_ERROR_STRING as usize];
    let mut length = 0;
    // SAFETY: the text has room for the longest message there is.
    unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), &raw mut length) };
    text.truncate(usize::try_from(length).unwrap_or_default());
    Err(format!(
        "MPI error {code}: {}",
        String::from_utf8_lossy(&text)
    ))
}
