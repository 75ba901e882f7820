//! Training of heads as a builder: in memory, or with a folder from which a run can be resumed.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use burn::train::Interrupter;
use burn::train::renderer::MetricsRenderer;

use super::cache::FeatureCache;
use super::config::TrainHeadsConfig;
use super::error::TrainError;
use super::features::Backbone;
use super::progress::{ProgressCallback, TrainProgress};
use super::run_folder::{RoundReport, RunFolder, Settings};
use super::sample::{HELD_OUT, SAMPLE, Sample, TrainingData};
use super::start::StartHeads;
use crate::apb::heads::RetainingHeads;
use crate::checkpoint::FileError;

/// The result of a run.
#[derive(Debug)]
pub struct TrainedHeads {
    /// The heads of the round with the highest recall on held-out samples or, without any, with the lowest
    /// loss; f32, on the device of the first backbone.
    pub heads: RetainingHeads,
    /// The number of that round, from 1.
    pub best: usize,
    /// Reports of all rounds.
    pub rounds: Vec<RoundReport>,
    /// Whether the run was stopped before its end; a run with the same folder resumes it.
    pub interrupted: bool,
}

/// Trains retaining heads for a model.
///
/// ```no_run
/// use burn::tensor::Device;
/// use burn_apb::LanguageModel;
/// use burn_apb::tasks::TextSample;
/// use burn_apb::training::{HeadsTrainer, Sample, TrainHeadsConfig};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let model = LanguageModel::load("SmolLM2-135M-Instruct", &Device::flex())?;
/// let text = TextSample {
///     document: std::fs::read_to_string("report.txt")?,
///     question: "What was decided?".into(),
///     answer: "To buy a boiler.".into(),
/// };
/// let samples = vec![Sample::new(&model.text, &text, true, 2000)?];
/// let trained = HeadsTrainer::new(&model).fit(samples.clone())?;
/// let config = TrainHeadsConfig::new().with_steps(100);
/// let further = HeadsTrainer::new(&model).config(config).start_from(trained.heads).fit(samples)?;
/// println!("loss {:.3}", further.rounds[0].loss);
/// # Ok(())
/// # }
/// ```
///
/// Without a [`folder`](Self::folder), nothing is left on disk: the checkpoints of the rounds, of which the
/// best is returned, are in a temporary folder that [`fit`](Self::fit) removes.
pub struct HeadsTrainer {
    pub(super) backbones: Vec<Backbone>,
    pub(super) config: TrainHeadsConfig,
    start: Option<RetainingHeads>,
    held_out: Vec<Arc<Sample>>,
    /// With the fingerprint of the model.
    folder: Option<(PathBuf, String)>,
    resume: bool,
    pub(super) cache: Option<FeatureCache>,
    pub(super) renderer: Option<Box<dyn MetricsRenderer>>,
    pub(super) progress: Option<ProgressCallback>,
    pub(super) interrupter: Interrupter,
}

impl HeadsTrainer {
    /// A trainer with the default configuration for a [`LanguageModel`](crate::LanguageModel), or for the
    /// [`Backbone`] of any decoder. Heads are trained on its device.
    pub fn new(model: impl Into<Backbone>) -> Self {
        Self {
            backbones: vec![model.into()],
            config: TrainHeadsConfig::new(),
            start: None,
            held_out: Vec::new(),
            folder: None,
            resume: false,
            cache: None,
            renderer: None,
            progress: None,
            interrupter: Interrupter::new(),
        }
    }

    /// The same model on a further device, which shares the samples of a step.
    pub fn also(mut self, model: impl Into<Backbone>) -> Self {
        self.backbones.push(model.into());
        self
    }

    /// The configuration.
    pub fn config(mut self, config: TrainHeadsConfig) -> Self {
        self.config = config;
        self
    }

    /// Trains these heads further, of any dtype and device, in place of new ones. Their width takes the
    /// place of the configuration's, and they go on with the scale of labels that they were trained with: heads
    /// without one learn the attention logits as they are. The optimiser and the learning rate begin anew.
    pub fn start_from(mut self, heads: RetainingHeads) -> Self {
        self.start = Some(heads);
        self
    }

    /// Samples to validate on after each round; the heads of the best round are returned.
    pub fn held_out<S: Into<Arc<Sample>>>(mut self, samples: impl IntoIterator<Item = S>) -> Self {
        self.held_out = samples.into_iter().map(Into::into).collect();
        self
    }

    /// Keeps checkpoints and logs in this folder. `fingerprint` identifies the model
    /// ([`ModelSource::fingerprint`](crate::checkpoint::ModelSource::fingerprint)): a run of
    /// another one is not resumed.
    pub fn folder(mut self, folder: impl Into<PathBuf>, fingerprint: impl Into<String>) -> Self {
        self.folder = Some((folder.into(), fingerprint.into()));
        self
    }

    /// Resumes from the last checkpoint in the folder, if there is one.
    pub fn resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }

    /// Keeps features on disk for several passes over the samples.
    pub fn cache(mut self, cache: FeatureCache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Renders Burn's metrics, for example on its dashboard.
    pub fn renderer(mut self, renderer: Box<dyn MetricsRenderer>) -> Self {
        self.renderer = Some(renderer);
        self
    }

    /// Calls `progress` after each sample and round; `Break` stops the run.
    pub fn progress(
        mut self,
        progress: impl FnMut(TrainProgress) -> ControlFlow<()> + Send + 'static,
    ) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// A handle that stops the run from another thread or from a renderer.
    pub fn interrupter(&self) -> Interrupter {
        self.interrupter.clone()
    }

    /// Trains on `samples` until the steps of the configuration are done or the run is stopped. A stopped
    /// run returns the best of its finished rounds.
    ///
    /// # Errors
    ///
    /// [`TrainError`]: an invalid value of the configuration; no samples, or one that cannot be used; heads
    /// to start from of another shape; a folder that belongs to another run or model or, without
    /// [`resume`](Self::resume), to any run, or has lost the scale of its labels; a loss that is not finite; a full disk, or a
    /// folder that cannot be written or was removed ([`TrainError::File`]);
    /// [`TrainError::Stopped`] before the end of the first round.
    pub fn fit<S: Into<Arc<Sample>>>(
        mut self,
        samples: impl IntoIterator<Item = S>,
    ) -> Result<TrainedHeads, TrainError> {
        let data = TrainingData {
            train: samples.into_iter().map(Into::into).collect(),
            held_out: std::mem::take(&mut self.held_out),
        };
        let start = self.start.take();
        let shape = self.backbones[0].shape();
        let start = start.map(|heads| StartHeads::read(&heads, shape));
        let start = start.transpose()?;
        if let Some(start) = &start {
            self.config.width = start.width;
        }
        self.check(&data)?;
        let settings = |model| Settings {
            config: self.config.clone(),
            data: data.hash(),
            model: Some(model),
            start: start.as_ref().map(|start| start.hash.clone()),
        };
        // Removed when it is dropped, after the run.
        let mut temporary = None;
        let folder = match self.folder.take() {
            Some((path, model)) => RunFolder::open(&path, self.resume, settings(model))?,
            None => {
                let made = tempfile::tempdir();
                let made = made.map_err(FileError::at(&std::env::temp_dir()))?;
                RunFolder::temporary(temporary.insert(made).path())?
            }
        };
        self.run(data, start, folder)
    }

    /// Refuses what a run cannot begin with.
    fn check(&self, data: &TrainingData) -> Result<(), TrainError> {
        self.config.check()?;
        if data.train.is_empty() {
            return Err(TrainError::NoSamples);
        }
        let devices = self.backbones.len();
        if !self.config.batch.is_multiple_of(devices) {
            return Err(TrainError::Run(format!(
                "batch is {}, expected a multiple of the {devices} devices that share it",
                self.config.batch
            )));
        }
        for backbone in &self.backbones {
            let (expected, found) = (self.backbones[0].shape(), backbone.shape());
            if expected != found {
                return Err(TrainError::Run(format!(
                    "expected one model on all devices, found {expected:?} and {found:?}"
                )));
            }
            backbone.check(SAMPLE, data.train.iter().map(AsRef::as_ref))?;
            backbone.check(HELD_OUT, data.held_out.iter().map(AsRef::as_ref))?;
        }
        Ok(())
    }
}
