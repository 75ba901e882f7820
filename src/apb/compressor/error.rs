//! Why a plan's compressor cannot be used.

use crate::apb::heads::HeadsError;

/// Why a plan's compressor cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompressorError {
    /// The retaining heads cannot be used.
    #[error(transparent)]
    Heads(#[from] HeadsError),
    /// The plan names a custom compressor and does not hold it.
    #[error(
        "the plan's compressor is `{name}`, a custom one, which is not stored with a plan; give it \
         with PrefillPlan::set_custom_compressor"
    )]
    NotGiven {
        /// Its name.
        name: String,
    },
    /// The compressor is not the one that the plan names.
    #[error(
        "the plan's compressor is `{planned}`, found `{found}`; give that one, or make a plan with \
         this one"
    )]
    OtherCompressor {
        /// The name in the plan.
        planned: String,
        /// The name of the compressor.
        found: String,
    },
}
