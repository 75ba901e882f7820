//! Times of what a device computes: a GPU's calls return before their work is done.

use std::time::{Duration, Instant};

use burn::tensor::Device;

use super::error::SessionError;

/// Waits until `device` has computed all that it was given.
pub(crate) fn computed(device: &Device) -> Result<(), SessionError> {
    device.sync().map_err(|error| SessionError::Device {
        reason: error.to_string(),
    })
}

/// The time from `started` until `wait` has returned.
pub(crate) fn elapsed_after<E>(
    started: Instant,
    wait: impl FnOnce() -> Result<(), E>,
) -> Result<Duration, E> {
    wait()?;
    Ok(started.elapsed())
}
