//! Where to call kernels from.

use core::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use burn::backend::DispatchDevice;
use burn::tensor::Device;

/// How long a thread is kept awake before it is free for other work again. It is also the longest that a thread which
/// waits for work of another kind is held up.
const AWAKE: Duration = Duration::from_millis(5);
/// Looks for work between two looks at the clock, which are also where other processes get their turn.
const LOOKS: usize = 32;

thread_local! {
    static ROLE: RefCell<Role> = const { RefCell::new(Role::Free) };
}

/// What a worker thread does for [`on_workers`].
enum Role {
    Free,
    /// It runs work, and these are kept awake for it.
    Runs(Arc<Others>),
    /// It is kept awake for another thread's work.
    Awake,
}

/// The other threads.
#[derive(Default)]
struct Others {
    /// Those that are awake, or will be as soon as they can.
    awake: AtomicUsize,
    /// Whether the work they are awake for is done.
    done: AtomicBool,
}

/// Runs `work`, say a forward pass on `device`, on one of the threads that the CPU kernels share
/// their work with.
///
/// A kernel called from any other thread hands its work over and sleeps until it is done, which costs
/// more than a small layer takes. Inside `work` a kernel starts at once, and the other threads stay
/// awake from one kernel to the next: waking one takes longer than a token's product with a small matrix.
/// They sleep again when `work` is done, or after 5 ms in which it did not call this function once more, as each
/// layer of a decoder does. On other devices `work` stays on the caller's thread, to which their queue of work belongs.
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
    let mine = ROLE.with_borrow_mut(|role| match role {
        Role::Awake => None,
        Role::Runs(others) => {
            // Work within work: the others' time may be over.
            keep_awake(others);
            None
        }
        Role::Free => {
            let others = Arc::<Others>::default();
            keep_awake(&others);
            *role = Role::Runs(others.clone());
            Some(Running(others))
        }
    });
    let result = work();
    drop(mine);
    result
}

/// Keeps the other threads awake, unless some still are.
fn keep_awake(others: &Arc<Others>) {
    let count = rayon::current_num_threads() - 1;
    if count == 0 || others.awake.load(Ordering::Acquire) > 0 {
        return;
    }
    others.awake.store(count, Ordering::Release);
    let (others, own) = (others.clone(), rayon::current_thread_index());
    // One job for each thread, which no other takes.
    rayon::spawn_broadcast(move |thread| {
        if Some(thread.index()) != own {
            stay_awake(&others.done);
            others.awake.fetch_sub(1, Ordering::AcqRel);
        }
    });
}

/// Runs the pool's jobs until `done`, or until the time is over.
fn stay_awake(done: &AtomicBool) {
    let free = ROLE.with_borrow_mut(|role| match role {
        Role::Free => {
            *role = Role::Awake;
            true
        }
        // It has to go on with its own work as soon as it can.
        Role::Runs(_) | Role::Awake => false,
    });
    if !free {
        return;
    }
    let _free_again = FreeAgain;
    let start = Instant::now();
    while start.elapsed() < AWAKE {
        for _ in 0..LOOKS {
            if done.load(Ordering::Relaxed) {
                return;
            }
            if rayon::yield_now() != Some(rayon::Yield::Executed) {
                core::hint::spin_loop();
            }
        }
        std::thread::yield_now();
    }
}

/// Frees this thread when it is dropped, also where a job panicked.
struct FreeAgain;

impl Drop for FreeAgain {
    fn drop(&mut self) {
        ROLE.set(Role::Free);
    }
}

/// Work that this thread runs. Dropped, also where it panicked, it lets the others go.
struct Running(Arc<Others>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Relaxed);
        ROLE.set(Role::Free);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use rayon::prelude::*;

    use super::*;

    fn sum_in_work() -> usize {
        with_others_awake(|| (0..1000usize).into_par_iter().map(|i| i % 7).sum())
    }

    fn pool(threads: usize) -> rayon::ThreadPool {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap()
    }

    #[test]
    fn work_within_work_and_on_one_thread_ends() {
        for threads in [1, 2, 5] {
            let nested = pool(threads).install(|| {
                with_others_awake(|| {
                    let parts = (0..4).into_par_iter().map(|_| sum_in_work());
                    parts.sum::<usize>() + sum_in_work()
                })
            });
            assert_eq!(nested, 5 * 2997, "{threads}");
        }
    }

    #[test]
    fn every_other_thread_is_let_go() {
        let pool = pool(3);
        for _ in 0..20 {
            pool.install(|| {
                let others = with_others_awake(|| {
                    ROLE.with_borrow(|role| match role {
                        Role::Runs(others) => others.clone(),
                        _ => panic!("this thread runs work"),
                    })
                });
                assert!(others.done.load(Ordering::Relaxed));
                // Each has a job of its own, which ends.
                let start = Instant::now();
                while others.awake.load(Ordering::Acquire) > 0 {
                    assert!(start.elapsed() < Duration::from_secs(20));
                    std::thread::yield_now();
                }
            });
        }
    }

    #[test]
    fn a_panic_frees_the_thread() {
        let pool = pool(2);
        pool.install(|| {
            let panicked = catch_unwind(AssertUnwindSafe(|| with_others_awake(|| panic!("given"))));
            assert!(panicked.is_err());
            assert!(ROLE.with_borrow(|role| matches!(role, Role::Free)));
            assert_eq!(sum_in_work(), 2997);
        });
    }

    #[test]
    fn several_callers_share_the_threads() {
        let pool = pool(2);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        assert_eq!(pool.install(sum_in_work), 2997);
                    }
                });
            }
        });
    }
}
