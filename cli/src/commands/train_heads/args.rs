//! Flags of `apb train-heads`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use burn_apb::training::TrainHeadsConfig;

use crate::args::{Compute, DeviceName, DtypeName, Model};

/// Train retaining heads for a model, from questions and answers or from any text
///
/// A line of a JSONL file is {"document", "question", "answer"} or {"messages"}; LongAlign and
/// LongAlpaca are read as published. --synthesize makes samples from a text file: numbers, keys and
/// facts hidden in it, and sentences of its own. The folder OUT.training keeps checkpoints and logs;
/// after a kill, the same command with --resume continues the run.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    pub model: Model,
    /// Samples, JSONL or one JSON array; may be given several times
    #[arg(long, value_name = "FILE", required_unless_present = "synthesize")]
    pub data: Vec<PathBuf>,
    /// Make samples from this text as well; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub synthesize: Vec<PathBuf>,
    /// The safetensors file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    #[command(flatten)]
    pub samples: Samples,
    #[command(flatten)]
    pub recipe: Recipe,
    /// Train these heads of the model further, in place of new ones
    #[arg(long, value_name = "FILE")]
    pub start_from: Option<PathBuf>,
    /// Resume a run that was stopped or killed
    #[arg(long)]
    pub resume: bool,
    /// The run's folder [default: OUT.training]
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Keep features in this folder, for several passes over the samples
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// GiB of features to keep at most
    #[arg(long, value_name = "GIB", default_value_t = 16, requires = "cache")]
    pub cache_limit: u64,
    /// Dtype of the heads in the file
    #[arg(long, value_enum, value_name = "DTYPE", default_value = "bf16")]
    pub heads_dtype: DtypeName,
    /// Heads for any weights of the model's shapes, such as its quantisations, and not for exactly those
    /// they were trained on
    #[arg(long)]
    pub any_weights: bool,
    /// The model's name in the file [default: the name of its folder]
    #[arg(long, value_name = "NAME")]
    pub base_model: Option<String>,
    #[command(flatten)]
    pub compute: Compute,
    /// A further device that shares the samples of a step; may be given several times
    #[arg(long, value_name = "DEVICE")]
    pub also: Vec<DeviceName>,
}

/// How samples are made from the texts.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Samples")]
pub struct Samples {
    /// The most samples of each --data file
    #[arg(long = "samples", value_name = "N", requires = "data")]
    pub per_file: Option<NonZeroUsize>,
    /// Samples to make from each --synthesize text
    #[arg(long, value_name = "N", default_value_t = 512, requires = "synthesize")]
    pub synthesized: usize,
    /// Shortest document to make, in tokens
    #[arg(long, value_name = "N", default_value_t = 500, requires = "synthesize")]
    pub min_tokens: usize,
    /// Longest document to make, in tokens
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1000,
        requires = "synthesize"
    )]
    pub max_tokens: usize,
    /// Longest sample, in tokens [default: the model's context, at most 10240]
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Samples to hold out for validation [default: a tenth, at most 32]
    #[arg(long, value_name = "N")]
    pub held_out: Option<usize>,
    /// Leave the question in front out: heads for documents without a query in the anchor
    #[arg(long)]
    pub no_question_first: bool,
    /// Refuse a --data file with a line that cannot be used, in place of skipping it
    #[arg(long, requires = "data")]
    pub strict: bool,
}

/// How the heads are trained.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Recipe")]
pub struct Recipe {
    /// Width R of a head's hidden layer [default: that of --start-from, or 256]
    #[arg(long, value_name = "R")]
    pub width: Option<usize>,
    /// Steps of the optimiser
    #[arg(long, value_name = "N", default_value_t = TrainHeadsConfig::new().steps)]
    pub steps: usize,
    /// Steps over which the learning rate rises [default: a tenth]
    #[arg(long, value_name = "N")]
    pub warm_up: Option<usize>,
    /// Samples of a step
    #[arg(long, value_name = "N", default_value_t = TrainHeadsConfig::new().batch)]
    pub batch: usize,
    /// The highest learning rate
    #[arg(long, value_name = "RATE", default_value_t = TrainHeadsConfig::new().learning_rate)]
    pub learning_rate: f64,
    /// Samples on which the scale of labels and inputs is measured first; 0 leaves both as they are
    #[arg(long, value_name = "N", default_value_t = TrainHeadsConfig::new().scale_samples)]
    pub scale_samples: usize,
    /// Weight of the smoothing loss
    #[arg(long, value_name = "A", default_value_t = TrainHeadsConfig::new().alpha)]
    pub alpha: f64,
    /// Steps between two validations, each with a checkpoint
    #[arg(long, value_name = "N", default_value_t = TrainHeadsConfig::new().round)]
    pub round: usize,
    /// Stop after this many rounds without a higher recall on held-out samples
    #[arg(long, value_name = "ROUNDS", default_value_t = TrainHeadsConfig::new().patience.unwrap_or(usize::MAX))]
    pub patience: usize,
    /// Share of a sample's rows that recall is measured at
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub keep: f64,
    /// Seed of the weights, the samples and their order
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

impl Recipe {
    /// The library's configuration.
    pub fn config(&self) -> TrainHeadsConfig {
        let config = TrainHeadsConfig::new();
        let width = self.width.unwrap_or(config.width);
        config
            .with_width(width)
            .with_steps(self.steps)
            .with_warm_up(self.warm_up)
            .with_scale_samples(self.scale_samples)
            .with_batch(self.batch)
            .with_learning_rate(self.learning_rate)
            .with_alpha(self.alpha)
            .with_round(self.round)
            .with_patience(Some(self.patience))
            .with_keep(self.keep)
            .with_seed(self.seed)
    }
}

impl Args {
    /// The run's folder.
    pub fn folder(&self) -> PathBuf {
        self.folder.clone().unwrap_or_else(|| {
            let mut name = self.out.clone().into_os_string();
            name.push(".training");
            name.into()
        })
    }
}
