//! A sample as text.

use serde::{Deserialize, Serialize};

/// A document, a question about it, and the answer that a model should give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextSample {
    /// The text that the question is about.
    pub document: String,
    /// The question.
    pub question: String,
    /// The answer.
    pub answer: String,
}
