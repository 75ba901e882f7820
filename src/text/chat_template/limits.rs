//! What a rendering may take: a template is a program from elsewhere.
//!
//! Steps and bytes are counted while the program runs, before a value is made. Without that, forty
//! times `ns.s = ns.s ~ ns.s` would be a terabyte.

use std::cell::Cell;

use super::fault::{Fault, Result};

/// Longest template, in bytes. Published ones are below 64 KiB.
pub(super) const MAX_SOURCE_BYTES: usize = 128 << 10;
/// Most tokens between one pair of `{%` and `%}`: the parser's trees are that deep.
pub(super) const MAX_TAG_TOKENS: usize = 4096;
/// Steps of a rendering, and more for each message. A message takes a few hundred.
const STEPS: u64 = 400_000;
const STEPS_PER_MESSAGE: u64 = 4_000;
/// Bytes of one value, and of all values made together; more by the size of the input.
const VALUE_BYTES: usize = 2 << 20;
const TOTAL_BYTES: usize = 32 << 20;
/// What an item of a list or dictionary costs.
pub(super) const ITEM_BYTES: usize = 48;
/// Bytes of text that one step reads.
const BYTES_PER_STEP: usize = 64;
/// Bits of an integer. Python prints no integer of more than 4300 digits.
pub(super) const MAX_INTEGER_BITS: u64 = 14_300;
/// Levels of lists within lists. Messages and tool schemas stay far below.
pub(super) const MAX_NESTING: u16 = 100;
/// Macros, recursive loops and blocks that call each other.
pub(super) const MAX_CALLS: usize = 200;
/// Statements and expressions within each other, those of calling macros included.
pub(super) const MAX_DEPTH: usize = 10_000;
/// Stack of the thread that parses and renders, for [`MAX_DEPTH`]. It is reserved, not used.
pub(super) const STACK_BYTES: usize = 256 << 20;

/// What is left.
pub(super) struct Budget {
    steps: Cell<u64>,
    bytes: Cell<usize>,
    value_bytes: usize,
}

impl Budget {
    /// For a number of messages, and the bytes of all that goes in.
    pub(super) fn new(messages: usize, input_bytes: usize) -> Self {
        let steps = STEPS
            .saturating_add(STEPS_PER_MESSAGE.saturating_mul(messages as u64))
            .saturating_add(input_bytes as u64);
        Self {
            steps: Cell::new(steps),
            bytes: Cell::new(TOTAL_BYTES.saturating_add(input_bytes.saturating_mul(64))),
            value_bytes: VALUE_BYTES.saturating_add(input_bytes.saturating_mul(4)),
        }
    }

    /// Counts steps that are about to be taken.
    pub(super) fn steps(&self, count: usize) -> Result<()> {
        match self.steps.get().checked_sub(count as u64) {
            Some(left) => {
                self.steps.set(left);
                Ok(())
            }
            None => Err(Fault::limit("instructions")),
        }
    }

    /// Counts reading through a text.
    pub(super) fn reading(&self, bytes: usize) -> Result<()> {
        self.steps(1 + bytes / BYTES_PER_STEP)
    }

    /// Counts a value that is about to be made.
    pub(super) fn bytes(&self, bytes: usize) -> Result<()> {
        if bytes > self.value_bytes {
            return Err(Fault::limit("the size of a value"));
        }
        match self.bytes.get().checked_sub(bytes) {
            Some(left) => {
                self.bytes.set(left);
                self.steps(bytes / BYTES_PER_STEP)
            }
            None => Err(Fault::limit("memory")),
        }
    }

    /// Counts `times` values of `bytes` each.
    pub(super) fn product(&self, bytes: usize, times: usize) -> Result<()> {
        match bytes.checked_mul(times) {
            Some(bytes) => self.bytes(bytes),
            None => Err(Fault::limit("the size of a value")),
        }
    }

    /// Most bytes of one value.
    pub(super) fn value_bytes(&self) -> usize {
        self.value_bytes
    }
}
