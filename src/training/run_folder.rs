//! The folder of a run: settings, reports of the rounds, checkpoints and logs of the metrics.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::lr_scheduler::LrSchedulerRecord;
use burn::module::Module;
use burn::optim::OptimizerRecord;
use burn::store::ModuleRecord;
use burn::tensor::{Bytes, Device};
use burn::train::checkpoint::{Checkpoint, Checkpointer, CheckpointerError};
use serde::{Deserialize, Serialize};

use super::config::TrainHeadsConfig;
use super::error::TrainError;
use super::module::TrainingContext;
use super::scale::Scale;
use crate::apb::heads::{RetainingHeads, RetainingHeadsConfig};
use crate::checkpoint::{FileError, check_regular, read_limited, write_file};
use crate::model::AttentionShape;
use crate::quoted::{QuotePath, cut};

/// File with the [`Settings`].
const SETTINGS: &str = "settings.json";
/// File with the reports of the finished rounds.
const ROUNDS: &str = "rounds.json";
/// File with the [`Scale`] of labels and inputs.
const SCALE: &str = "scale.json";
/// Characters of a parser's message that an error shows.
const SHOWN: usize = 400;
/// The longest of these files that is read, in bytes.
const MAX_JSON_LEN: u64 = 64 << 20;
/// Folder of the checkpoints, one file a part and round.
const CHECKPOINTS: &str = "checkpoint";
/// The parts of a checkpoint.
pub(super) const PARTS: [&str; 3] = ["model", "optimizer", "scheduler"];

/// Means over the samples of a round and over the held-out samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RoundReport {
    /// Optimiser steps since the start.
    pub step: usize,
    /// Loss of the round's samples.
    pub loss: f64,
    /// Loss of the held-out samples, if there are any.
    pub valid_loss: Option<f64>,
    /// Recall on the held-out samples, or on the round's samples without any.
    pub recall: f64,
    /// Share of the attention mass kept, of the same samples.
    pub mass: f64,
}

/// What two runs must have in common for one to resume the other.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub config: TrainHeadsConfig,
    /// [`TrainingData::hash`](super::TrainingData::hash).
    pub data: String,
    /// The model's fingerprint; earlier versions wrote none.
    #[serde(default)]
    pub model: Option<String>,
    /// Hash of the heads that the run started from, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
}

/// The folder of a run.
#[derive(Debug)]
pub(super) struct RunFolder {
    pub path: PathBuf,
    /// Finished rounds that have a complete checkpoint.
    pub rounds: Vec<RoundReport>,
    /// Whether the run can be resumed: of one that cannot, only the heads are kept.
    resumable: bool,
}

/// What a checkpoint of the trainer is loaded into, without its backbone.
#[derive(Module, Debug)]
struct HeadsRecord {
    heads: RetainingHeads,
}

impl RunFolder {
    /// Creates the folder of a new run, or opens the one of a run to resume.
    pub fn open(path: &Path, resume: bool, settings: Settings) -> Result<Self, TrainError> {
        let failed = |error: io::Error| run_error(path, &error);
        if path.as_os_str().is_empty() {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        let file = path.join(SETTINGS);
        let mut folder = Self {
            path: path.into(),
            rounds: Vec::new(),
            resumable: true,
        };
        match read_optional(&file).map_err(|error| run_error(&file, &error))? {
            None if fs::read_dir(path).is_ok_and(|mut inside| inside.next().is_some()) => {
                Err(run_error(
                    path,
                    &"expected a new folder or one of a run, found another; give another",
                ))
            }
            None => {
                fs::create_dir_all(path.join(CHECKPOINTS)).map_err(failed)?;
                write_json(&file, &settings)?;
                Ok(folder)
            }
            Some(_) if !resume => Err(run_error(
                path,
                &"a run is here already; resume it (--resume), or remove the folder",
            )),
            Some(text) => {
                let found: Settings = serde_json::from_slice(&text).map_err(|error| {
                    let error = cut(&error, SHOWN);
                    run_error(&file, &format!("{error}; remove the folder"))
                })?;
                check_model(path, &found, &settings)?;
                if found != settings {
                    let difference = difference(&found, &settings);
                    let text = format!(
                        "expected the run's own settings and data, found others ({difference}); \
                         resume with what it began with, or remove the folder"
                    );
                    return Err(run_error(&file, &text));
                }
                folder.restore().map_err(failed)?;
                write_json(&path.join(ROUNDS), &folder.rounds)?;
                Ok(folder)
            }
        }
    }

    /// The folder of a run that ends with its process.
    pub fn temporary(path: &Path) -> Result<Self, FileError> {
        let folder = path.join(CHECKPOINTS);
        fs::create_dir(&folder).map_err(FileError::at(&folder))?;
        Ok(Self {
            path: path.into(),
            rounds: Vec::new(),
            resumable: false,
        })
    }

    /// Writes and reads one of [`PARTS`]. What cannot be written stops the run of `context`.
    pub fn checkpointer(
        &self,
        part: &'static str,
        context: Arc<TrainingContext>,
    ) -> AtomicCheckpointer {
        AtomicCheckpointer {
            folder: self.path.clone(),
            part,
            kept: self.resumable || part == PARTS[0],
            context,
        }
    }

    /// Where logs are written, of a run that can be resumed.
    pub fn logs(&self) -> Option<PathBuf> {
        self.resumable.then(|| self.path.clone())
    }

    /// Goes back to the last round whose checkpoint can be read, and removes the logs of later ones.
    fn restore(&mut self) -> io::Result<()> {
        let text = read_optional(&self.path.join(ROUNDS))?;
        let rounds: Vec<RoundReport> = match text {
            Some(text) => serde_json::from_slice(&text)?,
            None => Vec::new(),
        };
        let complete = |round: &usize| {
            let [model, optimizer, scheduler] =
                PARTS.map(|part| checkpoint_path(&self.path, part, *round));
            is_whole::<ModuleRecord>(&model)
                && is_whole::<OptimizerRecord>(&optimizer)
                && is_whole::<LrSchedulerRecord>(&scheduler)
        };
        let last = (1..=rounds.len()).rev().find(complete).unwrap_or(0);
        for split in ["train", "valid"] {
            let logs = match fs::read_dir(self.path.join(split)) {
                Ok(logs) => logs,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for log in logs {
                let log = log?;
                let name = log.file_name();
                let round = name.to_str().and_then(|name| name.strip_prefix("epoch-"));
                let round = round.and_then(|round| round.parse::<usize>().ok());
                if round.is_some_and(|round| round > last) {
                    fs::remove_dir_all(log.path())?;
                }
            }
        }
        self.rounds = rounds;
        self.rounds.truncate(last);
        Ok(())
    }

    /// Adds the report of a round.
    pub fn push(&mut self, report: RoundReport) -> Result<(), FileError> {
        self.rounds.push(report);
        write_json(&self.path.join(ROUNDS), &self.rounds)
    }

    /// The scale that the run was begun with; none of a run without a round, which has to measure it.
    ///
    /// # Errors
    ///
    /// [`TrainError::Scale`]: the file is lost or not one that was written for this model.
    pub fn scale(&self, model: AttentionShape) -> Result<Option<Scale>, TrainError> {
        let path = self.path.join(SCALE);
        let refused = |found: String| TrainError::Scale {
            path: path.clone(),
            found,
        };
        let text = read_optional(&path).map_err(|error| run_error(&path, &error))?;
        let Some(text) = text else {
            return match self.rounds.is_empty() {
                true => Ok(None),
                false => Err(refused("no file".into())),
            };
        };
        let scale: Scale =
            serde_json::from_slice(&text).map_err(|error| refused(error.to_string()))?;
        scale.check(model).map_err(refused)?;
        Ok(Some(scale))
    }

    /// Keeps the scale. Returns it as it is read again, so that a resumed run has the same.
    pub fn keep_scale(&self, scale: &Scale, model: AttentionShape) -> Result<Scale, TrainError> {
        let path = self.path.join(SCALE);
        write_bytes(&path, serde_json::to_vec(scale))?;
        self.scale(model)?.ok_or_else(|| TrainError::Scale {
            path,
            found: "no file".into(),
        })
    }

    /// The round with the highest recall on held-out samples or, without any, with the lowest loss; from 1, and the
    /// first of equal ones.
    pub fn best(&self) -> usize {
        let held_out = self.rounds.iter().any(|round| round.valid_loss.is_some());
        let worth = |round: &RoundReport| match if held_out { round.recall } else { -round.loss } {
            worth if worth.is_nan() => f64::NEG_INFINITY,
            worth => worth,
        };
        let rounds = (1..).zip(self.rounds.iter().map(worth));
        let best = rounds
            .max_by(|(round, one), (later, other)| one.total_cmp(other).then(later.cmp(round)));
        best.map_or(0, |(round, _)| round)
    }

    /// Whether `patience` rounds have passed since the best one.
    pub fn out_of_patience(&self, patience: Option<usize>) -> bool {
        patience.is_some_and(|patience| self.rounds.len() - self.best() >= patience)
    }

    /// Loads the heads of a round, from 1.
    pub fn load_heads(
        &self,
        round: usize,
        width: usize,
        model: AttentionShape,
        device: &Device,
    ) -> Result<RetainingHeads, TrainError> {
        let path = checkpoint_path(&self.path, PARTS[0], round);
        let record: ModuleRecord = read_part(&path).map_err(|error| run_error(&path, &error))?;
        let heads = RetainingHeadsConfig::new()
            .with_width(width)
            .init(model, device);
        let loaded = HeadsRecord { heads }.try_load_record(record);
        Ok(loaded.map_err(|error| run_error(&path, &error))?.heads)
    }
}

/// Refuses a run of another model, whose heads would be for neither.
fn check_model(folder: &Path, run: &Settings, now: &Settings) -> Result<(), TrainError> {
    let found = now.model.clone().unwrap_or_default();
    match &run.model {
        Some(expected) if *expected == found => Ok(()),
        Some(expected) => Err(TrainError::OtherModel {
            folder: folder.into(),
            expected: expected.clone(),
            found,
        }),
        None => Err(TrainError::UnknownModel {
            path: folder.join(SETTINGS),
            found,
        }),
    }
}

/// The names and earlier values of the settings that differ.
fn difference(found: &Settings, expected: &Settings) -> String {
    let before = serde_json::to_value(&found.config).unwrap_or_default();
    let now = serde_json::to_value(&expected.config).unwrap_or_default();
    let fields = before.as_object().into_iter().flatten();
    let mut names: Vec<String> = fields
        .filter(|(key, value)| now.get(key) != Some(value))
        .map(|(key, value)| format!("{key} was {value}"))
        .collect();
    if found.data != expected.data {
        names.push("other samples".into());
    }
    if found.start != expected.start {
        names.push("other heads to start from".into());
    }
    names.join(", ")
}

fn run_error(path: &Path, what: &dyn std::fmt::Display) -> TrainError {
    TrainError::Path {
        path: path.into(),
        problem: what.to_string(),
    }
}

fn read_optional(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match read_limited(path, MAX_JSON_LEN) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), FileError> {
    write_bytes(path, serde_json::to_vec_pretty(value))
}

fn write_bytes(path: &Path, json: serde_json::Result<Vec<u8>>) -> Result<(), FileError> {
    write_file(path, |file| {
        let bytes = json.map_err(io::Error::from);
        let written = bytes.and_then(|bytes| file.write_all(&bytes));
        written.map_err(|source| FileError {
            path: path.into(),
            source,
        })
    })
}

fn checkpoint_path(folder: &Path, part: &str, round: usize) -> PathBuf {
    folder.join(CHECKPOINTS).join(format!("{part}-{round}.bpk"))
}

/// Reads a part of a checkpoint, whole: a record that Burn opens by its path reads the file when it is first used, and panics
/// where the file is gone by then.
fn read_part<R: Checkpoint>(path: &Path) -> io::Result<R> {
    check_regular(path)?;
    let bytes = Bytes::from_bytes_vec(fs::read(path)?);
    R::checkpoint_from_bytes(bytes).map_err(io::Error::other)
}

/// Whether a part of a checkpoint is there and can be read.
fn is_whole<R: Checkpoint>(path: &Path) -> bool {
    let warn = |error: &io::Error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!("{}: {error}; an earlier round is resumed", path.quoted());
        }
    };
    read_part::<R>(path).inspect_err(warn).is_ok()
}

/// Writes a part of a checkpoint whole or not at all. An error of Burn's `FileCheckpointer` names no file.
pub(super) struct AtomicCheckpointer {
    folder: PathBuf,
    part: &'static str,
    /// Whether the part is written at all.
    kept: bool,
    context: Arc<TrainingContext>,
}

impl<R: Checkpoint> Checkpointer<R> for AtomicCheckpointer {
    fn save(&self, epoch: usize, record: R) -> Result<(), CheckpointerError> {
        if !self.kept {
            return Ok(());
        }
        let path = checkpoint_path(&self.folder, self.part, epoch);
        let bytes = record.checkpoint_into_bytes();
        let bytes = bytes.map_err(CheckpointerError::Record)?;
        let written = write_file(&path, |file| {
            file.write_all(&bytes).map_err(FileError::at(&path))
        });
        if let Err(error) = written {
            self.context.abort(error.into());
        }
        Ok(())
    }

    fn delete(&self, epoch: usize) -> Result<(), CheckpointerError> {
        let path = checkpoint_path(&self.folder, self.part, epoch);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let what = format!("cannot be removed: {error}");
                self.context.abort(run_error(&path, &what));
            }
            _ => {}
        }
        Ok(())
    }

    fn restore(&self, epoch: usize) -> Result<R, CheckpointerError> {
        let path = checkpoint_path(&self.folder, self.part, epoch);
        read_part(&path).map_err(CheckpointerError::IOError)
    }
}
