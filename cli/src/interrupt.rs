//! Ctrl-C: the first one cancels the running task, the second ends the process; where nothing runs that can be cancelled, the
//! first does.

use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, OnceLock};

use burn_apb::apb::CancelToken;

use crate::error::CliError;

static LISTENING: Once = Once::new();
/// Whether the first Ctrl-C ends the process.
static AT_ONCE: AtomicBool = AtomicBool::new(false);
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
        if token().is_cancelled() || AT_ONCE.load(Ordering::Relaxed) {
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

/// Waits for another program or person, or does what cannot be cancelled and leaves nothing behind; Ctrl-C then ends the
/// process.
pub fn at_once<T>(work: impl FnOnce() -> T) -> T {
    let before = AT_ONCE.swap(true, Ordering::Relaxed);
    let done = work();
    AT_ONCE.store(before, Ordering::Relaxed);
    done
}

/// Does work of which [`check`] is called now and then, and takes back what it has begun where Ctrl-C stops it there.
pub fn undoing<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<T, CliError>
where
    CliError: From<E>,
{
    listen();
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        _ if token().is_cancelled() => Err(CliError::failed("cancelled; nothing was kept")),
        Ok(Err(error)) => Err(error.into()),
        Err(panic) => panic::resume_unwind(panic),
    }
}

/// Stops [`undoing`] work after Ctrl-C: it has no other way to be told, and what it has begun is removed as it unwinds.
pub fn check() {
    if token().is_cancelled() {
        panic::resume_unwind(Box::new("cancelled"));
    }
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
