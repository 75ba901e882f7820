//! Logits in the places of an answer that is given: teacher forcing.

use super::cancel::CancelToken;
use super::error::SessionError;
use super::host;
use super::session::Session;

/// Rows whose logits exist at once.
const TILE: usize = 16;

impl Session {
    /// Logits `[vocab]` in the place of each token of `answer`: those that the token would have been chosen
    /// from, had the session answered the question with it. `on_row` is called with the place and the logits,
    /// in order; at most 16 rows of logits exist at once.
    ///
    /// The question and the answer are computed in one pass over what the session holds, and dropped again.
    ///
    /// # Errors
    ///
    /// [`SessionError`] when there is no document, question or answer, a token is beyond the vocabulary, the
    /// session has no room for them, or `cancel` was cancelled.
    pub fn answer_logits(
        &mut self,
        question: &[u32],
        answer: &[u32],
        cancel: &CancelToken,
        mut on_row: impl FnMut(usize, &[f32]),
    ) -> Result<(), SessionError> {
        self.check("question", question)?;
        self.check("answer", answer)?;
        self.rewind();
        // The last token's own row would choose what follows it.
        let given = &answer[..answer.len() - 1];
        let rows = self.extend_until(&[question, given].concat(), cancel);
        self.rewind();
        let rows = rows?;
        let [_, _, hidden] = rows.dims();
        for start in (0..answer.len()).step_by(TILE) {
            let end = (start + TILE).min(answer.len());
            let first = question.len() - 1;
            let tile = rows
                .clone()
                .slice([0..1, first + start..first + end, 0..hidden]);
            let logits = host::values(self.model.logits(tile)?)?;
            self.check_logits(&logits)?;
            let rows = logits.chunks_exact(self.model.vocab_size().max(1));
            for (place, row) in (start..).zip(rows) {
                on_row(place, row);
            }
        }
        Ok(())
    }
}
