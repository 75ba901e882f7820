//! The name of the format.

/// What the files call themselves; to be changed with what they hold.
pub(super) const FORMAT: &str = "apb-session-1";
