//! Log-probabilities of generated tokens.

/// A generated token's log-probability, and those of the likeliest tokens in its place.
///
/// They are the model's own: natural logarithms of the softmax over its logits, before temperature,
/// penalties and the like.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The token that was chosen.
    pub token: u32,
    /// Its log-probability.
    pub logprob: f32,
    /// The likeliest tokens, likeliest first, with their log-probabilities.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprobs {
    /// Of `token` and the `top` likeliest, from the logits of the vocabulary. Of equal logits the
    /// lower token goes first.
    pub fn new(logits: &[f32], token: u32, top: usize) -> Self {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exps = logits.iter().map(|&l| f64::from(l - largest).exp());
        let total = exps.sum::<f64>().ln() + f64::from(largest);
        let logprob = |id: u32| {
            let logit = usize::try_from(id).ok().and_then(|id| logits.get(id));
            logit.map_or(f32::NEG_INFINITY, |&l| (f64::from(l) - total) as f32)
        };
        let by_logit = |a: &u32, b: &u32| {
            logits[*b as usize]
                .total_cmp(&logits[*a as usize])
                .then(a.cmp(b))
        };
        let mut ids: Vec<u32> = (0..).take(logits.len()).collect();
        let top = top.min(ids.len());
        if 0 < top && top < ids.len() {
            ids.select_nth_unstable_by(top - 1, by_logit);
        }
        ids.truncate(top);
        ids.sort_unstable_by(by_logit);
        Self {
            token,
            logprob: logprob(token),
            top: ids.into_iter().map(|id| (id, logprob(id))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The natural logarithm of the softmax, in f64.
    fn expected(logits: &[f32], token: usize) -> f64 {
        let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        f64::from(logits[token]) - total.ln()
    }

    #[test]
    fn the_likeliest_come_first_and_of_equals_the_lower() {
        let logits = [0.5, 2.0, -1.0, 2.0, 1.5, f32::NEG_INFINITY];
        let row = TokenLogprobs::new(&logits, 2, 3);
        let ids: Vec<u32> = row.top.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [1, 3, 4]);
        assert!((f64::from(row.logprob) - expected(&logits, 2)).abs() < 1e-6);
        for (id, logprob) in row.top {
            assert!((f64::from(logprob) - expected(&logits, id as usize)).abs() < 1e-6);
        }
        assert_eq!(TokenLogprobs::new(&logits, 5, 0).logprob, f32::NEG_INFINITY);
        assert_eq!(TokenLogprobs::new(&logits, 0, 99).top.len(), 6);
    }

    /// Logits whose exponentials overflow f32.
    #[test]
    fn large_logits_do_not_overflow() {
        let row = TokenLogprobs::new(&[1e4, 1e4 - 1.0], 0, 2);
        assert!((row.logprob - -0.313_261_7).abs() < 1e-5, "{row:?}");
        assert!((row.top[1].1 - -1.313_261_7).abs() < 1e-5, "{row:?}");
    }
}
