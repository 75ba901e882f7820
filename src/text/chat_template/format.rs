//! Python's two ways to format text: `'%s' % value` and `'{}'.format(value)`.
//!
//! minijinja's `formatting` is not used: it pads a text by its bytes, ignores the precision of `%.2d`, and
//! lacks `%r`, `%u`, the alignment `=`, the kind `%`, and integers beyond 128 bits.

mod brace;
mod field;
mod number;
mod percent;

pub(super) use brace::format;
pub(super) use percent::percent;
