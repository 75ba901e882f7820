//! A training run: Burn's learner over rounds, with a folder that survives a kill.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use burn::grad_clipping::GradientClippingConfig;
use burn::module::Module;
use burn::optim::AdamWConfig;
use burn::store::ModuleRecord;
use burn::tensor::Device;
use burn::train::checkpoint::{
    Checkpoint, Checkpointer, CheckpointerError, CheckpointingAction, CheckpointingStrategy,
};
use burn::train::metric::store::{Aggregate, EventStoreClient, Split};
use burn::train::metric::{LearningRateMetric, LossMetric};
use burn::train::renderer::MetricsRenderer;
use burn::train::{
    EarlyStoppingStrategy, ExecutionStrategy, Interrupter, Learner, MultiDeviceOptim,
    SupervisedTraining, TrainingStrategy,
};
use serde::{Deserialize, Serialize};

use super::cache::FeatureCache;
use super::config::{BETAS, TrainHeadsConfig};
use super::features::{Backbone, TrainError};
use super::loader::{RoundLoader, Visits};
use super::metrics::{LayerRecallMetric, Mass, Recall, Share, ShareMetric};
use super::sample::Sample;
use super::trainer::{HeadsTrainer, Teacher};
use crate::apb::heads::{RetainingHeads, RetainingHeadsConfig};
use crate::checkpoint::{FileError, write_file};
use crate::model::DecoderConfig;

/// The name of Burn's loss metric.
const LOSS: &str = "Loss";
/// What was asked of a run, in its folder.
const SETTINGS: &str = "settings.json";
/// The rounds that are over, in its folder.
const ROUNDS: &str = "rounds.json";
/// The folder of checkpoints in it, and the three parts of each.
const CHECKPOINTS: &str = "checkpoint";
const PARTS: [&str; 3] = ["model", "optimizer", "scheduler"];

/// What a round came to: means over its samples and over the held-out ones.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RoundReport {
    /// Optimiser steps since the start.
    pub step: usize,
    /// Loss of the round's samples.
    pub loss: f64,
    /// Loss of the held-out samples; none without any.
    pub valid_loss: Option<f64>,
    /// Recall on the held-out samples, or else on the round's.
    pub recall: f64,
    /// Share of the attention kept, of the same samples.
    pub mass: f64,
}

/// What a run came to.
#[derive(Debug)]
pub struct Trained {
    /// The heads of the round with the lowest loss on held-out samples, or else of the last.
    pub heads: RetainingHeads,
    /// That round's number, from 1.
    pub best: usize,
    /// All rounds.
    pub rounds: Vec<RoundReport>,
    /// Whether the run was asked to stop before its end; a run with the same folder goes on.
    pub interrupted: bool,
}

/// Samples to learn from and to check on.
#[derive(Debug, Clone, Default)]
pub struct TrainingData {
    /// To learn from.
    pub train: Vec<Arc<Sample>>,
    /// Held out.
    pub held_out: Vec<Arc<Sample>>,
}

impl TrainingData {
    /// A hash of all tokens, in order: what a run was trained on.
    pub fn hash(&self) -> String {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        for samples in [&self.train, &self.held_out] {
            hash.update((samples.len() as u64).to_le_bytes());
            for sample in samples {
                for range in [&sample.query, &sample.scored, &sample.answer] {
                    hash.update((range.start as u64).to_le_bytes());
                    hash.update((range.end as u64).to_le_bytes());
                }
                for id in &sample.ids {
                    hash.update(id.to_le_bytes());
                }
            }
        }
        crate::hex::encode(&hash.finalize())
    }
}

/// Where and beside what a run takes place.
pub struct Surroundings {
    /// The run's folder, for checkpoints and logs.
    pub folder: PathBuf,
    /// Go on from the last checkpoint in it.
    pub resume: bool,
    /// Features on disk.
    pub cache: Option<FeatureCache>,
    /// What shows the run; none: nothing does.
    pub renderer: Option<Box<dyn MetricsRenderer>>,
    /// Stops the run from outside.
    pub interrupter: Interrupter,
}

/// Trains heads for the model of `backbones`, one a device; the samples of a step are shared out over
/// them.
///
/// # Errors
///
/// [`TrainError`]: a value of `config` that cannot be; no samples; a folder that is another run's or,
/// without `resume`, any run's; a loss that is no number; a full disk.
pub fn train_heads(
    backbones: Vec<Backbone>,
    model: &DecoderConfig,
    data: &TrainingData,
    config: &TrainHeadsConfig,
    around: Surroundings,
) -> Result<Trained, TrainError> {
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
    let folder = Folder::open(&around, config, data)?;
    let done = folder.done();

    device.seed(config.seed);
    let heads = RetainingHeadsConfig::new()
        .with_width(config.width)
        .init(model, device);
    let teacher = Arc::new(Teacher {
        backbones,
        alpha: config.alpha,
        batch: config.batch,
        keep: config.keep,
        cache: around.cache,
        interrupter: around.interrupter.clone(),
        failure: Mutex::new(None),
    });
    let trainer = HeadsTrainer {
        heads,
        teacher: teacher.clone(),
    };
    let optimizer = AdamWConfig::new()
        .with_beta_1(BETAS.0)
        .with_beta_2(BETAS.1)
        .with_epsilon(1e-8)
        .with_weight_decay(config.weight_decay as f32)
        .with_grad_clipping(Some(GradientClippingConfig::Value(config.clip as f32)))
        .init();
    let learner = Learner::new(trainer, optimizer, config.schedule()?);

    let total = config.rounds();
    if done < total {
        let round = config.round.min(config.steps);
        let visits = Visits::new(data.train.clone(), config.seed, config.visits());
        let loader = RoundLoader::new(visits, round * config.batch, done);
        let held_out = RoundLoader::held_out(data.held_out.clone());
        let path = folder.path.clone();
        let part = |name| AtomicCheckpointer::new(&path, name);
        let rounds = Arc::new(Mutex::new(folder));
        let strategy = match devices.len() {
            1 => ExecutionStrategy::SingleDevice(device.clone()),
            _ => ExecutionStrategy::MultiDevice(devices.clone(), MultiDeviceOptim::OptimMainDevice),
        };
        let mut training = SupervisedTraining::new(&path, Arc::new(loader), Arc::new(held_out))
            .with_training_strategy(TrainingStrategy::Default(strategy))
            .with_application_logger(None)
            .with_interrupter(around.interrupter.clone())
            .num_epochs(total)
            .grads_accumulation(config.batch / devices.len())
            .metric_train_numeric(LossMetric::new())
            .metric_valid_numeric(LossMetric::new())
            .metric_train_numeric(ShareMetric::<Recall>::new())
            .metric_valid_numeric(ShareMetric::<Recall>::new())
            .metric_train_numeric(ShareMetric::<Mass>::new())
            .metric_valid_numeric(ShareMetric::<Mass>::new())
            .metric_train_numeric(LearningRateMetric::new())
            .metric_valid(LayerRecallMetric::new())
            .with_checkpointing_strategy(EachRound {
                folder: rounds.clone(),
                config: config.clone(),
                interrupter: around.interrupter.clone(),
                held_out: !data.held_out.is_empty(),
            })
            .with_custom_checkpointers(part(PARTS[0]), part(PARTS[1]), part(PARTS[2]))
            .renderer(
                around
                    .renderer
                    .unwrap_or_else(|| Box::new(super::silent::Silent)),
            );
        if done > 0 {
            training = training.checkpoint(done);
        }
        if let Some(patience) = config.patience {
            training = training.early_stopping(Patience {
                folder: rounds.clone(),
                patience,
            });
        }
        let result = training.launch(learner);
        drop(result.renderer);
        let failure = teacher
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(failure) = failure {
            return Err(failure);
        }
        if let Some(error) = result.error {
            return Err(TrainError::Run(error.to_string()));
        }
        let folder = rounds.lock().unwrap_or_else(PoisonError::into_inner);
        if folder.rounds.is_empty() {
            return Err(TrainError::Run(
                "stopped before the first round was over: nothing has been learned".into(),
            ));
        }
        let interrupted = result.interrupted.is_some();
        return folder.best_heads(config, model, device, interrupted);
    }
    folder.best_heads(config, model, device, false)
}

/// A run's folder.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    rounds: Vec<RoundReport>,
}

/// What a run was asked for, to tell whether another may go on with it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Settings {
    config: TrainHeadsConfig,
    data: String,
}

impl Folder {
    fn open(
        around: &Surroundings,
        config: &TrainHeadsConfig,
        data: &TrainingData,
    ) -> Result<Self, TrainError> {
        let path = around.folder.clone();
        let failed = |error: io::Error| TrainError::Run(format!("{}: {error}", path.display()));
        let settings = Settings {
            config: config.clone(),
            data: data.hash(),
        };
        let file = path.join(SETTINGS);
        let known = match fs::read(&file) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        let mut folder = Self {
            path: path.clone(),
            rounds: Vec::new(),
        };
        match known {
            None => {
                let occupied = fs::read_dir(&path).is_ok_and(|mut inside| inside.next().is_some());
                if occupied {
                    return Err(TrainError::Run(format!(
                        "{}: expected a new folder or one of a run, found another; give another",
                        path.display()
                    )));
                }
                fs::create_dir_all(path.join(CHECKPOINTS)).map_err(failed)?;
                write_json(&file, &settings).map_err(failed)?;
            }
            Some(_) if !around.resume => {
                return Err(TrainError::Run(format!(
                    "{}: a run is here already; go on with it (--resume), or remove the folder",
                    path.display()
                )));
            }
            Some(text) => {
                let found: Settings = serde_json::from_slice(&text).map_err(|error| {
                    TrainError::Run(format!("{}: {error}; remove the folder", file.display()))
                })?;
                if found != settings {
                    return Err(TrainError::Run(format!(
                        "{}: expected the run's own settings and data, found others ({}); \
                         resume with what it began with, or remove the folder",
                        file.display(),
                        difference(&found, &settings)
                    )));
                }
                folder.restore().map_err(failed)?;
            }
        }
        Ok(folder)
    }

    /// Rounds that are over and have a whole checkpoint.
    fn done(&self) -> usize {
        self.rounds.len()
    }

    /// Goes back to the last round that has a whole checkpoint, and takes away what came after it.
    fn restore(&mut self) -> io::Result<()> {
        let rounds: Vec<RoundReport> = match fs::read(self.path.join(ROUNDS)) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let whole = |round: &usize| {
            let here = |part: &&str| checkpoint_path(&self.path, part, *round).is_file();
            PARTS.iter().all(here)
        };
        let last = (1..=rounds.len()).rev().find(whole).unwrap_or(0);
        for split in ["train", "valid"] {
            let logs = match fs::read_dir(self.path.join(split)) {
                Ok(logs) => logs,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for log in logs {
                let log = log?;
                let name = log.file_name();
                let round = name
                    .to_str()
                    .and_then(|name| name.strip_prefix("epoch-"))
                    .and_then(|round| round.parse::<usize>().ok());
                if round.is_some_and(|round| round > last) {
                    fs::remove_dir_all(log.path())?;
                }
            }
        }
        self.rounds = rounds;
        self.rounds.truncate(last);
        write_json(&self.path.join(ROUNDS), &self.rounds)
    }

    /// The round with the lowest loss on held-out samples, or else the last; from 1.
    fn best(&self) -> usize {
        let loss = |report: &RoundReport| report.valid_loss.unwrap_or(f64::INFINITY);
        let mut best = self.rounds.len();
        let mut lowest = f64::INFINITY;
        for (index, report) in self.rounds.iter().enumerate() {
            if loss(report) < lowest {
                lowest = loss(report);
                best = index + 1;
            }
        }
        best
    }

    fn best_heads(
        &self,
        config: &TrainHeadsConfig,
        model: &DecoderConfig,
        device: &Device,
        interrupted: bool,
    ) -> Result<Trained, TrainError> {
        let best = self.best();
        let path = checkpoint_path(&self.path, PARTS[0], best);
        let record = ModuleRecord::load(&path)
            .map_err(|error| TrainError::Run(format!("{}: {error}", path.display())))?;
        let device = device.clone().inner();
        let heads = RetainingHeadsConfig::new()
            .with_width(config.width)
            .init(model, &device);
        let holder = Holder { heads }.load_record(record);
        Ok(Trained {
            heads: holder.heads,
            best,
            rounds: self.rounds.clone(),
            interrupted,
        })
    }
}

/// What a record of the trainer is loaded into, without a teacher.
#[derive(Module, Debug)]
struct Holder {
    heads: RetainingHeads,
}

fn difference(found: &Settings, asked: &Settings) -> String {
    let value = |settings: &Settings| -> BTreeMap<String, serde_json::Value> {
        let config = serde_json::to_value(&settings.config).unwrap_or_default();
        serde_json::from_value(config).unwrap_or_default()
    };
    let (before, now) = (value(found), value(asked));
    let mut names: Vec<String> = before
        .iter()
        .filter(|(key, value)| now.get(*key) != Some(value))
        .map(|(key, value)| format!("{key} was {value}"))
        .collect();
    if found.data != asked.data {
        names.push("other samples".into());
    }
    names.join(", ")
}

/// Writes the file in one step: complete or as before.
fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write_file(path, |file| {
        let written = serde_json::to_writer_pretty(file, value);
        written.map_err(|error| FileError::at(path)(error.into()))
    })
    .map_err(|error: FileError| error.source)
}

fn checkpoint_path(folder: &Path, part: &str, round: usize) -> PathBuf {
    folder.join(CHECKPOINTS).join(format!("{part}-{round}.bpk"))
}

/// Writes a part of a checkpoint beside its file and renames.
struct AtomicCheckpointer {
    folder: PathBuf,
    part: &'static str,
}

impl AtomicCheckpointer {
    fn new(folder: &Path, part: &'static str) -> Self {
        Self {
            folder: folder.into(),
            part,
        }
    }
}

impl<R: Checkpoint> Checkpointer<R> for AtomicCheckpointer {
    fn save(&self, epoch: usize, record: R) -> Result<(), CheckpointerError> {
        let path = checkpoint_path(&self.folder, self.part, epoch);
        let unfinished = path.with_extension("unfinished.bpk");
        record.save(unfinished.clone())?;
        fs::File::open(&unfinished)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&unfinished, &path))
            .map_err(CheckpointerError::IOError)
    }

    fn delete(&self, epoch: usize) -> Result<(), CheckpointerError> {
        match fs::remove_file(checkpoint_path(&self.folder, self.part, epoch)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(CheckpointerError::IOError(error))
            }
            _ => Ok(()),
        }
    }

    fn restore(&self, epoch: usize) -> Result<R, CheckpointerError> {
        R::load(checkpoint_path(&self.folder, self.part, epoch))
    }
}

/// Saves each round, and keeps the last two and the best.
struct EachRound {
    folder: Arc<Mutex<Folder>>,
    config: TrainHeadsConfig,
    interrupter: Interrupter,
    held_out: bool,
}

impl CheckpointingStrategy for EachRound {
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
            recall: find(Recall::NAME, &split).unwrap_or(f64::NAN),
            mass: find(Mass::NAME, &split).unwrap_or(f64::NAN),
        };
        let mut folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        folder.rounds.push(report);
        if let Err(error) = write_json(&folder.path.join(ROUNDS), &folder.rounds) {
            self.interrupter.fail(CheckpointerError::IOError(error));
        }
        let best = folder.best();
        let old = (1..round.saturating_sub(1)).filter(|old| *old != best);
        [CheckpointingAction::Save]
            .into_iter()
            .chain(old.map(CheckpointingAction::Delete))
            .collect()
    }
}

/// Stops when the held-out loss has not fallen for some rounds, those before a resumption included.
#[derive(Clone)]
struct Patience {
    folder: Arc<Mutex<Folder>>,
    patience: usize,
}

impl EarlyStoppingStrategy for Patience {
    fn should_stop(&mut self, round: usize, _: &EventStoreClient) -> bool {
        let folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        round - folder.best() >= self.patience
    }
}
