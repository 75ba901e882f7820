//! Errors of making the samples of a task.

use super::CountError;
use crate::quoted::Quoted;

/// Why a task or a sample cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// No task has this name.
    #[error("there is no task {:?}; did you mean {nearest}? The tasks are {}", Quoted(name), names.join(", "))]
    UnknownTask {
        /// The name given.
        name: String,
        /// The most similar name.
        nearest: &'static str,
        /// All names.
        names: Vec<&'static str>,
    },
    /// The prompt cannot be so short.
    #[error(
        "{task}: {tokens} tokens are too few for the prompt and its answer; ask for {needed} tokens or more"
    )]
    TooShort {
        /// The task.
        task: &'static str,
        /// The length asked for.
        tokens: usize,
        /// The least length that works, for this sample.
        needed: usize,
    },
    /// The prompt cannot be so long.
    #[error(
        "{task}: no prompt of {tokens} tokens can be made, the longest has {most}; ask for {most} tokens or fewer"
    )]
    TooLong {
        /// The task.
        task: &'static str,
        /// The length asked for.
        tokens: usize,
        /// The length of the longest prompt, with its answer.
        most: usize,
    },
    /// The task hides its needles in a text, and none was given.
    #[error("{task}: the needles are hidden in a text, and none was given; give a text")]
    MissingText {
        /// The task.
        task: &'static str,
    },
    /// The task asks the questions of a data set, which was not given.
    #[error(
        "{task}: the questions of {dataset} are asked, and none were given; give its JSON file"
    )]
    MissingQuestions {
        /// The task.
        task: &'static str,
        /// The data set.
        dataset: &'static str,
    },
    /// The text has no words.
    #[error("the text has no words; give a text of at least a few sentences")]
    EmptyText,
    /// The file is not the expected data set.
    #[error("expected the JSON file of {dataset}: {source}")]
    QuestionFile {
        /// The data set.
        dataset: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The file holds no question with an answer.
    #[error("{dataset}: expected questions with answers, found none; give another file")]
    NoQuestions {
        /// The data set.
        dataset: &'static str,
    },
    /// The depth of the needle is out of range.
    #[error("expected a depth from 0 (start) to 1 (end), found {depth}")]
    Depth {
        /// The depth given.
        depth: f64,
    },
    /// The index of a sample is out of range.
    #[error("{task}: expected the number of a sample below {samples}, found {index}")]
    NoSuchSample {
        /// The task.
        task: &'static str,
        /// The index, from zero.
        index: usize,
        /// How many samples there are.
        samples: usize,
    },
    /// An invalid range of document lengths.
    #[error(
        "expected an ascending range of document lengths from {fewest} tokens on, found {start} to {end}"
    )]
    Lengths {
        /// The least length.
        fewest: usize,
        /// Start of the range.
        start: usize,
        /// Its end.
        end: usize,
    },
    /// The text is shorter than the documents to be made from it.
    #[error(
        "the text has {tokens} tokens, but {needed} are needed for the longest document; give a longer text, or ask for shorter documents"
    )]
    TextTooShort {
        /// How many tokens the text has.
        tokens: usize,
        /// The tokens of the longest document.
        needed: usize,
    },
    /// No document was found in which the question has a single answer.
    #[error(
        "sample {index}: no document of {tokens} tokens could be made that answers a question in one way only; give another text, or ask for longer documents"
    )]
    NotMade {
        /// The sample, from zero.
        index: usize,
        /// The length of its document.
        tokens: usize,
    },
    /// The text contains every key or value that was drawn.
    #[error(
        "{task}: sample {index} has no single answer, because the text contains every key or value drawn for it; give another text"
    )]
    NotUnique {
        /// The task.
        task: &'static str,
        /// The sample, from zero.
        index: usize,
    },
    /// The tokens of a text cannot be counted.
    #[error("cannot count the tokens of a text: {0}")]
    Count(#[source] CountError),
}
