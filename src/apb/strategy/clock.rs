//! Times of ranks that attend one after another, where somebody wants to know.

use std::time::{Duration, Instant};

use burn::tensor::Device;

use crate::apb::error::SessionError;

/// Measures one layer's attention: the exchange, then each rank that this process drives. Until it is
/// [started](Self::start) it does nothing, and nothing waits.
#[derive(Default)]
pub(crate) struct RankClock {
    running: Option<(Device, Instant)>,
    /// Until other ranks' rows were there.
    pub exchange: Duration,
    /// Of each rank, in their order.
    pub ranks: Vec<Duration>,
}

impl RankClock {
    /// Begins a layer.
    pub(crate) fn start(&mut self, device: &Device) {
        *self = Self {
            running: Some((device.clone(), Instant::now())),
            ..Self::default()
        };
    }

    /// The exchange is done.
    pub(super) fn exchanged(&mut self) -> Result<(), SessionError> {
        self.exchange = self.lap()?.unwrap_or_default();
        Ok(())
    }

    /// The next rank is done.
    pub(super) fn attended(&mut self) -> Result<(), SessionError> {
        let lap = self.lap()?;
        self.ranks.extend(lap);
        Ok(())
    }

    /// Time since the last lap, with all work that was asked for by then.
    fn lap(&mut self) -> Result<Option<Duration>, SessionError> {
        let Some((device, started)) = &mut self.running else {
            return Ok(None);
        };
        device.sync().map_err(|e| SessionError::Device {
            reason: e.to_string(),
        })?;
        let now = Instant::now();
        let lap = now - *started;
        *started = now;
        Ok(Some(lap))
    }
}
