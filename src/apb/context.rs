//! Whether a document, a question and its answer fit the context of a model.

use super::error::AnswerError;
use super::request::AnswerOptions;
use crate::model::DecoderConfig;

impl AnswerOptions {
    /// The tokens that a document, a question and the longest answer need together. It is called
    /// before a document is prefilled and before every question is asked.
    ///
    /// # Errors
    ///
    /// [`AnswerError::TooLong`] when they are more than the model's context, unless
    /// [`allow_long`](Self::allow_long) is set; [`AnswerError::BeyondWindow`] when they are more than
    /// layers of the model attend to.
    pub fn check_context(
        &self,
        model: &DecoderConfig,
        document: usize,
        query: usize,
    ) -> Result<usize, AnswerError> {
        let answer = self.max_tokens;
        let needed = document.saturating_add(query).saturating_add(answer);
        let context = model.context();
        if needed > context && !self.allow_long {
            return Err(AnswerError::TooLong {
                document,
                query,
                answer,
                needed,
                context,
            });
        }
        match model.attention_window {
            Some(window) if needed > window => Err(AnswerError::BeyondWindow {
                document,
                query,
                answer,
                needed,
                window,
            }),
            _ => Ok(needed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Architecture;

    #[test]
    fn document_question_and_answer_count() {
        let model = DecoderConfig::new(Architecture::Llama, 8, 8, 8, 1, 1, 1, 8)
            .with_max_position_embeddings(100);
        let mut options = AnswerOptions {
            max_tokens: 20,
            ..AnswerOptions::default()
        };
        assert_eq!(options.check_context(&model, 70, 10).unwrap(), 100);
        for (document, query) in [(71, 10), (70, 11), (usize::MAX, 1)] {
            let long = options.check_context(&model, document, query);
            assert!(
                matches!(long, Err(AnswerError::TooLong { context: 100, .. })),
                "{long:?}"
            );
        }
        options.max_tokens = 21;
        assert!(options.check_context(&model, 70, 10).is_err());

        options.allow_long = true;
        assert_eq!(options.check_context(&model, 70, 10).unwrap(), 101);
        let windowed = model.with_attention_window(Some(150));
        assert_eq!(options.check_context(&windowed, 119, 10).unwrap(), 150);
        let beyond = options.check_context(&windowed, 120, 10);
        assert!(
            matches!(beyond, Err(AnswerError::BeyondWindow { window: 150, .. })),
            "{beyond:?}"
        );
    }
}
