//! How far a method moves a model's answers from those of full attention, and statistics of scores.
//!
//! | to | use |
//! |---|---|
//! | keep full attention's own answer to a question, with its distributions | [`ReferenceAnswer`] |
//! | compare a session of any method with it | [`Agreement::measure`] |
//! | the log-probability of an answer that is known to be right | [`answer_logprob`] |
//! | means, proportions and differences with their intervals | [`statistics`] |
//!
//! Samples of benchmarks come from [`tasks`](crate::tasks).

mod agreement;
pub mod statistics;

pub use agreement::{Agreement, AgreementError, ReferenceAnswer, answer_logprob};
