//! Why no token can be chosen.

/// Why no token can be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplerError {
    /// A value of the configuration is out of range.
    #[error("{name} must be {expected}, not {found}")]
    Config {
        /// Its name.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: f32,
    },
    /// The model or a logits processor gives a logit that is no number to choose by.
    #[error(
        "the logit of token {id} is {logit}: the model's weights or a logits processor are broken"
    )]
    NotFinite {
        /// The token.
        id: usize,
        /// NaN or infinity.
        logit: f32,
    },
    /// There are no logits, or the model and the logits processors rule all tokens out.
    #[error("no token can be chosen: there are no logits, or all are negative infinity")]
    NoTokens,
    /// A token seen has no logit.
    #[error("token {id} was seen, but there are logits for {vocab_size} tokens only")]
    UnknownId {
        /// The token.
        id: u32,
        /// How many logits there are.
        vocab_size: usize,
    },
}

/// A value of the configuration, where it is in its range.
pub(super) fn in_range(
    ok: bool,
    name: &'static str,
    expected: &'static str,
    found: f32,
) -> Result<f32, SamplerError> {
    match ok {
        true => Ok(found),
        false => Err(SamplerError::Config {
            name,
            expected,
            found,
        }),
    }
}
