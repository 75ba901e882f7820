//! Agreement of a method's answers with those of full attention.
//!
//! The measure needs no right answers: full attention answers a question, and every other method is asked, in the
//! place of each of that answer's tokens, for the distribution of the next token. The Kullback-Leibler divergence of
//! the two distributions says how far the method moves the model, on every token of every answer.

use super::statistics::StatisticsError;
use crate::apb::{AskOptions, CancelToken, Session, SessionError};
use crate::text::sampler::{Sampler, SamplerConfig};

/// Why agreement cannot be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgreementError {
    /// The session cannot answer.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Logits of which there is no distribution.
    #[error(
        "the logits in the place of token {position} of the answer hold {found}; the model's weights or the dtype \
         cannot hold this prompt"
    )]
    NotFinite {
        /// The place in the answer.
        position: usize,
        /// What they hold.
        found: f32,
    },
    /// The reference is of another model.
    #[error(
        "the reference is of a vocabulary of {expected} tokens, the session's model has {found}"
    )]
    OtherVocabulary {
        /// Of the reference.
        expected: usize,
        /// Of the session.
        found: usize,
    },
    /// There is nothing to average.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
}

/// An answer, and the distributions that each of its tokens was chosen from.
///
/// It holds `tokens x vocabulary` numbers in f32.
#[derive(Debug, Clone)]
pub struct ReferenceAnswer {
    tokens: Vec<u32>,
    stopped: bool,
    /// Natural logarithms of the probabilities, `[tokens, vocab]`.
    log_probs: Vec<f32>,
}

/// How far a session is from the reference, in the places of its answer's tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// Mean of the Kullback-Leibler divergences of the session's distributions from the reference's, in nats:
    /// `sum p (log p - log q)`, where `p` is the reference's and `q` the session's. 0 where they are the same.
    pub kl: f64,
    /// Share of the places in which both have the same most likely token.
    pub top1: f64,
    /// Mean log-probability of the reference's tokens under the session, in nats.
    pub logprob: f64,
    /// Whether the session would give the same answer: both have the same most likely token in every place.
    pub exact: bool,
}

impl ReferenceAnswer {
    /// Lets a session answer a question, always with the most likely token, and keeps the distributions. One of
    /// `stop_tokens` ends the answer and is a part of it here: that a method ends where the reference does counts,
    /// too.
    ///
    /// # Errors
    ///
    /// [`AgreementError::Session`] as of [`Session::ask`], and [`AgreementError::NotFinite`].
    pub fn new(
        session: &mut Session,
        question: &[u32],
        stop_tokens: &[u32],
        max_tokens: usize,
        cancel: &CancelToken,
    ) -> Result<Self, AgreementError> {
        let mut greedy = Sampler::new(SamplerConfig::default()).map_err(SessionError::from)?;
        let options = AskOptions {
            stop_tokens,
            max_tokens,
            cancel: Some(cancel),
            ..AskOptions::default()
        };
        let proceed = |_| std::ops::ControlFlow::Continue(());
        let completion = session.ask_with(question, &mut greedy, options, proceed)?;
        if cancel.is_cancelled() {
            let (done, total) = (completion.tokens.len(), max_tokens);
            return Err(SessionError::Cancelled { done, total }.into());
        }
        let mut tokens = completion.tokens;
        tokens.extend(completion.stop_token);
        let mut log_probs = Vec::new();
        rows(session, question, &tokens, cancel, |_, row| {
            log_probs.extend(row.iter().map(|&log_prob| log_prob as f32));
        })?;
        Ok(Self {
            tokens,
            stopped: completion.stop_token.is_some(),
            log_probs,
        })
    }

    /// The answer, without the token that ended it.
    pub fn answer(&self) -> &[u32] {
        let end = self.tokens.len() - usize::from(self.stopped);
        &self.tokens[..end]
    }

    /// The answer with the token that ended it: the places in which distributions are compared.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Mean log-probability of the tokens under the model that chose them, in nats.
    pub fn logprob(&self) -> f64 {
        let rows = self.log_probs.chunks_exact(self.vocab().max(1));
        mean(
            self.tokens
                .iter()
                .zip(rows)
                .map(|(&token, row)| row[token as usize].into()),
        )
    }

    fn vocab(&self) -> usize {
        self.log_probs.len() / self.tokens.len().max(1)
    }
}

impl Agreement {
    /// Compares a session with the reference, whose question is `question`: one pass over the question and the
    /// reference's answer.
    ///
    /// # Errors
    ///
    /// [`AgreementError::Session`] as of [`Session::answer_logits`], [`AgreementError::NotFinite`], and
    /// [`AgreementError::OtherVocabulary`].
    pub fn measure(
        session: &mut Session,
        question: &[u32],
        reference: &ReferenceAnswer,
        cancel: &CancelToken,
    ) -> Result<Self, AgreementError> {
        let vocab = reference.vocab();
        let (mut divergences, mut same, mut log_probs) = (0.0, 0usize, 0.0);
        let mut other = None;
        rows(
            session,
            question,
            &reference.tokens,
            cancel,
            |place, row| {
                let expected = &reference.log_probs[place * vocab..][..vocab];
                if row.len() != vocab {
                    other = Some(row.len());
                    return;
                }
                divergences += divergence(expected, row);
                same += usize::from(most_likely(expected) == most_likely(row));
                log_probs += row[reference.tokens[place] as usize];
            },
        )?;
        if let Some(found) = other {
            let expected = vocab;
            return Err(AgreementError::OtherVocabulary { expected, found });
        }
        let places = reference.tokens.len();
        Ok(Self {
            kl: divergences / places as f64,
            top1: same as f64 / places as f64,
            logprob: log_probs / places as f64,
            exact: same == places,
        })
    }
}

/// Mean log-probability of the tokens of an answer, in nats: how likely a session thinks it.
///
/// # Errors
///
/// [`AgreementError::Session`] as of [`Session::answer_logits`], and [`AgreementError::NotFinite`].
pub fn answer_logprob(
    session: &mut Session,
    question: &[u32],
    answer: &[u32],
    cancel: &CancelToken,
) -> Result<f64, AgreementError> {
    let mut sum = 0.0;
    rows(session, question, answer, cancel, |place, row| {
        sum += row[answer[place] as usize];
    })?;
    Ok(sum / answer.len() as f64)
}

/// Calls `on_row` with the natural logarithms of the probabilities in the place of each token of an answer.
fn rows(
    session: &mut Session,
    question: &[u32],
    answer: &[u32],
    cancel: &CancelToken,
    mut on_row: impl FnMut(usize, &[f64]),
) -> Result<(), AgreementError> {
    let mut refused = None;
    let mut row = Vec::new();
    session.answer_logits(
        question,
        answer,
        cancel,
        |position, logits| match log_softmax(logits, &mut row) {
            Ok(()) if refused.is_none() => on_row(position, &row),
            Ok(()) => {}
            Err(found) => {
                refused.get_or_insert(AgreementError::NotFinite { position, found });
            }
        },
    )?;
    match refused {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// The natural logarithm of the softmax of logits, in f64. A logit of minus infinity has the probability 0; what
/// else is not finite is refused.
fn log_softmax(logits: &[f32], row: &mut Vec<f64>) -> Result<(), f32> {
    let wrong = |logit: &&f32| logit.is_nan() || **logit == f32::INFINITY;
    if let Some(found) = logits.iter().find(wrong) {
        return Err(*found);
    }
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        return Err(largest);
    }
    let largest = f64::from(largest);
    let sum: f64 = logits
        .iter()
        .map(|&logit| (f64::from(logit) - largest).exp())
        .sum();
    let total = largest + sum.ln();
    row.clear();
    row.extend(logits.iter().map(|&logit| f64::from(logit) - total));
    Ok(())
}

/// `sum p (log p - log q)`. Rounding may leave it just below 0, where it is 0.
fn divergence(p: &[f32], q: &[f64]) -> f64 {
    let terms = p.iter().zip(q).map(|(&p, &q)| match f64::from(p) {
        f64::NEG_INFINITY => 0.0,
        p => p.exp() * (p - q),
    });
    terms.sum::<f64>().max(0.0)
}

/// The place of the largest; of equals the first.
fn most_likely<T: PartialOrd>(row: &[T]) -> usize {
    let mut best = 0;
    for (place, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = place;
        }
    }
    best
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len();
    values.sum::<f64>() / count.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(logits: &[f32]) -> Vec<f64> {
        let mut row = Vec::new();
        log_softmax(logits, &mut row).unwrap();
        row
    }

    fn single(row: &[f64]) -> Vec<f32> {
        row.iter().map(|&log_prob| log_prob as f32).collect()
    }

    /// p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4): 1/2 ln 2 - 1/4 ln 2.
    #[test]
    fn divergences_are_those_of_hand() {
        let p = [2.0, 1.0, 1.0].map(f32::ln);
        let q = [1.0, 2.0, 1.0].map(f32::ln);
        let (p, q) = (distribution(&p), distribution(&q));
        let found = divergence(&single(&p), &q);
        assert!(
            (found - 0.25 * std::f64::consts::LN_2).abs() < 1e-6,
            "{found}"
        );
        assert!(divergence(&single(&p), &p) < 1e-7);
        // What p leaves out does not count; what q leaves out and p has is infinitely far.
        let none = distribution(&[0.0, 0.0, f32::NEG_INFINITY]);
        assert!((divergence(&single(&none), &p) - 0.5 * (1.0f64.ln() - 0.5f64.ln())).abs() < 1e-6);
        assert_eq!(divergence(&single(&p), &none), f64::INFINITY);
    }

    #[test]
    fn logits_without_a_distribution_are_refused() {
        let mut row = Vec::new();
        assert_eq!(
            log_softmax(&[0.0, f32::INFINITY], &mut row),
            Err(f32::INFINITY)
        );
        assert_eq!(
            log_softmax(&[f32::NEG_INFINITY; 3], &mut row),
            Err(f32::NEG_INFINITY)
        );
        assert!(log_softmax(&[f32::NAN, 0.0], &mut row).is_err_and(f32::is_nan));
        log_softmax(&[1e30, -1e30], &mut row).unwrap();
        assert_eq!(row[0], 0.0);
    }

    #[test]
    fn of_equals_the_first_is_most_likely() {
        assert_eq!(most_likely(&[0.5, 2.0, 2.0, -1.0]), 1);
        assert_eq!(most_likely::<f32>(&[]), 0);
    }
}
