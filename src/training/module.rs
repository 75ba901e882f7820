//! The module that Burn's learner trains: retaining heads on a frozen backbone.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{DType, ExecutionError, Tensor};
use burn::train::{InferenceStep, Interrupter, ItemLazy, TrainOutput, TrainStep};

use super::cache::FeatureCache;
use super::error::TrainError;
use super::features::{Backbone, LayerFeatures};
use super::loader::TrainItem;
use super::loss::LayerLoss;
use super::progress::Reporter;
use super::quality::{Quality, to_vec};
use super::sample::Sample;
use super::scale::Scale;
use crate::apb::heads::{RetainingHead, RetainingHeads};

/// Loss and metrics of one sample.
#[derive(Debug, Clone)]
pub struct StepOutput {
    /// The whole loss.
    pub loss: f64,
    /// Its regression.
    pub regression: f64,
    /// Quality of the selection, of each layer.
    pub layers: Vec<Quality>,
}

impl ItemLazy for StepOutput {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(self)
    }
}

/// What a step needs besides the heads; shared by all copies of the module.
pub struct TrainingContext {
    /// One backbone a device.
    pub backbones: Vec<Backbone>,
    /// The scale of labels and inputs.
    pub scale: Scale,
    pub alpha: f64,
    /// Samples of an optimiser step.
    pub batch: usize,
    /// Share of rows that the metrics keep.
    pub keep: f64,
    pub cache: Option<FeatureCache>,
    pub reporter: Reporter,
    pub interrupter: Interrupter,
    /// The first error, which stopped the run: a step of Burn's learner cannot return one, and what Burn returns of its
    /// checkpoints names no file.
    pub error: Mutex<Option<TrainError>>,
}

impl TrainingContext {
    /// Computes each layer's features of a sample, or reads them from the cache.
    fn features(
        &self,
        backbone: &Backbone,
        sample: &Sample,
        visit: impl FnMut(usize, LayerFeatures) -> Result<(), TrainError> + Send,
    ) -> Result<(), TrainError> {
        match &self.cache {
            Some(cache) => cache.features(backbone, sample, visit),
            None => backbone.features(sample, visit),
        }
    }

    /// Stops the run with an error, of which the first is returned.
    pub fn abort(&self, error: TrainError) {
        let reason = error.to_string();
        // Before the learner can see that it has to stop, and the run end without it.
        let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(error);
        self.interrupter.stop(Some(&reason));
    }

    /// The error that stopped the run.
    pub fn take_error(&self) -> Option<TrainError> {
        let mut error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        error.take()
    }
}

impl fmt::Debug for TrainingContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrainingContext").finish_non_exhaustive()
    }
}

/// Heads and the context they are trained in.
#[derive(Module, Debug)]
pub struct HeadsModule {
    pub heads: RetainingHeads,
    #[module(skip)]
    pub context: Arc<TrainingContext>,
}

impl HeadsModule {
    /// Computes the losses of a sample layer by layer; `backward` receives each head with its loss.
    fn forward(
        &self,
        item: &TrainItem,
        mut backward: impl FnMut(&RetainingHead, Tensor<1>) + Send,
    ) -> Result<StepOutput, TrainError> {
        let context = &self.context;
        let first = self.heads.layers.first().map(|head| &head.fc1.weight);
        let device = first.map(|weight| weight.val().device());
        let autodiff = device.as_ref().is_some_and(|device| device.is_autodiff());
        let device = device.map(|device| device.inner());
        let backbone = context
            .backbones
            .iter()
            .find(|backbone| Some(backbone.device()) == device.as_ref())
            .ok_or_else(|| TrainError::Run(format!("no backbone on {device:?}")))?;
        let layers = self.heads.layers.len();
        let mut output = StepOutput {
            loss: 0.0,
            regression: 0.0,
            layers: Vec::with_capacity(layers),
        };
        context.features(backbone, &item.sample, |layer, features| {
            let scale = &context.scale;
            let mut input = scale.input(layer, features.projections.cast(DType::F32));
            let mut labels = scale.labels(layer, features.labels.logits.clone());
            if autodiff {
                input = Tensor::from_inner(input);
                labels = Tensor::from_inner(labels);
            }
            let head = &self.heads.layers[layer];
            let scores = head.forward(input)?;
            let loss = LayerLoss::new(scores.clone(), labels)?;
            let total = loss.total(layers, context.alpha);
            let scalar = |tensor: Tensor<1>| -> Result<f64, TrainError> {
                let tensor = if autodiff { tensor.inner() } else { tensor };
                Ok(to_vec(tensor)?.iter().map(|value| f64::from(*value)).sum())
            };
            let value = scalar(total.clone())?;
            if !value.is_finite() {
                return Err(TrainError::NotFinite {
                    loss: value,
                    sample: item.index,
                });
            }
            output.loss += value;
            output.regression += scalar(loss.regression)? / layers as f64;
            backward(head, total / context.batch as f64);
            let scores = if autodiff { scores.inner() } else { scores };
            let quality = Quality::new(scores, &features.labels, context.keep)?;
            output.layers.push(quality);
            Ok(())
        })?;
        Ok(output)
    }

    /// Stops the run; the output of the step that failed is not used.
    fn abort(&self, error: TrainError) -> StepOutput {
        self.context.abort(error);
        StepOutput {
            loss: f64::NAN,
            regression: f64::NAN,
            layers: Vec::new(),
        }
    }
}

impl TrainStep for HeadsModule {
    type Input = TrainItem;
    type Output = StepOutput;

    /// Layers share only the sample, so the backward pass of a layer runs before the next layer: the
    /// features and gradients of one layer exist at a time.
    fn step(&self, item: TrainItem) -> TrainOutput<StepOutput> {
        let mut grads = GradientsParams::new();
        let output = self.forward(&item, |head, loss| {
            let mut layer_grads = GradientsParams::from_grads(loss.backward(), head);
            for id in [head.fc1.weight.id, head.fc2.weight.id] {
                if let Some(grad) = layer_grads.remove::<2>(id) {
                    grads.register(id, grad);
                }
            }
        });
        let item = output.unwrap_or_else(|error| {
            grads = GradientsParams::new();
            self.abort(error)
        });
        self.context.reporter.samples(1);
        TrainOutput { grads, item }
    }
}

impl InferenceStep for HeadsModule {
    type Input = TrainItem;
    type Output = StepOutput;

    fn step(&self, item: TrainItem) -> StepOutput {
        let output = self.forward(&item, |_, _| {});
        self.context.reporter.samples(0);
        output.unwrap_or_else(|error| self.abort(error))
    }
}
