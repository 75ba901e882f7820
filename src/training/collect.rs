//! Encoding texts to the samples of a run.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;

use super::data::{DataError, SampleFile};
use super::sample::{Sample, SampleError, TrainingData};
use crate::ModelText;
use crate::quoted::QuotePath;
use crate::tasks::{SynthesisConfig, Synthesizer, TextSample};

/// Problems that are listed; all are counted.
const SHOWN: usize = 20;

/// Why samples cannot be collected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// The texts cannot be read or synthesised.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A text cannot be a sample, in strict mode.
    #[error("{}: line {line}: {source}", path.quoted())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The line, from one.
        line: usize,
        /// The error.
        source: SampleError,
    },
    /// A synthesised text cannot be a sample.
    #[error("sample {index} of the synthesis: {source}; ask for shorter documents")]
    Made {
        /// Its index, from zero.
        index: usize,
        /// The error.
        source: SampleError,
    },
    /// Nothing is left to learn from.
    #[error(
        "{samples} samples of which {held_out} are held out: none is left to learn from{}",
        problems.first().map(|first| format!("; the first that was skipped: {first}"))
            .unwrap_or_default()
    )]
    TooFew {
        /// Collected samples.
        samples: usize,
        /// Samples to hold out.
        held_out: usize,
        /// The problems of skipped texts.
        problems: Vec<String>,
    },
    /// The caller stopped it.
    #[error("stopped")]
    Stopped,
}

/// Collects samples for one model.
#[derive(Debug)]
pub struct Collector<'m> {
    model: &'m ModelText,
    limit: usize,
    question_first: bool,
    strict: bool,
    samples: Vec<Arc<Sample>>,
    made: BTreeMap<&'static str, usize>,
    skipped: usize,
    problems: Vec<String>,
}

impl<'m> Collector<'m> {
    /// Collects samples of at most `limit` tokens for `model`; `question_first`: with the question in
    /// front. `strict`: a text that cannot be used is an error instead of skipped.
    pub fn new(model: &'m ModelText, limit: usize, question_first: bool, strict: bool) -> Self {
        Self {
            model,
            limit,
            question_first,
            strict,
            samples: Vec::new(),
            made: BTreeMap::new(),
            skipped: 0,
            problems: Vec::new(),
        }
    }

    /// Adds at most `most` samples of a file, from its start. `progress` is called with the number of
    /// lines done and of all; `Break` stops.
    ///
    /// # Errors
    ///
    /// [`CollectError`].
    pub fn add_file(
        &mut self,
        path: &std::path::Path,
        most: usize,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<(), CollectError> {
        let file = SampleFile::open(path, self.strict)?;
        let report = file.report();
        self.skipped += report.skipped;
        for problem in &report.problems {
            self.note(format!("{}: {problem}", path.quoted()));
        }
        let before = self.samples.len();
        for index in 0..file.len() {
            if self.samples.len() - before == most {
                break;
            }
            match self.tokens(&file.get(index)?) {
                Ok(sample) => self.samples.push(Arc::new(sample)),
                Err(source) if self.strict => {
                    return Err(CollectError::Refused {
                        path: path.into(),
                        line: file.line(index),
                        source,
                    });
                }
                Err(source) => {
                    self.skipped += 1;
                    let line = file.line(index);
                    self.note(format!("{}: line {line}: {source}", path.quoted()));
                }
            }
            if progress(index + 1, file.len()).is_break() {
                return Err(CollectError::Stopped);
            }
        }
        Ok(())
    }

    /// Adds samples made from a text.
    ///
    /// # Errors
    ///
    /// [`CollectError`]: the text is too short for documents of this length, or a sample made of it is
    /// longer than the limit.
    pub fn add_synthesis(
        &mut self,
        text: &str,
        config: SynthesisConfig,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<(), CollectError> {
        let count = |text: &str| {
            let ids = self.model.tokenizer.encode(text, false)?;
            Ok(ids.len())
        };
        let synthesizer = Synthesizer::new(text, config, &count).map_err(DataError::from)?;
        for index in 0..synthesizer.len() {
            let (text, kind) = synthesizer.sample(index).map_err(DataError::from)?;
            let sample = self
                .tokens(&text)
                .map_err(|source| CollectError::Made { index, source })?;
            self.samples.push(Arc::new(sample));
            *self.made.entry(kind.name()).or_default() += 1;
            if progress(index + 1, synthesizer.len()).is_break() {
                return Err(CollectError::Stopped);
            }
        }
        Ok(())
    }

    /// Samples so far.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Skipped texts.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// The first problems, each with its file and line.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Synthesised samples of each kind.
    pub fn made(&self) -> &BTreeMap<&'static str, usize> {
        &self.made
    }

    /// Shuffles the samples by `seed` and holds out `held_out` of them.
    ///
    /// # Errors
    ///
    /// [`CollectError::TooFew`] when none is left to learn from.
    pub fn finish(mut self, held_out: usize, seed: u64) -> Result<TrainingData, CollectError> {
        if self.samples.len() <= held_out {
            return Err(CollectError::TooFew {
                samples: self.samples.len(),
                held_out,
                problems: self.problems,
            });
        }
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        self.samples.shuffle(&mut random);
        let train = self.samples.split_off(held_out);
        Ok(TrainingData {
            train,
            held_out: self.samples,
        })
    }

    fn tokens(&self, text: &TextSample) -> Result<Sample, SampleError> {
        Sample::new(self.model, text, self.question_first, self.limit)
    }

    fn note(&mut self, problem: String) {
        if self.problems.len() < SHOWN {
            self.problems.push(problem);
        }
    }
}
