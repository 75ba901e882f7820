//! Metrics for Burn's learner.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorReadError};
use burn::train::metric::state::{FormatOptions, NumericMetricState};
use burn::train::metric::{
    Adaptor, LossInput, Metric, MetricAttributes, MetricMetadata, MetricName, Numeric,
    NumericAttributes, NumericEntry, SerializedEntry,
};

use super::module::StepOutput;
use super::quality::Quality;

/// Digits after the decimal point.
const PRECISION: usize = 4;

/// The name of [`QualityMetric::recall`].
pub const RECALL: &str = "Recall";

/// The name of [`QualityMetric::attention`].
pub const ATTENTION: &str = "Attention";

impl Adaptor<LossInput> for StepOutput {
    fn adapt(&self) -> LossInput {
        LossInput::new(Tensor::from_floats([self.loss], &Device::flex()))
    }
}

/// The quality of each layer in one sample.
impl Adaptor<Vec<Quality>> for StepOutput {
    fn adapt(&self) -> Vec<Quality> {
        self.layers.clone()
    }
}

/// A part of [`Quality`], mean over layers and samples.
#[derive(Clone)]
pub struct QualityMetric {
    name: MetricName,
    description: &'static str,
    value: fn(Quality) -> f64,
    state: NumericMetricState,
}

impl QualityMetric {
    /// [`Quality::recall`].
    pub fn recall() -> Self {
        Self::new(
            RECALL,
            "Share of the rows with the highest labels among those with the highest scores, all layers",
            |quality| quality.recall,
        )
    }

    /// [`Quality::mass`].
    pub fn attention() -> Self {
        Self::new(
            ATTENTION,
            "Share of the answer's attention that goes to the rows with the highest scores, all layers",
            |quality| quality.mass,
        )
    }

    fn new(name: &str, description: &'static str, value: fn(Quality) -> f64) -> Self {
        Self {
            name: Arc::new(name.to_owned()),
            description,
            value,
            state: NumericMetricState::new(),
        }
    }

    fn format(&self) -> FormatOptions {
        FormatOptions::new(self.name.clone()).precision(PRECISION)
    }
}

impl Metric for QualityMetric {
    type Input = Vec<Quality>;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn description(&self) -> Option<String> {
        Some(self.description.to_owned())
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes {
            unit: None,
            higher_is_better: true,
        }
        .into()
    }

    fn update(
        &mut self,
        layers: &Vec<Quality>,
        _: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        self.state.update((self.value)(Quality::mean(layers)), 1);
        Ok(self.state.compute_update(self.format()))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.state.compute_final(self.format()))
    }

    fn clear(&mut self) {
        self.state.reset();
    }
}

impl Numeric for QualityMetric {
    fn value(&self) -> Option<NumericEntry> {
        Some(self.state.current_value())
    }

    fn running_value(&self) -> Option<NumericEntry> {
        Some(self.state.running_value())
    }

    fn final_value(&self) -> NumericEntry {
        self.state.final_value()
    }
}

/// Recall of each layer, mean over samples, as one line of text.
#[derive(Debug, Clone, Default)]
pub struct LayerRecallMetric {
    /// Sum of each layer.
    sums: Vec<f64>,
    count: usize,
}

impl Metric for LayerRecallMetric {
    type Input = Vec<Quality>;

    fn name(&self) -> MetricName {
        Arc::new("Recall by layer".to_owned())
    }

    fn update(
        &mut self,
        layers: &Vec<Quality>,
        _: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        self.sums.resize(layers.len().max(self.sums.len()), 0.0);
        for (sum, layer) in self.sums.iter_mut().zip(layers) {
            *sum += layer.recall;
        }
        self.count += 1;
        self.compute()
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        let count = self.count.max(1) as f64;
        let means = self.sums.iter().map(|sum| format!("{:.3}", sum / count));
        let line = means.collect::<Vec<_>>().join(" ");
        Ok(SerializedEntry::new(line.clone(), line))
    }

    fn clear(&mut self) {
        self.sums.clear();
        self.count = 0;
    }
}
