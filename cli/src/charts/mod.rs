//! Charts of measurements as SVG.
//!
//! Each function takes plain data and returns the text of an SVG document; the caller writes the
//! file.
//!
//! | to show | use |
//! |---|---|
//! | what the time of a prefill is spent on | [`stacked_bars()`] |
//! | seconds over length, measured and predicted | [`lines()`] |
//!
//! Names may hold any characters: they are escaped, and control characters become spaces. Text is
//! set in the viewer's sans-serif font; no font is read to draw it, and its width is estimated.
//! Values that cannot be drawn are refused with the name of their series and their index.

mod axis;
mod error;
mod frame;
mod legend;
mod lines;
mod paint;
mod stacked_bars;

pub use error::ChartError;
pub use lines::{LinePoint, LineSeries, Lines, lines};
pub use stacked_bars::{StackedBar, StackedBars, stacked_bars};

#[cfg(test)]
mod tests;
