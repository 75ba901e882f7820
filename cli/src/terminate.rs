//! SIGTERM, with which launchers end the other ranks once one has failed.
//!
//! By default it would end a process before it reports which rank was lost. The handler only records it; the
//! process ends within a second, with the reason.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

static RECEIVED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Installs the handler, and has the system send SIGTERM to this process when its launcher ends. The flag is set
/// once SIGTERM was received.
pub fn flag() -> Arc<AtomicBool> {
    let flag = RECEIVED.get_or_init(Arc::default).clone();
    install();
    flag
}

#[cfg(unix)]
fn install() {
    extern "C" fn record(_: libc::c_int) {
        if let Some(flag) = RECEIVED.get() {
            flag.store(true, Ordering::Relaxed);
        }
    }
    let handler: extern "C" fn(libc::c_int) = record;
    // SAFETY: the handler reads an initialised cell and stores to an atomic, which a signal handler may.
    unsafe { libc::signal(libc::SIGTERM, handler as libc::sighandler_t) };
    #[cfg(target_os = "linux")]
    // SAFETY: a request about this process alone, without pointers.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
    }
}

/// Systems without signals end processes at once.
#[cfg(not(unix))]
fn install() {}
