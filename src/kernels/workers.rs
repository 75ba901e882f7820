//! Where to call kernels from.

use core::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use burn::backend::DispatchDevice;
use burn::tensor::Device;

/// How long a thread that finds no work stays awake for more.
const AWAKE: Duration = Duration::from_millis(5);
/// Looks for work between two looks at the clock, which are also where other processes get their turn.
const LOOKS: usize = 32;

thread_local! {
    /// Whether this thread runs the work of [`on_workers`], or is kept awake for it.
    static TAKEN: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, say a forward pass on `device`, on one of the threads that the CPU kernels share
/// their work with.
///
/// A kernel called from any other thread hands its work over and sleeps until it is done, which costs
/// more than a small layer takes. Inside `work` a kernel starts at once, and the other threads stay
/// awake from one kernel to the next: waking one takes longer than a token's product with a small matrix.
/// They sleep again when `work` is done, or where it has nothing for them for 5 ms. On other devices `work`
/// stays on the caller's thread, to which their queue of work belongs.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_apb::kernels::{on_workers, silu_mul};
///
/// let device = Device::flex();
/// let gate = Tensor::<1>::from_floats([0.0, 2.0], &device);
/// let up = Tensor::<1>::from_floats([1.0, 1.0], &device);
/// let out = on_workers(&device, || silu_mul(gate, up))?;
/// assert_eq!(out.dims(), [2]);
/// # Ok::<(), burn_apb::kernels::KernelError>(())
/// ```
pub fn on_workers<T: Send>(device: &Device, work: impl FnOnce() -> T + Send) -> T {
    match device.as_dispatch() {
        DispatchDevice::Flex(_) => rayon::scope(|_| with_others_awake(work)),
        // More variants exist when the build turns on more backends.
        #[allow(unreachable_patterns)]
        _ => work(),
    }
}

/// Runs `work` on this worker thread while the others look for its jobs without going to sleep.
fn with_others_awake<T>(work: impl FnOnce() -> T) -> T {
    let Some(_taken) = Taken::new() else {
        return work();
    };
    let done = Done(Arc::new(AtomicBool::new(false)));
    for _ in 1..rayon::current_num_threads() {
        let done = done.0.clone();
        rayon::spawn(move || stay_awake(&done));
    }
    work()
}

/// Runs the pool's jobs until `done`, or until there has been none for a while.
fn stay_awake(done: &AtomicBool) {
    // A thread that waits inside other work must return to it as soon as it can go on.
    let Some(_taken) = Taken::new() else {
        return;
    };
    let mut last = Instant::now();
    loop {
        for _ in 0..LOOKS {
            if done.load(Ordering::Relaxed) {
                return;
            }
            match rayon::yield_now() {
                Some(rayon::Yield::Executed) => last = Instant::now(),
                _ => core::hint::spin_loop(),
            }
        }
        if last.elapsed() > AWAKE {
            return;
        }
        std::thread::yield_now();
    }
}

/// Marks this thread as taken until it is dropped.
struct Taken;

impl Taken {
    /// None where the thread is taken already.
    fn new() -> Option<Self> {
        (!TAKEN.replace(true)).then_some(Self)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        TAKEN.set(false);
    }
}

/// Tells the other threads that work is done, also where it panicked.
struct Done(Arc<AtomicBool>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
