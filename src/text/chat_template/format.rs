//! Python's two ways to format text: `'%s' % value` and `'{}'.format(value)`.
//!
//! minijinja's `formatting` is not used: it pads by bytes, ignores the precision of `%.2d` and `%.2s`,
//! and lacks `%r`, `%u`, `=` and `%`.

mod brace;
mod field;
mod number;
mod percent;

pub(super) use brace::format;
pub(super) use percent::percent;
