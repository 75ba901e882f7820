//! Times of the parts of a layer.

use std::time::{Duration, Instant};

use burn::tensor::Device;

use crate::apb::error::SessionError;
use crate::apb::observer::Part;

/// Measures the parts of a layer. A clock that was not started does nothing, and nothing waits for the
/// device.
#[derive(Default)]
pub(crate) struct LayerClock {
    running: Option<(Device, Instant)>,
    times: Vec<PartTime>,
}

/// A part, the rank that it was computed for, and its time.
pub(crate) type PartTime = (Part, Option<usize>, Duration);

impl LayerClock {
    /// A clock that runs.
    pub(crate) fn started(device: &Device) -> Self {
        Self {
            running: Some((device.clone(), Instant::now())),
            times: Vec::new(),
        }
    }

    /// Ends a part; the next begins.
    pub(crate) fn mark(&mut self, part: Part, rank: Option<usize>) -> Result<(), SessionError> {
        let Some((device, started)) = &mut self.running else {
            return Ok(());
        };
        device.sync().map_err(|e| SessionError::Device {
            reason: e.to_string(),
        })?;
        let now = Instant::now();
        self.times.push((part, rank, now - *started));
        *started = now;
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
