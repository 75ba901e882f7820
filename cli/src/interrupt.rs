//! Ctrl-C: the first one cancels the running task, the second ends the process; where nothing runs, the first does.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, OnceLock};

use burn_apb::apb::CancelToken;

static LISTENING: Once = Once::new();
/// Whether the program waits for input.
static IDLE: AtomicBool = AtomicBool::new(false);
/// The shell's convention for a process ended by SIGINT.
const EXIT_INTERRUPTED: i32 = 130;

/// What the first Ctrl-C cancels.
pub fn token() -> &'static CancelToken {
    static TOKEN: OnceLock<CancelToken> = OnceLock::new();
    TOKEN.get_or_init(CancelToken::new)
}

/// Starts listening; without a handler Ctrl-C simply ends the process.
pub fn listen() {
    let handler = || {
        if token().is_cancelled() || IDLE.load(Ordering::Relaxed) {
            std::process::exit(EXIT_INTERRUPTED);
        }
        token().cancel();
    };
    LISTENING.call_once(|| {
        if let Err(error) = ctrlc::set_handler(handler) {
            tracing::warn!("Ctrl-C will end the process at once: {error}");
        }
    });
}

/// Waits for input; Ctrl-C then ends the process.
pub fn waiting<T>(read: impl FnOnce() -> T) -> T {
    IDLE.store(true, Ordering::Relaxed);
    let read = read();
    IDLE.store(false, Ordering::Relaxed);
    read
}

/// Clears a Ctrl-C that has been handled.
pub fn reset() {
    token().reset();
}

/// `Break` after Ctrl-C.
pub fn poll() -> ControlFlow<()> {
    match token().is_cancelled() {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}
