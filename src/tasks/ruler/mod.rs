//! The 13 tasks of RULER ([Hsieh et al., 2024](https://arxiv.org/abs/2404.06654)), with the parameters,
//! the wording and the scoring of [NVIDIA/RULER](https://github.com/NVIDIA/RULER).
//!
//! | task | document | asked for | unit of length |
//! |---|---|---|---|
//! | `niah_single_1` | a repeated text, one needle | a number | a repetition |
//! | `niah_single_2` | the given text, one needle | a number | a word |
//! | `niah_single_3` | the given text, one needle | a UUID | a word |
//! | `niah_multikey_1` | the given text, four needles | one number | a word |
//! | `niah_multikey_2` | needles only | one number | a line |
//! | `niah_multikey_3` | needles only, with UUIDs as keys | one UUID | a line |
//! | `niah_multivalue` | the given text, four values of one key | four numbers | a word |
//! | `niah_multiquery` | the given text, four needles | four numbers | a word |
//! | `vt` | a repeated text, a chain of five assignments | five variables | a repetition |
//! | `cwe` | a numbered list, ten words 30 times, others 3 times | ten words | a word of the list |
//! | `fwe` | invented words, frequencies by a power law (alpha 2.0) | three words | a word |
//! | `qa_1` | paragraphs of SQuAD | an answer | a paragraph |
//! | `qa_2` | paragraphs of HotpotQA | an answer | a paragraph |
//!
//! A prompt is the document, a separator, the question and the beginning of the answer. The instruction
//! is at the head of the document. For `vt` and `cwe`, the worked example comes before it. The prompt
//! uses 99 in 100 of its tokens, or as many as a whole number of units allows.
//!
//! # Differences from the published benchmark
//!
//! Scores are not comparable digit by digit with published ones, for these reasons:
//!
//! * The random numbers are others, so no sample is one of the published program.
//! * The essays of Paul Graham are not included: the caller gives the text. A short text is repeated, as
//!   in the published program.
//! * Keys, and the words of `cwe`, come from lists of this crate: 750 nouns, 725 adjectives and 595
//!   verbs. The published program takes them from the package `wonderwords`. Where `cwe` needs more words
//!   than the lists have, from about 32,000 tokens on, all its words are compounds of two nouns. The
//!   published program changes to a second list there.
//! * Sentences end by the rules of this crate, not by those of NLTK.
//! * Keys and values are drawn again where they exist in the text or among other needles, so that each
//!   question has a single answer. In the needle-only tasks, other lines may share keys with each other,
//!   but not with the key that is asked for. In `cwe`, words that contain one of the ten common ones are
//!   left out, since the scoring finds parts of words.
//! * The number of units is chosen for each sample. The published program chooses it once for a task,
//!   and lowers it where a sample is too long. Extra paragraphs of `qa_1` and `qa_2` are drawn in one
//!   order for all lengths.
//! * The worked example of `vt` draws its positions anew for each sample. The published one has fixed
//!   positions.
//! * Two needles at the same place, or a needle at the start, have no double space beside them.
//! * A prompt that is too short for its task is refused. The published program does not end then.
//! * Document and question are counted apart, the document with two line ends after it. A prompt in one
//!   piece may have one or two tokens fewer.
//!
//! Training makes samples with this needle sentence too, from other random numbers: the two never begin
//! with the same ones, whatever the seeds. Keys come from other lists of words.

mod common_words;
mod frequent_words;
mod needles;
mod questions;
mod score;
mod task;
mod variables;

use serde::{Deserialize, Serialize};

pub use questions::QuestionSet;
pub use score::score;
pub use task::{Needs, RulerTask, Scoring};

use super::CountTokens;
use super::draft::{Draft, Length};
use super::error::TaskError;
use super::haystack::Haystack;
use super::random::Seeds;
use super::sample::TaskSample;
use super::words::WordList;

/// Configuration of [`Ruler`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulerConfig {
    /// The task.
    pub task: RulerTask,
    /// The length in tokens of the prompt and its answer together (`max_seq_length` of RULER).
    pub tokens: usize,
    /// Seed of the samples.
    pub seed: u64,
}

/// What tasks are made from. [`RulerTask::needs`] says what a task needs; the rest is not looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sources<'a> {
    /// The text in which needles are hidden.
    pub text: Option<&'a Haystack>,
    /// The questions of `qa_1`.
    pub squad: Option<&'a QuestionSet>,
    /// The questions of `qa_2`.
    pub hotpotqa: Option<&'a QuestionSet>,
}

/// Makes the samples of a task: the same for the same sources, configuration and index, whichever were
/// made before.
pub struct Ruler<'a> {
    config: RulerConfig,
    sources: Sources<'a>,
    count: &'a CountTokens<'a>,
    seeds: Seeds,
    /// Repetitions of the text in the worked example of `vt`.
    example_noises: usize,
    /// The list of `cwe`.
    list: WordList,
    /// The units of the first sample, at which the search for the others begins.
    units: usize,
}

impl<'a> Ruler<'a> {
    /// Finds how many units a document has. `count` is called with a few documents here, and with one
    /// or a few for each sample.
    ///
    /// # Errors
    ///
    /// [`TaskError::MissingText`], [`TaskError::MissingQuestions`], [`TaskError::TooShort`],
    /// [`TaskError::TooLong`], [`TaskError::NotUnique`] and [`TaskError::Count`].
    pub fn new(
        config: RulerConfig,
        sources: Sources<'a>,
        count: &'a CountTokens<'a>,
    ) -> Result<Self, TaskError> {
        let seeds = Seeds::new(&format!("eval/ruler/{}", config.task), config.seed);
        let mut ruler = Self {
            config,
            sources,
            count,
            seeds,
            example_noises: variables::FEWEST,
            list: WordList::Simple,
            units: 0,
        };
        ruler.check_sources()?;
        if ruler.config.task == RulerTask::Vt {
            ruler.example_noises = ruler.fit_example()?;
        }
        ruler.units = match ruler.fit_first() {
            Err(TaskError::TooLong { .. }) if ruler.config.task == RulerTask::Cwe => {
                ruler.list = WordList::Compound;
                ruler.fit_first()?
            }
            units => units?,
        };
        Ok(ruler)
    }

    /// The configuration.
    pub fn config(&self) -> &RulerConfig {
        &self.config
    }

    /// The number of samples, in a task that asks the questions of a data set. The others have any
    /// number.
    pub fn samples(&self) -> Option<usize> {
        self.questions().map(QuestionSet::len)
    }

    /// Makes a sample, `index` from zero.
    ///
    /// # Errors
    ///
    /// [`TaskError::NoSuchSample`], [`TaskError::TooShort`] where this sample is longer than the first,
    /// and those of [`Self::new`].
    pub fn sample(&self, index: usize) -> Result<TaskSample, TaskError> {
        let length = self.length(self.config.tokens);
        let draft = self.draft(index)?;
        let fitted = draft.fit(&length, Some(self.units))?;
        Ok(draft.sample(index, &length, fitted))
    }

    fn draft(&self, index: usize) -> Result<Draft<'_>, TaskError> {
        let Self { config, seeds, .. } = self;
        Ok(match config.task {
            RulerTask::Vt => variables::draft(*seeds, index, self.example_noises),
            RulerTask::Cwe => common_words::draft(*seeds, index, config.tokens, self.list),
            RulerTask::Fwe => {
                let tokens = config
                    .tokens
                    .saturating_sub(config.task.tokens_to_generate());
                frequent_words::draft(*seeds, index, tokens)
            }
            task => match self.questions() {
                Some(set) => questions::draft(task, set, *seeds, index)?,
                None => needles::draft(task, self.text(), *seeds, index)?,
            },
        })
    }

    /// The text, if the task needs one.
    fn text(&self) -> Option<&'a Haystack> {
        let needed = self.config.task.needs() == Needs::Text;
        self.sources.text.filter(|_| needed)
    }

    /// The questions, if the task needs them.
    fn questions(&self) -> Option<&'a QuestionSet> {
        match self.config.task.needs() {
            Needs::Squad => self.sources.squad,
            Needs::HotpotQa => self.sources.hotpotqa,
            _ => None,
        }
    }

    fn check_sources(&self) -> Result<(), TaskError> {
        let task = self.config.task.name();
        let missing = |dataset| TaskError::MissingQuestions { task, dataset };
        match self.config.task.needs() {
            Needs::Text if self.sources.text.is_none() => Err(TaskError::MissingText { task }),
            Needs::Squad if self.sources.squad.is_none() => Err(missing("SQuAD")),
            Needs::HotpotQa if self.sources.hotpotqa.is_none() => Err(missing("HotpotQA")),
            _ => Ok(()),
        }
    }

    fn length(&self, tokens: usize) -> Length<'_> {
        Length {
            task: self.config.task.name(),
            tokens,
            tokens_to_generate: self.config.task.tokens_to_generate(),
            count: self.count,
        }
    }

    /// The units of the first sample.
    fn fit_first(&self) -> Result<usize, TaskError> {
        let fitted = self.draft(0)?.fit(&self.length(self.config.tokens), None)?;
        Ok(fitted.units)
    }

    /// The repetitions of the text in the worked example of `vt`.
    fn fit_example(&self) -> Result<usize, TaskError> {
        let length = Length {
            tokens_to_generate: 0,
            ..self.length(variables::EXAMPLE_TOKENS)
        };
        match variables::example_draft(self.seeds).fit(&length, None) {
            Err(TaskError::TooShort { .. }) => Ok(variables::FEWEST),
            fitted => Ok(fitted?.units),
        }
    }
}

#[cfg(test)]
mod tests;
