//! Ctrl-C: the first asks the running task to stop, the second ends the process.

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

/// Forgets a Ctrl-C that has been obeyed.
pub fn reset() {
    INTERRUPTED.store(false, Ordering::Relaxed);
}

/// Whether to go on.
pub fn poll() -> ControlFlow<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}
