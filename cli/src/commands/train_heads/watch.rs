//! A run where there is no terminal for Burn's dashboard: a bar on stderr, or a line a round.

use burn::train::Interrupter;
use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::{MetricDefinition, NumericEntry};
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};
use burn_apb::training::TrainHeadsConfig;

use crate::interrupt;
use crate::output::{Output, Progress};

/// Shows rounds on stderr, and passes Ctrl-C on.
pub struct Watch {
    output: Output,
    bar: Progress,
    interrupter: Interrupter,
    /// Steps of a round, and of the run.
    round: usize,
    steps: usize,
    batch: usize,
    /// The round under way, from 1.
    epoch: usize,
    training: bool,
    /// Sums and counts of the round under way.
    train: Vec<(String, f64, usize)>,
    valid: Vec<(String, f64, usize)>,
    names: Vec<MetricDefinition>,
}

impl Watch {
    pub fn new(recipe: &TrainHeadsConfig, interrupter: Interrupter, output: Output) -> Self {
        Self {
            bar: output.progress("training", "samples"),
            output,
            interrupter,
            round: recipe.round.min(recipe.steps),
            steps: recipe.steps,
            batch: recipe.batch,
            epoch: 1,
            training: true,
            train: Vec::new(),
            valid: Vec::new(),
            names: Vec::new(),
        }
    }

    fn poll(&self) {
        if interrupt::poll().is_break() {
            self.interrupter.stop(Some("interrupted"));
        }
    }

    /// The name of a numeric metric, and its value in the last sample.
    fn value(&self, state: &MetricState) -> Option<(String, f64)> {
        let MetricState::Numeric(entry, Some(value)) = state else {
            return None;
        };
        let name = self
            .names
            .iter()
            .find(|definition| definition.metric_id == entry.metric_id)?;
        let value = match value {
            NumericEntry::Value(value) | NumericEntry::Final(value) => *value,
            NumericEntry::Aggregated {
                aggregated_value, ..
            } => *aggregated_value,
        };
        Some((name.name.to_string(), value))
    }
}

fn add(sums: &mut Vec<(String, f64, usize)>, (name, value): (String, f64)) {
    match sums.iter_mut().find(|(known, ..)| *known == name) {
        Some((_, sum, count)) => {
            *sum += value;
            *count += 1;
        }
        None => sums.push((name, value, 1)),
    }
}

impl MetricsRendererTraining for Watch {
    fn update_train(&mut self, state: MetricState) {
        if let Some(value) = self.value(&state) {
            add(&mut self.train, value);
        }
        self.poll();
    }

    fn update_valid(&mut self, state: MetricState) {
        if let Some(value) = self.value(&state) {
            add(&mut self.valid, value);
        }
        self.poll();
    }
}

impl MetricsRendererEvaluation for Watch {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
}

impl TrainingProgressLogger for Watch {
    fn start(&mut self, _: usize, starting: usize, _: Option<usize>, _: Option<&str>) {
        self.epoch = starting;
    }

    fn start_split(&mut self, split: &str, _: usize) {
        self.training = split.eq_ignore_ascii_case("train");
    }

    fn update_split(&mut self, items: usize) {
        if self.training {
            let before = (self.epoch.saturating_sub(1)) * self.round * self.batch;
            let total = self.steps * self.batch;
            self.bar.update((before + items) as u64, total as u64);
        }
        self.poll();
    }

    fn update_epoch(&mut self, epoch: usize) {
        let step = (epoch * self.round).min(self.steps);
        let mut line = format!("step {step}/{}", self.steps);
        for (of, sums) in [("", &mut self.train), ("held-out ", &mut self.valid)] {
            for (name, sum, count) in sums.drain(..) {
                if name != "Learning Rate" {
                    let mean = sum / count as f64;
                    line.push_str(&format!(", {of}{} {mean:.4}", name.to_lowercase()));
                }
            }
        }
        self.output.note(line);
        self.epoch = epoch + 1;
    }

    fn end_split(&mut self) {}

    fn end(&mut self) {
        self.bar.finish();
    }

    fn log_event_training(&mut self, _: String) {}
}

impl EvaluationProgressLogger for Watch {
    fn start_global_progress(&mut self, _: usize) {}
    fn start_test(&mut self, _: &str, _: usize) {}
    fn update_test_progress(&mut self, _: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _: String) {}
}

impl MetricsRenderer for Watch {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, definition: MetricDefinition) {
        self.names.push(definition);
    }
}
