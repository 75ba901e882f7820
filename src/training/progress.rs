//! Progress of a run, reported to the caller.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use burn::train::Interrupter;
use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::MetricDefinition;
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};

use super::run_folder::RoundReport;

/// A step of a run.
#[derive(Debug, Clone, Copy)]
pub enum TrainProgress {
    /// A sample has been processed, for training or validation.
    Sample {
        /// Training samples so far.
        done: usize,
        /// Training samples of the whole run.
        total: usize,
    },
    /// A round has been validated.
    Round(RoundReport),
}

/// Receives the progress of a run; `Break` stops the run.
pub(super) type ProgressCallback = Box<dyn FnMut(TrainProgress) -> ControlFlow<()> + Send>;

/// Calls the [`ProgressCallback`] and stops the run when it asks to.
pub(super) struct Reporter {
    callback: Option<Mutex<ProgressCallback>>,
    interrupter: Interrupter,
    done: AtomicUsize,
    total: usize,
}

impl Reporter {
    /// `done` of `total` training samples were processed before.
    pub(super) fn new(
        callback: Option<ProgressCallback>,
        interrupter: Interrupter,
        done: usize,
        total: usize,
    ) -> Self {
        Self {
            callback: callback.map(Mutex::new),
            interrupter,
            done: AtomicUsize::new(done),
            total,
        }
    }

    /// Reports `count` more training samples.
    pub(super) fn samples(&self, count: usize) {
        let done = self.done.fetch_add(count, Ordering::Relaxed) + count;
        let total = self.total;
        self.report(TrainProgress::Sample { done, total });
    }

    /// Reports a round.
    pub(super) fn round(&self, report: RoundReport) {
        self.report(TrainProgress::Round(report));
    }

    fn report(&self, progress: TrainProgress) {
        let Some(callback) = &self.callback else {
            return;
        };
        let mut callback = callback.lock().unwrap_or_else(PoisonError::into_inner);
        if callback(progress).is_break() {
            self.interrupter.stop(Some("interrupted"));
        }
    }
}

/// Renders nothing. Without a terminal Burn's own renderer prints every batch to stdout, which is for
/// results.
pub(super) struct NullRenderer;

impl MetricsRendererTraining for NullRenderer {
    fn update_train(&mut self, _: MetricState) {}
    fn update_valid(&mut self, _: MetricState) {}
}

impl MetricsRendererEvaluation for NullRenderer {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
}

impl TrainingProgressLogger for NullRenderer {
    fn start(&mut self, _: usize, _: usize, _: Option<usize>, _: Option<&str>) {}
    fn start_split(&mut self, _: &str, _: usize) {}
    fn update_split(&mut self, _: usize) {}
    fn update_epoch(&mut self, _: usize) {}
    fn end_split(&mut self) {}
    fn end(&mut self) {}
    fn log_event_training(&mut self, _: String) {}
}

impl EvaluationProgressLogger for NullRenderer {
    fn start_global_progress(&mut self, _: usize) {}
    fn start_test(&mut self, _: &str, _: usize) {}
    fn update_test_progress(&mut self, _: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _: String) {}
}

impl MetricsRenderer for NullRenderer {
    fn manual_close(&mut self) {}
    fn register_metric(&mut self, _: MetricDefinition) {}
}
