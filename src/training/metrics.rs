//! What Burn's learner shows and keeps of a run.

use std::marker::PhantomData;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorReadError};
use burn::train::metric::state::{FormatOptions, NumericMetricState};
use burn::train::metric::{
    Adaptor, LossInput, Metric, MetricAttributes, MetricMetadata, MetricName, Numeric,
    NumericAttributes, NumericEntry, SerializedEntry,
};

use super::quality::Quality;
use super::trainer::Outcome;

/// Places behind the decimal point.
const PRECISION: usize = 4;

impl Adaptor<LossInput> for Outcome {
    fn adapt(&self) -> LossInput {
        LossInput::new(Tensor::from_floats([self.loss], &Device::flex()))
    }
}

/// A share between 0 and 1 of what there is to keep.
pub trait Share: Clone + Send + Sync + 'static {
    /// The metric's name.
    const NAME: &'static str;
    /// What it says.
    const DESCRIPTION: &'static str;

    /// Its value.
    fn of(quality: Quality) -> f64;
}

/// Share of the rows with the highest labels that are kept.
#[derive(Debug, Clone)]
pub struct Recall;

impl Share for Recall {
    const NAME: &'static str = "Recall";
    const DESCRIPTION: &'static str =
        "Share of the rows with the highest labels among those with the highest scores, all layers";

    fn of(quality: Quality) -> f64 {
        quality.recall
    }
}

/// Share of the answer's attention that is kept.
#[derive(Debug, Clone)]
pub struct Mass;

impl Share for Mass {
    const NAME: &'static str = "Attention";
    const DESCRIPTION: &'static str =
        "Share of the answer's attention that goes to the rows with the highest scores, all layers";

    fn of(quality: Quality) -> f64 {
        quality.mass
    }
}

/// A [`Share`], mean over layers and samples.
#[derive(Clone)]
pub struct ShareMetric<S> {
    name: MetricName,
    state: NumericMetricState,
    share: PhantomData<S>,
}

/// The value of a [`Share`] in one sample.
pub struct ShareInput<S>(f64, PhantomData<S>);

impl<S: Share> Adaptor<ShareInput<S>> for Outcome {
    fn adapt(&self) -> ShareInput<S> {
        ShareInput(S::of(Quality::mean(&self.layers)), PhantomData)
    }
}

impl<S: Share> ShareMetric<S> {
    pub fn new() -> Self {
        Self {
            name: Arc::new(S::NAME.to_owned()),
            state: NumericMetricState::new(),
            share: PhantomData,
        }
    }

    fn format(&self) -> FormatOptions {
        FormatOptions::new(self.name.clone()).precision(PRECISION)
    }
}

impl<S: Share> Metric for ShareMetric<S> {
    type Input = ShareInput<S>;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn description(&self) -> Option<String> {
        Some(S::DESCRIPTION.to_owned())
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
        input: &ShareInput<S>,
        _: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        self.state.update(input.0, 1);
        Ok(self.state.compute_update(self.format()))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.state.compute_final(self.format()))
    }

    fn clear(&mut self) {
        self.state.reset();
    }
}

impl<S: Share> Numeric for ShareMetric<S> {
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

/// [`Recall`] of each layer.
#[derive(Debug, Clone)]
pub struct LayerRecallMetric {
    name: MetricName,
    /// Sum of each layer.
    sums: Vec<f64>,
    count: usize,
}

/// [`Recall`] of each layer in one sample.
pub struct LayerRecallInput(Vec<f64>);

impl Adaptor<LayerRecallInput> for Outcome {
    fn adapt(&self) -> LayerRecallInput {
        LayerRecallInput(self.layers.iter().map(|layer| layer.recall).collect())
    }
}

impl LayerRecallMetric {
    pub fn new() -> Self {
        Self {
            name: Arc::new("Recall by layer".to_owned()),
            sums: Vec::new(),
            count: 0,
        }
    }
}

impl Metric for LayerRecallMetric {
    type Input = LayerRecallInput;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn update(
        &mut self,
        input: &LayerRecallInput,
        _: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        self.sums.resize(input.0.len().max(self.sums.len()), 0.0);
        for (sum, value) in self.sums.iter_mut().zip(&input.0) {
            *sum += value;
        }
        self.count += 1;
        self.compute()
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        let means: Vec<String> = self
            .sums
            .iter()
            .map(|sum| format!("{:.3}", sum / self.count.max(1) as f64))
            .collect();
        let line = means.join(" ");
        Ok(SerializedEntry::new(line.clone(), line))
    }

    fn clear(&mut self) {
        self.sums.clear();
        self.count = 0;
    }
}
