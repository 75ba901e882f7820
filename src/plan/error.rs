//! Why nothing can be predicted.

use super::rates::Hardware;
use crate::quoted::Quoted;

/// Why nothing can be predicted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanningError {
    /// A device that is not known by name.
    #[error(
        "no rates are known of `{}`; did you mean {nearest}? Known are {}, and `measured` for this machine",
        Quoted(name),
        Hardware::KNOWN.join(", ")
    )]
    UnknownHardware {
        /// The name given.
        name: String,
        /// The name most like it.
        nearest: &'static str,
    },
    /// A rate that is no positive number.
    #[error("the rate of {part} is {found}; it must be a positive number")]
    Rate {
        /// What the rate is of.
        part: &'static str,
        /// The rate.
        found: f64,
    },
}
