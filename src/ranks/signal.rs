//! SIGTERM: how launchers end the other ranks once they lost one.
//!
//! Left to itself it would end a process before it could say which rank was lost; so it is only
//! noted, and the watch ends the process within a second.

use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Whether the process was asked to end since [`listen`].
pub(super) fn asked_to_end() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Starts noting, and has the system ask this process to end when its launcher ends.
#[cfg(unix)]
pub(super) fn listen() {
    extern "C" fn note(_: libc::c_int) {
        ASKED.store(true, Ordering::Relaxed);
    }
    let handler: extern "C" fn(libc::c_int) = note;
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
pub(super) fn listen() {}

/// Ends the process without running what libraries left to be run at its end: MPI would wait there for
/// ranks that are lost.
pub fn end_process(code: i32) -> ! {
    #[cfg(unix)]
    // SAFETY: ends the process.
    unsafe {
        libc::_exit(code)
    }
    #[cfg(not(unix))]
    std::process::exit(code)
}
