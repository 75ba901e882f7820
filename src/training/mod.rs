//! Training retaining heads (Locret, <https://arxiv.org/abs/2410.01805>) with Burn's learner, for any
//! model this crate loads.
//!
//! The backbone is frozen: it runs forward only, and heads learn layer by layer from its queries,
//! keys and values. One layer of one sample is held at a time, and nothing of the size of sequence
//! times sequence exists.
//!
//! | file | holds |
//! |---|---|
//! | `data/` | question and answer texts: JSONL, published files, and samples made from any text |
//! | `sample` | [`Sample`]: a text in tokens, the question in front as APB's anchor has it |
//! | `collect` | [`Collector`]: from texts to the samples of a run |
//! | `features` | [`Backbone`]: what a layer shows to its head |
//! | `labels` | [`Labels`]: what the answer's rows pay to each row, in tiles |
//! | `loss` | [`LayerLoss`]: SmoothL1 and smoothing |
//! | `quality` | [`Quality`]: recall and attention mass of a choice |
//! | `config`, `run` | [`TrainHeadsConfig`] and [`train_heads`]: rounds, checkpoints, resumption |
//! | `trainer`, `loader`, `metrics` | the module, the order of samples and the metrics that Burn's learner takes |
//! | `cache` | [`FeatureCache`]: features on disk, for several passes |
//! | `evaluate` | [`evaluate`]: any compressor on held-out samples |
//! | `output` | [`save_heads`]: the safetensors file with its card |

mod cache;
mod collect;
mod config;
pub mod data;
mod evaluate;
mod features;
mod labels;
mod loader;
mod loss;
mod metrics;
mod output;
mod quality;
mod run;
mod sample;
mod silent;
#[cfg(test)]
mod tests;
mod trainer;

pub use cache::FeatureCache;
pub use collect::{CollectError, Collector};
pub use config::TrainHeadsConfig;
pub use evaluate::{Evaluation, evaluate};
pub use features::{Backbone, LayerFeatures, TrainError};
pub use labels::Labels;
pub use loss::LayerLoss;
pub use output::{HeadsCard, save_heads};
pub use quality::{Quality, kept};
pub use run::{RoundReport, Surroundings, Trained, TrainingData, train_heads};
pub use sample::{Sample, SampleError};
