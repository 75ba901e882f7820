//! Tokens that may not come, and the only ones that may.

use super::LogitsProcessor;

/// Rules tokens out.
///
/// ```
/// use burn_apb::text::sampler::{BanTokens, Sampler, SamplerConfig};
///
/// let mut sampler = Sampler::new(SamplerConfig::default())?.with_processor(BanTokens::new([1]));
/// assert_eq!(sampler.sample(&mut [0.1, 2.5, -1.0])?, 0);
/// # Ok::<(), burn_apb::text::sampler::SamplerError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BanTokens(Vec<u32>);

impl BanTokens {
    /// Bans `ids`; one beyond the vocabulary changes nothing.
    pub fn new(ids: impl IntoIterator<Item = u32>) -> Self {
        Self(ids.into_iter().collect())
    }
}

impl LogitsProcessor for BanTokens {
    fn process(&mut self, _so_far: &[u32], logits: &mut [f32]) {
        for &id in &self.0 {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

/// Rules out all tokens but some: the base of constrained output.
///
/// A token that ends the answer must be among those allowed, or it goes on to its longest.
///
/// ```
/// use burn_apb::text::sampler::{AllowTokens, Sampler, SamplerConfig};
///
/// // One of two answers, and its end.
/// const ANSWERS: [&[u32]; 2] = [&[4, 7, 0], &[4, 5, 0]];
/// let allowed = AllowTokens::from_fn(|so_far| {
///     let next = |answer: &&[u32]| answer.strip_prefix(so_far)?.first().copied();
///     ANSWERS.iter().filter_map(next).collect()
/// });
/// let mut sampler = Sampler::new(SamplerConfig::default())?.with_processor(allowed);
/// let logits = [0.1, 9.0, 9.0, 9.0, -2.0, 0.5, 9.0, 0.4];
/// let mut answer = Vec::new();
/// while answer.last() != Some(&0) {
///     answer.push(sampler.sample(&mut logits.clone())?);
/// }
/// assert_eq!(answer, [4, 5, 0]);
/// # Ok::<(), burn_apb::text::sampler::SamplerError>(())
/// ```
pub struct AllowTokens(Box<Allowed>);

/// From the tokens of the answer so far to those that may come next.
type Allowed = dyn FnMut(&[u32]) -> Vec<u32> + Send;

impl AllowTokens {
    /// Allows `ids` everywhere.
    pub fn new(ids: impl IntoIterator<Item = u32>) -> Self {
        let ids: Vec<u32> = ids.into_iter().collect();
        Self::from_fn(move |_| ids.clone())
    }

    /// Allows what `allowed` returns for the tokens of the answer so far. Ids beyond the vocabulary
    /// change nothing; where none is left, [`NoTokens`](super::SamplerError::NoTokens) ends the answer.
    pub fn from_fn(allowed: impl FnMut(&[u32]) -> Vec<u32> + Send + 'static) -> Self {
        Self(Box::new(allowed))
    }
}

impl std::fmt::Debug for AllowTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AllowTokens").finish_non_exhaustive()
    }
}

impl LogitsProcessor for AllowTokens {
    fn process(&mut self, so_far: &[u32], logits: &mut [f32]) {
        keep_only(logits, (self.0)(so_far));
    }
}

/// Rules out all tokens but `ids`.
pub(super) fn keep_only(logits: &mut [f32], mut ids: Vec<u32>) {
    ids.sort_unstable();
    ids.dedup();
    let mut start = 0;
    for id in ids.into_iter().map(|id| id as usize) {
        if id >= logits.len() {
            break;
        }
        logits[start..id].fill(f32::NEG_INFINITY);
        start = id + 1;
    }
    logits[start..].fill(f32::NEG_INFINITY);
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: f32 = f32::NEG_INFINITY;

    fn processed(mut processor: impl LogitsProcessor, so_far: &[u32]) -> [f32; 5] {
        let mut logits = [0.0, 1.0, 2.0, 3.0, 4.0];
        processor.process(so_far, &mut logits);
        logits
    }

    #[test]
    fn banned_tokens_are_ruled_out() {
        let banned = BanTokens::new([3, 0, 3, 5, u32::MAX]);
        assert_eq!(processed(banned, &[]), [OUT, 1.0, 2.0, OUT, 4.0]);
        assert_eq!(
            processed(BanTokens::new([]), &[]),
            [0.0, 1.0, 2.0, 3.0, 4.0]
        );
    }

    #[test]
    fn only_allowed_tokens_are_left() {
        for (ids, expected) in [
            (&[3, 1, 3][..], [OUT, 1.0, OUT, 3.0, OUT]),
            (&[4, 0, 1], [0.0, 1.0, OUT, OUT, 4.0]),
            (&[5, u32::MAX, 2], [OUT, OUT, 2.0, OUT, OUT]),
            (&[], [OUT; 5]),
        ] {
            let allowed = AllowTokens::new(ids.iter().copied());
            assert_eq!(processed(allowed, &[]), expected, "{ids:?}");
        }
        let next = AllowTokens::from_fn(|so_far| vec![so_far.len() as u32]);
        assert_eq!(processed(next, &[9, 9]), [OUT, OUT, 2.0, OUT, OUT]);
    }
}
