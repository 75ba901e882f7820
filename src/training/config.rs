//! Configuration of training.

use std::fmt;

use burn::config::Config;
use burn::lr_scheduler::LrSchedulerConfig;
use burn::lr_scheduler::linear::LinearLrSchedulerConfig;
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::lr_scheduler::sequential::SequentialLrSchedulerConfig;

use super::error::TrainError;

/// Configuration of [`HeadsTrainer`](super::HeadsTrainer).
///
/// The recipe is Locret's (<https://arxiv.org/abs/2410.01805>, appendix) with labels and inputs brought to one scale
/// first ([`scale_samples`](Self::scale_samples)), so that a sixth of its 3,000 steps is enough.
#[derive(Config, Debug, PartialEq)]
pub struct TrainHeadsConfig {
    /// Width R of a head's hidden layer. The published heads have 1024; Locret finds 256 as good.
    #[config(default = 256)]
    pub width: usize,
    /// Steps of the optimiser.
    #[config(default = 480)]
    pub steps: usize,
    /// Steps over which the learning rate rises from 0; it falls to 0 at the last step. Without it, a tenth of the
    /// steps.
    pub warm_up: Option<usize>,
    /// The highest learning rate.
    #[config(default = 3e-3)]
    pub learning_rate: f64,
    /// Samples on which the scale of labels and inputs is measured before the first step, of each layer and KV head
    /// and of each column ([`LabelScale`](crate::apb::heads::LabelScale)); with 0 they stay as they are.
    #[config(default = 8)]
    pub scale_samples: usize,
    /// AdamW's decay of weights.
    #[config(default = 0.0)]
    pub weight_decay: f64,
    /// Every element of a gradient is clipped to this absolute value.
    #[config(default = 0.5)]
    pub clip: f64,
    /// Weight of the smoothing loss; a tenth of Locret's, as it is of squares of scaled scores.
    #[config(default = 2.5e-4)]
    pub alpha: f64,
    /// Samples of a step, whose gradients are accumulated.
    #[config(default = 1)]
    pub batch: usize,
    /// Steps between two validations, each with a checkpoint.
    #[config(default = 80)]
    pub round: usize,
    /// Share of a sample's rows that the metrics keep.
    #[config(default = 0.1)]
    pub keep: f64,
    /// Rounds without a higher recall on held-out samples after which training stops; without it, it runs to the
    /// end. Without held-out samples, rounds without a lower loss.
    #[config(default = "Some(3)")]
    pub patience: Option<usize>,
    /// Seed of the weights and of the samples' order.
    #[config(default = 0)]
    pub seed: u64,
}

/// Samples of a step at most.
const MAX_BATCH: usize = 1 << 16;

/// The widest hidden layer; the published heads have 1024.
const MAX_WIDTH: usize = 1 << 16;

/// AdamW's factors (Locret).
pub(super) const BETAS: (f32, f32) = (0.9, 0.95);

impl TrainHeadsConfig {
    /// Samples that a whole run processes, repeated ones included.
    pub fn total_samples(&self) -> usize {
        self.steps * self.batch
    }

    /// Rounds of a whole run.
    pub fn rounds(&self) -> usize {
        self.steps.div_ceil(self.round.max(1))
    }

    /// Checks the values.
    ///
    /// # Errors
    ///
    /// [`TrainError::Run`] with the invalid value and what is expected.
    pub fn check(&self) -> Result<(), TrainError> {
        let invalid = |name: &str, value: &dyn fmt::Display, expected: &str| {
            let text = format!("{name} is {value}, expected {expected}");
            Err(TrainError::Run(text))
        };
        let counts = [
            ("width", self.width),
            ("steps", self.steps),
            ("batch", self.batch),
            ("round", self.round),
            ("patience", self.patience.unwrap_or(1)),
        ];
        for (name, value) in counts {
            if value == 0 {
                return invalid(name, &value, "at least 1");
            }
        }
        if self.width > MAX_WIDTH {
            return invalid("width", &self.width, &format!("at most {MAX_WIDTH}"));
        }
        if self.batch > MAX_BATCH {
            return invalid("batch", &self.batch, &format!("at most {MAX_BATCH}"));
        }
        if self.steps.checked_mul(self.batch).is_none() {
            let expected = format!("fewer with {} samples each", self.batch);
            return invalid("steps", &self.steps, &expected);
        }
        for (name, value) in [("learning rate", self.learning_rate), ("keep", self.keep)] {
            if !(value > 0.0 && value <= 1.0) {
                return invalid(name, &value, "above 0 and at most 1");
            }
        }
        if !(self.clip > 0.0 && self.clip.is_finite()) {
            return invalid("clip", &self.clip, "above 0");
        }
        for (name, value) in [("alpha", self.alpha), ("weight decay", self.weight_decay)] {
            if !(value >= 0.0 && value.is_finite()) {
                return invalid(name, &value, "0 or more");
            }
        }
        Ok(())
    }

    /// The learning rate: a linear rise, then a linear fall to 0.
    pub(super) fn schedule(&self) -> Result<ModuleLrScheduler, TrainError> {
        let warm_up = self.warm_up.unwrap_or(self.steps / 10);
        let warm_up = warm_up.min(self.steps.saturating_sub(1));
        let rate = self.learning_rate;
        let fall = LinearLrSchedulerConfig::new(rate, 0.0, (self.steps - warm_up).max(1));
        let schedule = match warm_up {
            0 => fall.init(),
            _ => SequentialLrSchedulerConfig::new(
                vec![
                    LrSchedulerConfig::Linear(LinearLrSchedulerConfig::new(
                        rate / warm_up as f64,
                        rate,
                        warm_up,
                    )),
                    LrSchedulerConfig::Linear(fall),
                ],
                vec![warm_up],
            )
            .init(),
        };
        schedule.map_err(TrainError::Run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(config: &TrainHeadsConfig) -> Vec<f64> {
        let mut schedule = config.schedule().expect("a schedule");
        (0..config.steps).map(|_| schedule.step().base()).collect()
    }

    #[test]
    fn the_rate_rises_and_falls() {
        let config = TrainHeadsConfig::new().with_steps(10).with_warm_up(Some(4));
        let rates = rates(&config);
        let highest = config.learning_rate;
        assert!((rates[0] - highest / 4.0).abs() < 1e-9, "{rates:?}");
        assert!((rates[4] - highest).abs() < 1e-9, "{rates:?}");
        assert!(rates[..5].is_sorted(), "{rates:?}");
        assert!(rates[4..].iter().rev().is_sorted(), "{rates:?}");
        assert!(rates[9] > 0.0 && rates[9] < highest / 4.0, "{rates:?}");
        let short = TrainHeadsConfig::new().with_steps(1);
        assert!((short.schedule().expect("one").step().base() - highest).abs() < 1e-9);
    }

    #[test]
    fn invalid_values_are_named() {
        let config = TrainHeadsConfig::new();
        assert!(config.check().is_ok());
        for (wrong, word) in [
            (config.clone().with_steps(0), "steps"),
            (config.clone().with_round(0), "round"),
            (config.clone().with_learning_rate(f64::NAN), "learning rate"),
            (config.clone().with_keep(1.5), "keep"),
            (config.clone().with_alpha(-1.0), "alpha"),
            (config.clone().with_patience(Some(0)), "patience"),
            (config.clone().with_steps(usize::MAX).with_batch(2), "steps"),
            (config.clone().with_width(0), "width"),
            (config.clone().with_width(MAX_WIDTH + 1), "at most 65536"),
        ] {
            let error = wrong.check().expect_err(word).to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
