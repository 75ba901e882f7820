//! The interface of a logits processor.

/// Changes the logits that the next token is chosen from: penalties, bans, constrained output.
///
/// A [`Sampler`](super::Sampler) calls its processors before every choice. A closure of the answer so
/// far and the logits is a processor too.
///
/// ```
/// use burn_apb::text::sampler::{LogitsProcessor, Sampler, SamplerConfig};
///
/// /// Never the same token twice in a row.
/// struct NoDoubles;
///
/// impl LogitsProcessor for NoDoubles {
///     fn process(&mut self, so_far: &[u32], logits: &mut [f32]) {
///         if let Some(&last) = so_far.last() {
///             logits[last as usize] = f32::NEG_INFINITY;
///         }
///     }
/// }
///
/// const END: usize = 2;
/// // No end before three tokens.
/// let at_least_three = |so_far: &[u32], logits: &mut [f32]| {
///     if so_far.len() < 3 {
///         logits[END] = f32::NEG_INFINITY;
///     }
/// };
/// let mut sampler = Sampler::new(SamplerConfig::default())?
///     .with_processor(NoDoubles)
///     .with_processor(at_least_three);
/// let mut answer = Vec::new();
/// for _ in 0..4 {
///     answer.push(sampler.sample(&mut [0.5, 1.0, 3.0])?);
/// }
/// assert_eq!(answer, [1, 0, 1, 2]);
/// # Ok::<(), burn_apb::text::sampler::SamplerError>(())
/// ```
pub trait LogitsProcessor: Send {
    /// Takes tokens that stand before the answer: those of the document, the question and earlier
    /// answers, in any number of calls. Does nothing by default.
    fn observe(&mut self, _prompt: &[u32]) {}

    /// Changes the logits of the next token.
    ///
    /// `so_far` are the tokens of the answer so far, none at its start and one more with every call;
    /// those before the answer go to [`observe`](Self::observe). `logits` has one for each token of the
    /// vocabulary, as the model and the processors before this one leave them: numbers or negative
    /// infinity, which rules a token out.
    fn process(&mut self, so_far: &[u32], logits: &mut [f32]);
}

impl<F: FnMut(&[u32], &mut [f32]) + Send> LogitsProcessor for F {
    fn process(&mut self, so_far: &[u32], logits: &mut [f32]) {
        self(so_far, logits);
    }
}
