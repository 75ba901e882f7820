//! A sample of a task, and one to train on.

use serde::{Deserialize, Serialize};

/// A document, a question about it, and what a right answer contains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskSample {
    /// The task, by its published name.
    pub task: String,
    /// The sample, from zero.
    pub index: usize,
    /// The instruction and the long text.
    pub document: String,
    /// What the benchmark puts between document and question: one line end or two.
    pub separator: String,
    /// The question.
    pub question: String,
    /// How the answer begins. It is part of the prompt, and begins with the white space that separates
    /// it from the question in one text without a chat template.
    pub answer_prefix: String,
    /// What a right answer contains: all of it, or one of it, as the scoring of the task says.
    pub references: Vec<String>,
    /// The tokens of the prompt and of the answer: never more than asked for. 0 where they were not counted.
    pub tokens: usize,
    /// The tokens of the answer among them.
    pub tokens_to_generate: usize,
    /// How much of the text lies before the needle, from 0 to 1, in a task with a single one.
    pub depth: Option<f64>,
}

impl TaskSample {
    /// The prompt in one text, as the benchmark gives it to a model without a chat template.
    pub fn prompt(&self) -> String {
        [
            &self.document,
            &self.separator,
            &self.question,
            &self.answer_prefix,
        ]
        .map(String::as_str)
        .concat()
    }
}

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
