//! The tasks of InfiniteBench ([Zhang et al., 2024](https://arxiv.org/abs/2402.13718)) whose samples are
//! generated and answered by one short value, with the parameters, wording and scoring of
//! [OpenBMB/InfiniteBench](https://github.com/OpenBMB/InfiniteBench).
//!
//! | task | document | asked for | published size |
//! |---|---|---|---|
//! | `passkey` (Retrieve.PassKey) | a repeated text with one line | five digits | 5220 repetitions |
//! | `number_string` (Retrieve.Number) | a repeated text with one line | ten digits, in equal pairs | 5220 repetitions |
//! | `kv_retrieval` (Retrieve.KV) | a JSON object of UUIDs | the value of a key | 2500 entries |
//! | `math_find` (Math.Find) | a list of numbers from 0 to 99 | one of the three largest or smallest, or the median | 60,000 numbers |
//!
//! The wording is the one the benchmark has for open models (`yarn_mistral_templates`). Its last, open
//! sentence is the beginning of the answer.
//!
//! # Differences from the published benchmark
//!
//! * The random numbers are others, so no sample is one of the published files.
//! * A prompt may have any length, with [`PromptLength::Tokens`].
//! * The order of samples is another one. Published files go through the depths, and through the questions
//!   of `math_find`, from first to last. Here they alternate, so that the first few samples are spread over
//!   all of them.
//! * `passkey` has one length in a configuration. The published file has half of its samples at 64k and
//!   half at 128k tokens.
//! * The key and the value that are asked for in `kv_retrieval` occur once.
//! * No prompt is cut. The published program cuts the middle of a prompt that is too long for a model.

mod key_value;
mod numbers;
mod passkey;
mod score;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use score::score;

use super::CountTokens;
use super::draft::{Draft, Length};
use super::error::TaskError;
use super::names;
use super::random::Seeds;
use super::sample::TaskSample;

/// A generated task of InfiniteBench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum GeneratedTask {
    /// Five digits in a repeated text.
    #[serde(rename = "passkey")]
    PassKey,
    /// Ten digits in a repeated text; each is repeated once.
    #[serde(rename = "number_string")]
    NumberString,
    /// The value of a key in a JSON object.
    #[serde(rename = "kv_retrieval")]
    KvRetrieval,
    /// A number of a list, by its size.
    #[serde(rename = "math_find")]
    MathFind,
}

/// The length of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptLength {
    /// The number of lines, entries or numbers that the benchmark has, with any number of tokens.
    Published,
    /// Tokens of the prompt and its answer together.
    Tokens(usize),
}

/// Configuration of [`Generated`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeneratedConfig {
    /// The task.
    pub task: GeneratedTask,
    /// The length of a prompt.
    pub length: PromptLength,
    /// Seed of the samples.
    pub seed: u64,
}

impl GeneratedTask {
    /// All tasks.
    pub const ALL: [Self; 4] = [
        Self::PassKey,
        Self::NumberString,
        Self::KvRetrieval,
        Self::MathFind,
    ];

    /// Its published name.
    pub fn name(self) -> &'static str {
        match self {
            Self::PassKey => "passkey",
            Self::NumberString => "number_string",
            Self::KvRetrieval => "kv_retrieval",
            Self::MathFind => "math_find",
        }
    }

    /// The most tokens of an answer.
    pub fn tokens_to_generate(self) -> usize {
        match self {
            Self::PassKey => 6,
            Self::NumberString => 12,
            Self::KvRetrieval => 50,
            Self::MathFind => 3,
        }
    }

    /// The number of samples in the benchmark.
    pub fn published_samples(self) -> usize {
        match self {
            Self::PassKey | Self::NumberString => 590,
            Self::KvRetrieval => 500,
            Self::MathFind => 350,
        }
    }

    /// The lines, entries or numbers of a published document.
    fn published_units(self) -> usize {
        match self {
            Self::PassKey | Self::NumberString => 5220,
            Self::KvRetrieval => 2500,
            Self::MathFind => 60_000,
        }
    }
}

impl fmt::Display for GeneratedTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for GeneratedTask {
    type Err = TaskError;

    fn from_str(name: &str) -> Result<Self, TaskError> {
        let known = Self::ALL.into_iter().find(|task| task.name() == name);
        known.ok_or_else(|| names::unknown(name, Self::ALL.map(Self::name).into()))
    }
}

/// Makes the samples of a task: the same for the same configuration and index, whichever were made
/// before.
pub struct Generated<'a> {
    config: GeneratedConfig,
    count: &'a CountTokens<'a>,
    seeds: Seeds,
    /// The units of the first sample, at which the search for the others begins.
    units: usize,
}

impl<'a> Generated<'a> {
    /// Finds how many units a document has. `count` is called with a few documents here, and with one
    /// or a few for each sample.
    ///
    /// # Errors
    ///
    /// [`TaskError::TooShort`] and [`TaskError::Count`].
    pub fn new(config: GeneratedConfig, count: &'a CountTokens<'a>) -> Result<Self, TaskError> {
        let seeds = Seeds::new(&format!("eval/infinitebench/{}", config.task), config.seed);
        let mut generated = Self {
            units: config.task.published_units(),
            config,
            count,
            seeds,
        };
        if let PromptLength::Tokens(tokens) = generated.config.length {
            generated.units = generated.fit_first(tokens)?;
        }
        Ok(generated)
    }

    /// The configuration.
    pub fn config(&self) -> &GeneratedConfig {
        &self.config
    }

    /// Makes a sample, `index` from zero. There is no last one; the benchmark has
    /// [`GeneratedTask::published_samples`].
    ///
    /// # Errors
    ///
    /// Those of [`Self::new`].
    pub fn sample(&self, index: usize) -> Result<TaskSample, TaskError> {
        let draft = self.draft(index);
        let (length, fitted) = match self.config.length {
            PromptLength::Published => {
                let length = self.length(0);
                let fitted = draft.exactly(self.units, &length)?;
                (length, fitted)
            }
            PromptLength::Tokens(tokens) => {
                let length = self.length(tokens);
                let fitted = draft.fit(&length, Some(self.units))?;
                (length, fitted)
            }
        };
        Ok(draft.sample(index, &length, fitted))
    }

    fn draft(&self, index: usize) -> Draft<'static> {
        match self.config.task {
            GeneratedTask::PassKey => passkey::passkey(self.seeds, index),
            GeneratedTask::NumberString => passkey::number_string(self.seeds, index),
            GeneratedTask::KvRetrieval => key_value::draft(self.seeds, index),
            GeneratedTask::MathFind => numbers::draft(self.seeds, index),
        }
    }

    fn length(&self, tokens: usize) -> Length<'a> {
        Length {
            task: self.config.task.name(),
            tokens,
            tokens_to_generate: self.config.task.tokens_to_generate(),
            count: self.count,
        }
    }

    /// The units of the first sample.
    fn fit_first(&self, tokens: usize) -> Result<usize, TaskError> {
        Ok(self.draft(0).fit(&self.length(tokens), None)?.units)
    }
}

#[cfg(test)]
mod tests;
