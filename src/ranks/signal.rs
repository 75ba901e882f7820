//! SIGTERM, with which launchers end the other ranks once one has failed.
//!
//! By default it would end a process before it reports which rank was lost. The handler only records
//! it, and the watch ends the process within a second.

use std::sync::atomic::{AtomicBool, Ordering};

static RECEIVED: AtomicBool = AtomicBool::new(false);

/// Whether SIGTERM was received since [`install`].
pub(super) fn terminated() -> bool {
    RECEIVED.load(Ordering::Relaxed)
}

/// Installs the handler, and has the system send SIGTERM to this process when its launcher ends.
#[cfg(unix)]
pub(super) fn install() {
    extern "C" fn record(_: libc::c_int) {
        RECEIVED.store(true, Ordering::Relaxed);
    }
    let handler: extern "C" fn(libc::c_int) = record;
    // SAFETY: the handler does nothing but store to an atomic, which a signal handler may.
    unsafe { libc::signal(libc::SIGTERM, handler as libc::sighandler_t) };
    #[cfg(target_os = "linux")]
    // SAFETY: a request about this process alone, without pointers.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
    }
}

/// Systems without signals end processes at once.
#[cfg(not(unix))]
pub(super) fn install() {}

/// Ends the process without running the exit handlers of libraries: MPI's would wait for ranks that are
/// lost.
pub fn end_process(code: i32) -> ! {
    #[cfg(unix)]
    // SAFETY: ends the process.
    unsafe {
        libc::_exit(code)
    }
    #[cfg(not(unix))]
    std::process::exit(code)
}
