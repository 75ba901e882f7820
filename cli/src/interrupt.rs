//! Ctrl-C: the first one requests the running task to stop, the second ends the process.

use std::ops::ControlFlow;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static LISTENING: Once = Once::new();
/// The shell's convention for a process ended by SIGINT.
const EXIT_INTERRUPTED: i32 = 130;

/// Starts listening; without a handler Ctrl-C simply ends the process.
pub fn listen() {
    let handler = || {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(EXIT_INTERRUPTED);
        }
    };
    LISTENING.call_once(|| {
        if let Err(error) = ctrlc::set_handler(handler) {
            tracing::warn!("Ctrl-C will end the process at once: {error}");
        }
    });
}

/// Clears a Ctrl-C that has been handled.
pub fn reset() {
    INTERRUPTED.store(false, Ordering::Relaxed);
}

/// `Break` after Ctrl-C.
pub fn poll() -> ControlFlow<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}
