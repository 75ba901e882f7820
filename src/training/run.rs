//! A training run: Burn's learner over rounds, with a checkpoint after each.

use std::sync::{Arc, Mutex, PoisonError};

use burn::grad_clipping::GradientClippingConfig;
use burn::optim::AdamWConfig;
use burn::tensor::Device;
use burn::train::checkpoint::{CheckpointingAction, CheckpointingStrategy};
use burn::train::metric::store::{Aggregate, EventStoreClient, Split};
use burn::train::metric::{LearningRateMetric, LossMetric};
use burn::train::{
    EarlyStoppingStrategy, ExecutionStrategy, Learner, MultiDeviceOptim, SupervisedTraining,
    TrainingStrategy,
};

use super::config::{BETAS, TrainHeadsConfig};
use super::error::TrainError;
use super::loader::{RoundLoader, SampleOrder};
use super::metrics::{ATTENTION, LayerRecallMetric, QualityMetric, RECALL};
use super::module::{HeadsModule, TrainingContext};
use super::progress::{NullRenderer, Reporter};
use super::round_log::RoundLog;
use super::run_folder::{PARTS, RoundReport, RunFolder};
use super::sample::TrainingData;
use super::scale::Scale;
use super::start::{StartHeads, heads_shape, initialise};
use super::trainer::{HeadsTrainer, TrainedHeads};
use crate::apb::heads::RetainingHeadsConfig;

/// The name of Burn's loss metric.
const LOSS: &str = "Loss";

impl HeadsTrainer {
    /// Trains from the folder's last round to the end, or until it is stopped. `data`, `start` and the
    /// configuration have been checked.
    pub(super) fn run(
        self,
        data: TrainingData,
        start: Option<StartHeads>,
        folder: RunFolder,
    ) -> Result<TrainedHeads, TrainError> {
        let Self {
            backbones,
            config,
            interrupter,
            ..
        } = self;
        let devices: Vec<Device> = backbones
            .iter()
            .map(|backbone| backbone.device().clone().autodiff())
            .collect();
        let (device, shape) = (&devices[0], backbones[0].shape());
        let done = folder.rounds.len();
        let round = config.round.min(config.steps);
        let order = SampleOrder::new(data.train, config.seed, config.total_samples());
        let reporter = Reporter::new(
            self.progress,
            interrupter.clone(),
            done.saturating_mul(round * config.batch),
            config.total_samples(),
        );
        let scale = match folder.scale(shape)? {
            Some(scale) => scale,
            None => {
                let of_start = start.as_ref().map(|start| start.label_scale.clone());
                let scale = match config.scale_samples {
                    0 => Scale::of_labels(of_start.flatten()),
                    count => {
                        let go_on = || {
                            reporter.samples(0);
                            !interrupter.should_stop()
                        };
                        let (first, cache) = (order.first(count), self.cache.as_ref());
                        Scale::measure(&backbones[0], cache, &first, of_start, go_on)?
                    }
                };
                folder.keep_scale(&scale, shape)?
            }
        };
        let finish = |folder: &RunFolder, interrupted| {
            let best = folder.best();
            let device = device.clone().inner();
            let heads = folder.load_heads(best, config.width, shape, &device)?;
            Ok(TrainedHeads {
                heads: scale.fold(heads),
                best,
                rounds: folder.rounds.clone(),
                interrupted,
            })
        };
        if done >= config.rounds() || folder.out_of_patience(config.patience) {
            return finish(&folder, false);
        }

        if done > 0 {
            // A checkpoint of another shape would end the learner in a panic.
            folder.load_heads(done, config.width, shape, &device.clone().inner())?;
        }
        device.seed(config.seed);
        let fresh = RetainingHeadsConfig::new()
            .with_width(config.width)
            .init(shape, device);
        let heads = match start {
            // The learner loads a checkpoint, for which weights have to be as they were made.
            _ if done > 0 => fresh,
            Some(start) => start.load_into(fresh, &scale, device),
            None if config.scale_samples == 0 => fresh,
            None => initialise(fresh, heads_shape(shape, config.width), config.seed, device),
        };
        let context = Arc::new(TrainingContext {
            backbones,
            scale: scale.clone(),
            alpha: config.alpha,
            batch: config.batch,
            keep: config.keep,
            cache: self.cache,
            reporter,
            interrupter: interrupter.clone(),
            error: Mutex::new(None),
        });
        let module = HeadsModule {
            heads,
            context: context.clone(),
        };
        let optimizer = AdamWConfig::new()
            .with_beta_1(BETAS.0)
            .with_beta_2(BETAS.1)
            .with_epsilon(1e-8)
            .with_weight_decay(config.weight_decay as f32)
            .with_grad_clipping(Some(GradientClippingConfig::Value(config.clip as f32)))
            .init();
        let learner = Learner::new(module, optimizer, config.schedule()?);

        let loader = RoundLoader::new(order, round * config.batch, done);
        let has_held_out = !data.held_out.is_empty();
        let held_out = RoundLoader::held_out(data.held_out);
        let path = folder.path.clone();
        let log = RoundLog::new(folder.logs(), context.clone());
        let [part_model, part_optimizer, part_scheduler] =
            PARTS.map(|part| folder.checkpointer(part, context.clone()));
        let folder = Arc::new(Mutex::new(folder));
        let strategy = match devices.len() {
            1 => ExecutionStrategy::SingleDevice(device.clone()),
            _ => ExecutionStrategy::MultiDevice(devices.clone(), MultiDeviceOptim::OptimMainDevice),
        };
        let mut training = SupervisedTraining::new(&path, Arc::new(loader), Arc::new(held_out))
            .with_training_strategy(TrainingStrategy::Default(strategy))
            .with_application_logger(None)
            .with_metric_logger(log)
            .with_interrupter(interrupter)
            .num_epochs(config.rounds())
            .grads_accumulation(config.batch / devices.len())
            .metric_train_numeric(LossMetric::new())
            .metric_valid_numeric(LossMetric::new())
            .metric_train_numeric(QualityMetric::recall())
            .metric_valid_numeric(QualityMetric::recall())
            .metric_train_numeric(QualityMetric::attention())
            .metric_valid_numeric(QualityMetric::attention())
            .metric_train_numeric(LearningRateMetric::new())
            .metric_valid(LayerRecallMetric::default())
            .with_checkpointing_strategy(RoundCheckpoints {
                folder: folder.clone(),
                config: config.clone(),
                context: context.clone(),
                held_out: has_held_out,
            })
            .with_custom_checkpointers(part_model, part_optimizer, part_scheduler)
            .renderer(self.renderer.unwrap_or_else(|| Box::new(NullRenderer)));
        if done > 0 {
            training = training.checkpoint(done);
        }
        if config.patience.is_some() {
            training = training.early_stopping(Patience {
                folder: folder.clone(),
                patience: config.patience,
            });
        }
        let result = training.launch(learner);
        drop(result.renderer);
        if let Some(error) = context.take_error() {
            return Err(error);
        }
        if let Some(error) = result.error {
            return Err(TrainError::Run(error.to_string()));
        }
        let folder = folder.lock().unwrap_or_else(PoisonError::into_inner);
        if folder.rounds.is_empty() {
            return Err(TrainError::Stopped);
        }
        finish(&folder, result.interrupted.is_some())
    }
}

/// A value of 12 digits, which JSON gives back to the last bit: a resumed run reports what an uninterrupted one does.
fn as_read(value: f64) -> f64 {
    format!("{value:.11e}").parse().unwrap_or(value)
}

/// Saves a checkpoint each round, and keeps the last two and the best.
struct RoundCheckpoints {
    folder: Arc<Mutex<RunFolder>>,
    config: TrainHeadsConfig,
    context: Arc<TrainingContext>,
    held_out: bool,
}

impl CheckpointingStrategy for RoundCheckpoints {
    fn checkpointing(
        &mut self,
        round: usize,
        store: &EventStoreClient,
    ) -> Vec<CheckpointingAction> {
        let find = |name: &str, split: &Split| {
            let found = store.find_metric(name, round, Aggregate::Mean, split);
            found.map(as_read)
        };
        let split = if self.held_out {
            Split::Valid
        } else {
            Split::Train
        };
        let report = RoundReport {
            step: round
                .saturating_mul(self.config.round)
                .min(self.config.steps),
            loss: find(LOSS, &Split::Train).unwrap_or(f64::NAN),
            valid_loss: find(LOSS, &Split::Valid).filter(|_| self.held_out),
            recall: find(RECALL, &split).unwrap_or(f64::NAN),
            mass: find(ATTENTION, &split).unwrap_or(f64::NAN),
        };
        let mut folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = folder.push(report) {
            self.context.abort(error.into());
        }
        self.context.reporter.round(report);
        let best = folder.best();
        let old = (1..round.saturating_sub(1)).filter(|old| *old != best);
        [CheckpointingAction::Save]
            .into_iter()
            .chain(old.map(CheckpointingAction::Delete))
            .collect()
    }
}

/// Stops when no round has been better than the best one for some time. Burn's own early stopping would forget
/// the rounds before a resumption.
#[derive(Clone)]
struct Patience {
    folder: Arc<Mutex<RunFolder>>,
    patience: Option<usize>,
}

impl EarlyStoppingStrategy for Patience {
    fn should_stop(&mut self, _: usize, _: &EventStoreClient) -> bool {
        let folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        folder.out_of_patience(self.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::as_read;

    #[test]
    fn reported_values_survive_json() {
        for value in [
            0.420_508_861_541_748_05,
            1.0 / 3.0,
            26.123_456_789_012_3,
            0.0,
        ] {
            let value = as_read(value);
            let text = serde_json::to_string(&value).expect("JSON");
            let read: f64 = serde_json::from_str(&text).expect("a number");
            assert_eq!(read.to_bits(), value.to_bits(), "{text}");
        }
        assert!(as_read(f64::NAN).is_nan());
    }
}
