//! Times of the parts of a layer, and where its work can be cancelled.

use std::time::{Duration, Instant};

use burn::tensor::Device;

use crate::apb::cancel::CancelToken;
use crate::apb::elapsed::{computed, elapsed_after};
use crate::apb::error::SessionError;
use crate::apb::observer::Part;

/// Measures the parts of a layer and ends its work when it is cancelled. A clock that was not started
/// measures nothing, and nothing waits for the device.
#[derive(Default)]
pub(crate) struct LayerClock {
    cancel: CancelToken,
    running: Option<(Device, Instant)>,
    times: Vec<PartTime>,
}

/// A part, the rank that it was computed for, and its time.
pub(crate) type PartTime = (Part, Option<usize>, Duration);

impl LayerClock {
    /// Starts to measure.
    pub(crate) fn start(&mut self, device: &Device) {
        self.running = Some((device.clone(), Instant::now()));
    }

    /// Polls `token` from now on.
    pub(crate) fn cancelled_by(&mut self, token: CancelToken) {
        self.cancel = token;
    }

    /// Fails when the work has been cancelled. The counts are filled in by the one who knows them.
    pub(crate) fn poll(&self) -> Result<(), SessionError> {
        match self.cancel.is_cancelled() {
            true => Err(SessionError::Cancelled { done: 0, total: 0 }),
            false => Ok(()),
        }
    }

    /// Ends a part; the next begins.
    pub(crate) fn mark(&mut self, part: Part, rank: Option<usize>) -> Result<(), SessionError> {
        self.poll()?;
        let Some((device, started)) = &mut self.running else {
            return Ok(());
        };
        let time = elapsed_after(*started, || computed(device))?;
        self.times.push((part, rank, time));
        *started += time;
        Ok(())
    }

    /// The times so far; what happens between two layers belongs to no part.
    pub(crate) fn take(&mut self) -> Vec<PartTime> {
        std::mem::take(&mut self.times)
    }

    /// Begins a layer.
    pub(crate) fn restart(&mut self) {
        if let Some((_, started)) = &mut self.running {
            *started = Instant::now();
        }
    }
}
