//! Training retaining heads (Locret, <https://arxiv.org/abs/2410.01805>) with Burn's learner, for any
//! model this crate loads.
//!
//! The backbone is frozen: it runs forward only, and heads learn layer by layer from its queries,
//! keys and values. One layer of one sample is held at a time, and nothing of the size of sequence
//! times sequence exists.
//!
//! Texts with questions and answers are your own or come from [`data`]; [`Sample::new`] encodes one, a
//! [`Collector`] whole files. A [`HeadsTrainer`] runs them through a [`Backbone`], which gives each
//! layer's [`LayerFeatures`] and [`Labels`], and trains new heads, or existing ones further, on the
//! [`LayerLoss`] in rounds of validation and checkpoint. Labels of all models and layers are brought to one
//! [scale](crate::apb::heads::LabelScale) first, so that one recipe serves all. [`evaluate`] compares any compressors on the
//! held-out samples, and [`save_heads`] writes the safetensors file.

mod cache;
mod collect;
mod config;
pub mod data;
mod error;
mod evaluate;
mod features;
mod labels;
mod loader;
mod loss;
mod metrics;
mod module;
mod output;
mod progress;
mod quality;
mod round_log;
mod run;
mod run_folder;
mod sample;
mod scale;
mod start;
#[cfg(test)]
mod tests;
mod trainer;

pub use cache::FeatureCache;
pub use collect::{CollectError, Collector};
pub use config::TrainHeadsConfig;
pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate};
pub use features::{Backbone, LayerFeatures};
pub use labels::Labels;
pub use loss::LayerLoss;
pub use output::{HeadsCard, save_heads};
pub use progress::TrainProgress;
pub use quality::Quality;
pub use run_folder::RoundReport;
pub use sample::{Sample, SampleError, TrainingData};
pub use trainer::{HeadsTrainer, TrainedHeads};
