//! The progress of a long step.

/// One report of a step that takes a while: loading, converting, downloading.
///
/// Passed to a `&mut dyn FnMut(Progress<'_>)`; use `&mut |_| {}` to ignore it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What is worked on: a tensor's or a file's name.
    pub item: &'a str,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all; 0 where that is not known.
    pub total: u64,
}

impl<'a> Progress<'a> {
    /// What is done of `total` for `item`.
    pub fn new(item: &'a str, done: u64, total: u64) -> Self {
        Self { item, done, total }
    }
}
