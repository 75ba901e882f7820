//! Why a plan's compressor cannot be used.

use crate::apb::heads::HeadsError;
use crate::quoted::Quoted;

/// Why a plan's compressor cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompressorError {
    /// The retaining heads cannot be used.
    #[error(transparent)]
    Heads(#[from] HeadsError),
    /// The plan names a custom compressor and does not hold it.
    #[error(
        "the plan's compressor is `{}`, a custom one, which is not stored with a plan; give it \
         with PrefillPlan::set_custom_compressor",
        Quoted(name)
    )]
    NotGiven {
        /// Its name.
        name: String,
    },
    /// The compressor is not the one that the plan names.
    #[error(
        "the plan's compressor is `{}`, found `{}`; give that one, or make a plan with this one",
        Quoted(planned),
        Quoted(found)
    )]
    OtherCompressor {
        /// The name in the plan.
        planned: String,
        /// The name of the compressor.
        found: String,
    },
}
