//! One sample.

use serde::{Deserialize, Serialize};

/// A document, a question about it, and the answer that a model should give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextSample {
    /// What is read before the question.
    pub document: String,
    /// What is asked.
    pub question: String,
    /// What is answered.
    pub answer: String,
}
