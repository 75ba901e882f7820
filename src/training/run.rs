//! A training run: Burn's learner over rounds, with a folder from which it can be resumed.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use burn::grad_clipping::GradientClippingConfig;
use burn::optim::AdamWConfig;
use burn::tensor::Device;
use burn::train::checkpoint::{CheckpointerError, CheckpointingAction, CheckpointingStrategy};
use burn::train::metric::store::{Aggregate, EventStoreClient, Split};
use burn::train::metric::{LearningRateMetric, LossMetric};
use burn::train::renderer::MetricsRenderer;
use burn::train::{
    EarlyStoppingStrategy, ExecutionStrategy, Interrupter, Learner, MultiDeviceOptim,
    SupervisedTraining, TrainingStrategy,
};

use super::cache::FeatureCache;
use super::config::{BETAS, TrainHeadsConfig};
use super::error::TrainError;
use super::features::Backbone;
use super::loader::{RoundLoader, SampleOrder};
use super::metrics::{ATTENTION, LayerRecallMetric, QualityMetric, RECALL};
use super::progress::{NullRenderer, ProgressCallback, Reporter};
use super::run_folder::{AtomicCheckpointer, PARTS, RoundReport, RunFolder};
use super::sample::TrainingData;
use super::trainer::{HeadsTrainer, TrainingContext};
use crate::apb::heads::{RetainingHeads, RetainingHeadsConfig};
use crate::model::DecoderConfig;

/// The name of Burn's loss metric.
const LOSS: &str = "Loss";

/// The result of a run.
#[derive(Debug)]
pub struct TrainedHeads {
    /// The heads of the round with the lowest loss on held-out samples, or of the last without any.
    pub heads: RetainingHeads,
    /// The number of that round, from 1.
    pub best: usize,
    /// Reports of all rounds.
    pub rounds: Vec<RoundReport>,
    /// Whether the run was stopped before its end; a run with the same folder resumes it.
    pub interrupted: bool,
}

/// Where a run keeps its files, and how it is observed and stopped.
pub struct RunOptions {
    /// The run's folder, for checkpoints and logs.
    pub folder: PathBuf,
    /// Resume from the last checkpoint in the folder.
    pub resume: bool,
    /// Features on disk.
    pub cache: Option<FeatureCache>,
    /// Renders Burn's metrics, for example on its dashboard.
    pub renderer: Option<Box<dyn MetricsRenderer>>,
    /// Receives each sample and round.
    pub progress: Option<ProgressCallback>,
    /// Stops the run from another thread.
    pub interrupter: Interrupter,
}

impl RunOptions {
    /// A new run in `folder`, without a cache and without output.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            resume: false,
            cache: None,
            renderer: None,
            progress: None,
            interrupter: Interrupter::new(),
        }
    }
}

/// Trains heads for the model of `backbones`, one a device; the samples of a step are shared out over
/// them.
///
/// # Errors
///
/// [`TrainError`]: an invalid value in `config`; no samples; a folder that belongs to another run or,
/// without `resume`, to any run; a loss that is not finite; a full disk.
pub fn train_heads(
    backbones: Vec<Backbone>,
    model: &DecoderConfig,
    data: &TrainingData,
    config: &TrainHeadsConfig,
    options: RunOptions,
) -> Result<TrainedHeads, TrainError> {
    config.check()?;
    if data.train.is_empty() {
        return Err(TrainError::Run("there are no samples to learn from".into()));
    }
    let devices: Vec<Device> = backbones
        .iter()
        .map(|backbone| backbone.device().clone().autodiff())
        .collect();
    let Some(device) = devices.first() else {
        return Err(TrainError::Run("there is no device to train on".into()));
    };
    if !config.batch.is_multiple_of(devices.len()) {
        return Err(TrainError::Run(format!(
            "batch is {}, expected a multiple of the {} devices that share it",
            config.batch,
            devices.len()
        )));
    }
    let folder = RunFolder::open(&options.folder, options.resume, config, data.hash())?;
    let done = folder.rounds.len();
    let round = config.round.min(config.steps);
    let device_inner = device.clone().inner();

    device.seed(config.seed);
    let heads = RetainingHeadsConfig::new()
        .with_width(config.width)
        .init(model, device);
    let context = Arc::new(TrainingContext {
        backbones,
        alpha: config.alpha,
        batch: config.batch,
        keep: config.keep,
        cache: options.cache,
        reporter: Reporter::new(
            options.progress,
            options.interrupter.clone(),
            done.saturating_mul(round * config.batch),
            config.total_samples(),
        ),
        interrupter: options.interrupter.clone(),
        error: Mutex::new(None),
    });
    let trainer = HeadsTrainer {
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
    let learner = Learner::new(trainer, optimizer, config.schedule()?);
    let finish = |folder: &RunFolder, interrupted| {
        let best = folder.best();
        Ok(TrainedHeads {
            heads: folder.load_heads(best, config.width, model, &device_inner)?,
            best,
            rounds: folder.rounds.clone(),
            interrupted,
        })
    };
    if done >= config.rounds() {
        return finish(&folder, false);
    }

    let order = SampleOrder::new(data.train.clone(), config.seed, config.total_samples());
    let loader = RoundLoader::new(order, round * config.batch, done);
    let held_out = RoundLoader::held_out(data.held_out.clone());
    let path = folder.path.clone();
    let [part_model, part_optimizer, part_scheduler] = PARTS.map(|part| AtomicCheckpointer {
        folder: path.clone(),
        part,
    });
    let folder = Arc::new(Mutex::new(folder));
    let strategy = match devices.len() {
        1 => ExecutionStrategy::SingleDevice(device.clone()),
        _ => ExecutionStrategy::MultiDevice(devices.clone(), MultiDeviceOptim::OptimMainDevice),
    };
    let mut training = SupervisedTraining::new(&path, Arc::new(loader), Arc::new(held_out))
        .with_training_strategy(TrainingStrategy::Default(strategy))
        .with_application_logger(None)
        .with_interrupter(options.interrupter.clone())
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
            held_out: !data.held_out.is_empty(),
        })
        .with_custom_checkpointers(part_model, part_optimizer, part_scheduler)
        .renderer(options.renderer.unwrap_or_else(|| Box::new(NullRenderer)));
    if done > 0 {
        training = training.checkpoint(done);
    }
    if let Some(patience) = config.patience {
        training = training.early_stopping(Patience {
            folder: folder.clone(),
            patience,
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
        return Err(TrainError::Run(
            "stopped before the first round was over: nothing has been learned".into(),
        ));
    }
    finish(&folder, result.interrupted.is_some())
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
        let find =
            |name: &str, split: &Split| store.find_metric(name, round, Aggregate::Mean, split);
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
            let error = CheckpointerError::IOError(error.source);
            self.context.interrupter.fail(error);
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

/// Stops when the held-out loss has not fallen for some rounds. Burn's own early stopping would forget
/// the rounds before a resumption.
#[derive(Clone)]
struct Patience {
    folder: Arc<Mutex<RunFolder>>,
    patience: usize,
}

impl EarlyStoppingStrategy for Patience {
    fn should_stop(&mut self, round: usize, _: &EventStoreClient) -> bool {
        let folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        round - folder.best() >= self.patience
    }
}
