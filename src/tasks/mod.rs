//! Tasks about long documents: those that measure how well a model answers, and those that retaining heads learn from.
//!
//! | module | holds |
//! |---|---|
//! | [`ruler`] | the 13 tasks of RULER |
//! | [`niah`] | one needle at a given depth of a document of a given length |
//! | [`infinitebench_generated`] | the retrieval and search tasks of InfiniteBench that are generated |
//! | [`infinitebench`] | the published files of InfiniteBench |
//! | [`longbench`] | the published file of LongBench v2 |
//! | `synthesize` | [`Synthesizer`]: samples to train on, from any text |
//!
//! Every sample has a document and a question apart, so that the document can be prefilled before the
//! question is known. A generated sample depends on the text, the configuration and its index alone, not on the
//! samples made before. Its prompt and answer together never have more tokens than asked for.
//!
//! Tokens are counted in two parts, the document and the rest, as they are when the document is
//! prefilled first. The tokens of a chat template are not counted: subtract them from the length.

mod draft;
mod error;
mod haystack;
pub mod infinitebench;
pub mod infinitebench_generated;
pub mod longbench;
mod names;
mod needle;
pub mod niah;
mod random;
pub mod ruler;
mod sample;
mod search;
mod synthesize;
#[cfg(test)]
mod testing;
mod words;

pub use error::TaskError;
pub use haystack::Haystack;
pub use sample::{TaskSample, TextSample};
pub use synthesize::{SynthesisConfig, Synthesizer, TaskKind};

/// Why tokens cannot be counted.
pub type CountError = Box<dyn std::error::Error + Send + Sync>;

/// Counts the tokens of a text, as the model's tokenizer does, without special tokens.
pub type CountTokens<'a> = dyn Fn(&str) -> Result<usize, CountError> + 'a;
