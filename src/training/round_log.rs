//! The metrics of a round: the values that its report is made of, and lines of text in the run's folder.
//!
//! It stands in the place of Burn's own logger, which panics where a file cannot be written.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use burn::train::logger::MetricLogger;
use burn::train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn::train::metric::{MetricDefinition, MetricEntry, MetricId, MetricName, NumericEntry};

use super::module::TrainingContext;
use crate::checkpoint::FileError;

/// Keeps the metrics of the current round. A line that cannot be written stops the run.
pub(super) struct RoundLog {
    /// Where the lines are written; none of a run that cannot be resumed, whose lines no one would read.
    folder: Option<PathBuf>,
    context: Arc<TrainingContext>,
    names: HashMap<MetricId, MetricName>,
    /// The round, from 1.
    round: usize,
    /// The last value of each metric: at the end of a round, that of all its samples.
    last: HashMap<(Split, MetricName), NumericEntry>,
    files: HashMap<(Split, MetricName), File>,
}

impl RoundLog {
    /// A log whose lines are written into `folder`, if there is one.
    pub(super) fn new(folder: Option<PathBuf>, context: Arc<TrainingContext>) -> Self {
        Self {
            folder,
            context,
            names: HashMap::new(),
            round: 0,
            last: HashMap::new(),
            files: HashMap::new(),
        }
    }

    /// Writes a line into the file of its metric and round.
    fn write(&mut self, entry: &MetricEntry, split: &Split) -> Result<(), FileError> {
        let name = self.names.get(&entry.metric_id);
        let (Some(folder), Some(name)) = (&self.folder, name) else {
            return Ok(());
        };
        if entry.serialized_entry.is_not_available() {
            return Ok(());
        }
        let round = format!("epoch-{}", self.round);
        let folder = folder.join(split.to_string()).join(round);
        let path = folder.join(format!("{}.log", name.replace(' ', "_")));
        let line = format!("{}\n", entry.serialized_entry.serialized);
        let mut write = || -> io::Result<()> {
            let file = match self.files.entry((split.clone(), name.clone())) {
                Entry::Occupied(file) => file.into_mut(),
                Entry::Vacant(place) => {
                    fs::create_dir_all(&folder)?;
                    place.insert(File::create(&path)?)
                }
            };
            file.write_all(line.as_bytes())
        };
        write().map_err(FileError::at(&path))
    }
}

impl MetricLogger for RoundLog {
    fn log(&mut self, update: MetricsUpdate, round: usize, split: &Split) {
        if self.round != round {
            self.round = round;
            self.last.clear();
            self.files.clear();
        }
        for metric in &update.entries_numeric {
            let name = self.names.get(&metric.entry.metric_id);
            if let (Some(name), Some(value)) = (name, &metric.numeric_entry) {
                let key = (split.clone(), name.clone());
                self.last.insert(key, value.clone());
            }
        }
        let numeric = update.entries_numeric.iter().map(|metric| &metric.entry);
        for entry in update.entries.iter().chain(numeric) {
            if let Err(error) = self.write(entry, split) {
                self.folder = None;
                self.context.abort(error.into());
            }
        }
    }

    fn read_numeric(
        &mut self,
        name: &str,
        round: usize,
        split: &Split,
    ) -> Result<Vec<NumericEntry>, String> {
        let key = (split.clone(), Arc::new(name.to_owned()));
        let last = self.last.get(&key).filter(|_| round == self.round);
        Ok(last.cloned().into_iter().collect())
    }

    fn log_metric_definition(&mut self, definition: MetricDefinition) {
        self.names.insert(definition.metric_id, definition.name);
    }

    fn log_epoch_summary(&mut self, _: EpochSummary) {}
}
