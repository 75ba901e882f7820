//! Charts of measurements as SVG.
//!
//! Each function takes plain data and returns the text of an SVG document; the caller writes the
//! file.
//!
//! | to show | use |
//! |---|---|
//! | a score by length and depth, for several methods | [`heat_map()`] |
//! | scores with intervals, by task or length and method | [`bars()`] |
//! | what the time of a prefill is spent on | [`stacked_bars()`] |
//! | seconds over length, measured and predicted | [`lines()`] |
//! | cost against divergence, with the Pareto front | [`scatter_front()`] |
//!
//! Names may hold any characters: they are escaped, and control characters become spaces. Text is
//! set in the viewer's sans-serif font; no font is read to draw it, and its width is estimated.
//! Values that cannot be drawn are refused with the name of their series and their index.

mod axis;
mod bars;
mod error;
mod frame;
mod heat_map;
mod legend;
mod lines;
mod paint;
mod scatter_front;
mod stacked_bars;

pub use axis::{Scale, Unit};
pub use bars::{Bar, BarSeries, Bars, Reference, bars};
pub use error::ChartError;
pub use heat_map::{HeatMap, HeatPanel, heat_map};
pub use lines::{LinePoint, LineSeries, Lines, lines};
pub use paint::MAX_SERIES;
pub use scatter_front::{FrontPoint, ScatterFront, scatter_front};
pub use stacked_bars::{StackedBar, StackedBars, stacked_bars};

#[cfg(test)]
mod tests;
