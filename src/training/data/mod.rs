//! Text to train retaining heads on: documents with questions and their answers.
//!
//! | to | use |
//! |---|---|
//! | read samples from a JSON lines file, or a published set such as LongAlign or LongAlpaca | [`SampleFile`] |
//! | see which lines of a file were skipped, and why | [`DataReport`] |
//! | make samples from any text | [`Synthesizer`](crate::tasks::Synthesizer) |

mod error;
mod formats;
mod jsonl;
mod report;
mod scan;
mod split;

pub use error::DataError;
pub use jsonl::SampleFile;
pub use report::{DataReport, Problem, ProblemKind};
