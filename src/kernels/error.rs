//! What a kernel refuses, and why.

use burn::tensor::DType;
use thiserror::Error;

/// An input that a kernel cannot compute with.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A tensor whose shape does not fit the others.
    #[error("{operation}: {argument} has shape {found:?}, expected {expected}")]
    Shape {
        /// The operation that refused.
        operation: &'static str,
        /// The argument at fault.
        argument: &'static str,
        /// What would fit, in the operation's own words.
        expected: String,
        /// The shape that was passed.
        found: Vec<usize>,
    },
    /// A tensor whose element type does not fit.
    #[error("{operation}: {argument} holds {found:?}, expected {expected}; cast it first")]
    DType {
        /// The operation that refused.
        operation: &'static str,
        /// The argument at fault.
        argument: &'static str,
        /// What would fit.
        expected: &'static str,
        /// The type that was passed.
        found: DType,
    },
    /// Query heads that cannot be shared evenly among the key/value heads.
    #[error("attention: {heads} query heads are not a multiple of {kv_heads} key/value heads")]
    Heads {
        /// Query heads.
        heads: usize,
        /// Key/value heads.
        kv_heads: usize,
    },
    /// Regions longer than the keys or rows they divide.
    #[error(
        "attention: {passing} passing and {anchor} anchor keys with {seq_q} query rows do not fit \
         {seq_kv} keys laid out [passing | anchor | local]; {reason}"
    )]
    Regions {
        /// Passing keys.
        passing: usize,
        /// Anchor keys.
        anchor: usize,
        /// Query rows.
        seq_q: usize,
        /// All keys.
        seq_kv: usize,
        /// Which rule is broken.
        reason: &'static str,
    },
}
