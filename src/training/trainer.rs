//! The module that Burn's learner trains: heads that look at a frozen backbone.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::activation::silu;
use burn::tensor::{DType, ExecutionError, Tensor};
use burn::train::{InferenceStep, Interrupter, ItemLazy, TrainOutput, TrainStep};

use super::cache::FeatureCache;
use super::features::{Backbone, LayerFeatures, TrainError};
use super::loss::LayerLoss;
use super::quality::{Quality, read};
use super::sample::Sample;
use crate::apb::heads::{RetainingHead, RetainingHeads};

/// A sample's turn.
#[derive(Debug, Clone)]
pub struct Visit {
    /// Which of the run's visits, from 0; for validation which sample.
    pub index: usize,
    /// The sample.
    pub sample: Arc<Sample>,
}

/// What a visit came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The whole loss.
    pub loss: f64,
    /// Its regression.
    pub regression: f64,
    /// What the scores would have kept, of each layer.
    pub layers: Vec<Quality>,
}

impl ItemLazy for Outcome {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(self)
    }
}

/// What heads learn from; shared by all copies of the module.
pub struct Teacher {
    /// One backbone a device.
    pub backbones: Vec<Backbone>,
    pub alpha: f64,
    /// Samples of a step.
    pub batch: usize,
    /// Share of rows that the metrics keep.
    pub keep: f64,
    pub cache: Option<FeatureCache>,
    pub interrupter: Interrupter,
    /// What stopped the run.
    pub failure: Mutex<Option<TrainError>>,
}

impl Teacher {
    /// Shows each layer's features of a sample, from the cache where they are there.
    pub fn features(
        &self,
        backbone: &Backbone,
        sample: &Sample,
        mut visit: impl FnMut(usize, LayerFeatures) -> Result<(), TrainError> + Send,
    ) -> Result<(), TrainError> {
        let Some(cache) = &self.cache else {
            return backbone.features(sample, visit);
        };
        if let Some(kept) = cache.open_sample(sample, backbone.layers()) {
            for layer in 0..backbone.layers() {
                visit(layer, kept.layer(layer, backbone.device())?)?;
            }
            return Ok(());
        }
        let mut keeping = cache.begin(sample, backbone.layers());
        backbone.features(sample, |layer, features| {
            if let Some(begun) = &mut keeping
                && !cache.add(begun, layer, &features)
            {
                keeping = None;
            }
            visit(layer, features)
        })?;
        if let Some(keeping) = keeping {
            cache.end(keeping);
        }
        Ok(())
    }

    /// Stops the run; the first failure is the one that is told.
    fn fail(&self, error: TrainError) {
        self.interrupter.stop(Some(&error.to_string()));
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
    }
}

impl fmt::Debug for Teacher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teacher").finish_non_exhaustive()
    }
}

/// Heads with what they learn from.
#[derive(Module, Debug)]
pub struct HeadsTrainer {
    pub heads: RetainingHeads,
    #[module(skip)]
    pub teacher: Arc<Teacher>,
}

impl RetainingHead {
    /// The raw scores `[batch, kv_heads, rows]` of projections side by side, `[batch, rows, (heads +
    /// 2 * kv_heads) * head_dim]`, f32, in operations that have a gradient. The reference of
    /// [`score`](Self::score).
    pub(crate) fn forward(&self, projections: Tensor<3>) -> Tensor<3> {
        let hidden = silu(self.fc1.forward(projections));
        self.fc2.forward(hidden).swap_dims(1, 2)
    }
}

impl HeadsTrainer {
    /// Takes a sample through all layers; `learn` is told each layer's loss.
    fn visit(
        &self,
        visit: &Visit,
        mut learn: impl FnMut(&RetainingHead, Tensor<1>) + Send,
    ) -> Result<Outcome, TrainError> {
        let teacher = &self.teacher;
        let first = self.heads.layers.first().map(|head| &head.fc1.weight);
        let device = first.map(|weight| weight.val().device());
        let autodiff = device.as_ref().is_some_and(|device| device.is_autodiff());
        let device = device.map(|device| device.inner());
        let backbone = teacher
            .backbones
            .iter()
            .find(|backbone| Some(backbone.device()) == device.as_ref())
            .ok_or_else(|| TrainError::Run(format!("no backbone on {device:?}")))?;
        let layers = self.heads.layers.len();
        let mut outcome = Outcome {
            loss: 0.0,
            regression: 0.0,
            layers: Vec::with_capacity(layers),
        };
        teacher.features(backbone, &visit.sample, |layer, features| {
            let mut input = features.projections.cast(DType::F32);
            let mut labels = features.labels.logits.clone();
            if autodiff {
                input = Tensor::from_inner(input);
                labels = Tensor::from_inner(labels);
            }
            let head = &self.heads.layers[layer];
            let scores = head.forward(input);
            let loss = LayerLoss::new(scores.clone(), labels);
            let share = loss.total(layers, teacher.alpha);
            let one = |tensor: Tensor<1>| -> Result<f64, TrainError> {
                let tensor = if autodiff { tensor.inner() } else { tensor };
                Ok(read(tensor)?.iter().map(|value| f64::from(*value)).sum())
            };
            let value = one(share.clone())?;
            if !value.is_finite() {
                return Err(TrainError::NotFinite {
                    loss: value,
                    sample: visit.index,
                });
            }
            outcome.loss += value;
            outcome.regression += one(loss.regression)? / layers as f64;
            learn(head, share / teacher.batch as f64);
            let scores = if autodiff { scores.inner() } else { scores };
            let quality = Quality::new(scores, &features.labels, teacher.keep)?;
            outcome.layers.push(quality);
            Ok(())
        })?;
        Ok(outcome)
    }

    /// What a visit that failed came to: nothing, and the run stops.
    fn failed(&self, error: TrainError) -> Outcome {
        self.teacher.fail(error);
        Outcome {
            loss: f64::NAN,
            regression: f64::NAN,
            layers: Vec::new(),
        }
    }
}

impl TrainStep for HeadsTrainer {
    type Input = Visit;
    type Output = Outcome;

    /// Layers share nothing but the sample, so that each is done with before the next begins: one
    /// layer's features and gradients exist at a time.
    fn step(&self, visit: Visit) -> TrainOutput<Outcome> {
        let mut grads = GradientsParams::new();
        let learned = self.visit(&visit, |head, loss| {
            let mut of_layer = GradientsParams::from_grads(loss.backward(), head);
            for id in [head.fc1.weight.id, head.fc2.weight.id] {
                if let Some(grad) = of_layer.remove::<2>(id) {
                    grads.register(id, grad);
                }
            }
        });
        let item = learned.unwrap_or_else(|error| {
            grads = GradientsParams::new();
            self.failed(error)
        });
        TrainOutput { grads, item }
    }
}

impl InferenceStep for HeadsTrainer {
    type Input = Visit;
    type Output = Outcome;

    fn step(&self, visit: Visit) -> Outcome {
        self.visit(&visit, |_, _| {})
            .unwrap_or_else(|error| self.failed(error))
    }
}
