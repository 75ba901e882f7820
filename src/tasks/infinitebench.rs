//! The twelve published files of InfiniteBench ([Zhang et al., 2024](https://arxiv.org/abs/2402.13718)), with
//! the wording and scoring of [OpenBMB/InfiniteBench](https://github.com/OpenBMB/InfiniteBench).
//!
//! A file has one JSON object a line. Of its fields, `context`, `input`, `answer` and `options` are read,
//! and the others are ignored.
//!
//! | task | document | asked for | score |
//! |---|---|---|---|
//! | `passkey` (Retrieve.PassKey) | a repeated text with one line | five digits | 0 or 1 |
//! | `number_string` (Retrieve.Number) | a repeated text with one line | ten digits | 0 or 1 |
//! | `kv_retrieval` (Retrieve.KV) | a JSON object of UUIDs | the value of a key | 0 or 1 |
//! | `longdialogue_qa_eng` (En.Dia) | a script | the name that was masked | 0 or 1 |
//! | `longbook_sum_eng` (En.Sum) | a novel | a summary | ROUGE-Lsum |
//! | `longbook_choice_eng` (En.MC) | a novel | one of four options | 0 or 1 |
//! | `longbook_qa_eng` (En.QA) | a novel | an answer | F1 of words |
//! | `longbook_qa_chn` (Zh.QA) | a Chinese novel | an answer | F1 of characters |
//! | `math_find` (Math.Find) | a list of numbers | one of them, by its size, or the median | 0 or 1 |
//! | `math_calc` (Math.Calc) | a long sum | all intermediate results | the part that is right |
//! | `code_run` (Code.Run) | Python functions | what a call returns | 0 or 1 |
//! | `code_debug` (Code.Debug) | Python code | which of four functions has an error | 0 or 1 |
//!
//! The wording is the one the benchmark has for open models (`yarn_mistral_templates`). Document, separator,
//! question and answer prefix in one text are the published prompt, character by character. White space
//! between the parts belongs to the separator or to the answer prefix. Where a published prompt has no
//! question, its last, open words are the question.
//!
//! Samples with the same context have the same document, so that one prefill serves several questions. The
//! exceptions are `math_find` and `code_run`: their instruction, before the context, says what is asked for.
//!
//! [`TaskSample::tokens`] is 0, because the tokens are unknown until they are counted, and
//! [`TaskSample::depth`] is never given.
//!
//! # Differences from the published benchmark
//!
//! * No prompt is cut. The published program cuts the middle of a prompt that is too long for a model.
//! * An answer that makes the published scoring stop with an error has the score 0, such as `97.5` in
//!   `math_find` where a whole number is expected.
//! * The answer of `kv_retrieval` may be a list of one. The published scoring gives 0 then.
//! * Numbers are read where their digits are ASCII. The published scoring of `math_find` and `code_run`
//!   also reads digits of other scripts, and `code_run` underscores between digits.

pub(super) mod error;
pub(super) mod fields;
mod prompt;
pub(super) mod records;
mod rouge;
mod score;
pub(super) mod white;

use std::fmt;
use std::io::BufRead;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use error::{Place, PublishedError};
pub use score::score;

use super::error::TaskError;
use super::names;
use super::sample::TaskSample;
use records::Records;

/// A task of InfiniteBench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum InfiniteBenchTask {
    /// Five digits in a repeated text.
    #[serde(rename = "passkey")]
    PassKey,
    /// Ten digits in a repeated text.
    #[serde(rename = "number_string")]
    NumberString,
    /// The value of a key in a JSON object.
    #[serde(rename = "kv_retrieval")]
    KvRetrieval,
    /// A masked name in a script.
    #[serde(rename = "longdialogue_qa_eng")]
    LongDialogueQaEng,
    /// The summary of a novel.
    #[serde(rename = "longbook_sum_eng")]
    LongBookSumEng,
    /// A question about a novel with four options.
    #[serde(rename = "longbook_choice_eng")]
    LongBookChoiceEng,
    /// A question about a novel.
    #[serde(rename = "longbook_qa_eng")]
    LongBookQaEng,
    /// A question about a Chinese novel.
    #[serde(rename = "longbook_qa_chn")]
    LongBookQaChn,
    /// A number of a list, by its size.
    #[serde(rename = "math_find")]
    MathFind,
    /// The intermediate results of a long sum.
    #[serde(rename = "math_calc")]
    MathCalc,
    /// What a call of Python functions returns.
    #[serde(rename = "code_run")]
    CodeRun,
    /// The function of Python code that has an error, of four options.
    #[serde(rename = "code_debug")]
    CodeDebug,
}

impl InfiniteBenchTask {
    /// All tasks, in the published order.
    pub const ALL: [Self; 12] = [
        Self::PassKey,
        Self::NumberString,
        Self::KvRetrieval,
        Self::LongDialogueQaEng,
        Self::LongBookSumEng,
        Self::LongBookChoiceEng,
        Self::LongBookQaEng,
        Self::LongBookQaChn,
        Self::MathFind,
        Self::MathCalc,
        Self::CodeRun,
        Self::CodeDebug,
    ];

    /// Its published name, which is also that of its file, without `.jsonl`.
    pub fn name(self) -> &'static str {
        match self {
            Self::PassKey => "passkey",
            Self::NumberString => "number_string",
            Self::KvRetrieval => "kv_retrieval",
            Self::LongDialogueQaEng => "longdialogue_qa_eng",
            Self::LongBookSumEng => "longbook_sum_eng",
            Self::LongBookChoiceEng => "longbook_choice_eng",
            Self::LongBookQaEng => "longbook_qa_eng",
            Self::LongBookQaChn => "longbook_qa_chn",
            Self::MathFind => "math_find",
            Self::MathCalc => "math_calc",
            Self::CodeRun => "code_run",
            Self::CodeDebug => "code_debug",
        }
    }

    /// The most tokens of an answer.
    pub fn tokens_to_generate(self) -> usize {
        match self {
            Self::PassKey => 6,
            Self::NumberString => 12,
            Self::KvRetrieval => 50,
            Self::LongBookSumEng => 1200,
            Self::LongDialogueQaEng
            | Self::LongBookChoiceEng
            | Self::LongBookQaEng
            | Self::LongBookQaChn => 40,
            Self::MathFind => 3,
            Self::MathCalc => 30_000,
            Self::CodeRun | Self::CodeDebug => 5,
        }
    }
}

impl fmt::Display for InfiniteBenchTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for InfiniteBenchTask {
    type Err = TaskError;

    fn from_str(name: &str) -> Result<Self, TaskError> {
        let known = Self::ALL.into_iter().find(|task| task.name() == name);
        known.ok_or_else(|| names::unknown(name, Self::ALL.map(Self::name).into()))
    }
}

/// Reads the samples of a published file, one at a time: one JSON object a line, or one JSON array of
/// objects. A sample may have 64 MiB. Its index is its place in the file, not its `id`.
///
/// The references of [`InfiniteBenchTask::LongBookChoiceEng`] and [`InfiniteBenchTask::CodeDebug`] are the
/// text of the right option and its letter; those of the other tasks are the published answers.
///
/// # Errors
///
/// The last item is an error where a sample is refused; nothing after it is read.
pub fn read<R: BufRead>(
    task: InfiniteBenchTask,
    reader: R,
) -> impl Iterator<Item = Result<TaskSample, PublishedError>> {
    Records::new(reader).samples(move |record| prompt::sample(task, record))
}

#[cfg(test)]
mod tests;
