//! Stacked bars: what times are made of.

use plotters::style::text_anchor::{HPos, VPos};

use super::ChartError;
use super::axis::{Axis, Scale, Unit};
use super::error::{Allowed, MAX_ITEMS, check_count, check_number};
use super::frame::{Frame, Plot, Side};
use super::legend::{Legend, Sign};
use super::paint::{Canvas, INK, MAX_SERIES, PALETTE, Style, TEXT, ink_on, width, wrap};

/// Width of the plot, in pixels.
const WIDTH: i32 = 640;
/// Height of a bar and of the space between bars, in pixels.
const BAR: i32 = 30;
const BETWEEN: i32 = 16;
/// Space about a number, in pixels.
const AROUND: i32 = 6;
/// The most letters in a line of a bar's name.
const COLUMNS: usize = 24;
/// Times are written with this share of their size as the last digit.
const DIGITS: f64 = 0.01;

/// Times by method and part.
#[derive(Debug, Clone, Default)]
pub struct StackedBars {
    /// Title of the chart.
    pub title: String,
    /// Title of the axis of times.
    pub x_label: String,
    /// Names of the parts, in the order in which they are stacked. At most [`MAX_SERIES`].
    pub parts: Vec<String>,
    /// The bars: methods. At most 64.
    pub bars: Vec<StackedBar>,
}

/// A time and its parts.
#[derive(Debug, Clone, Default)]
pub struct StackedBar {
    /// Name of the bar.
    pub name: String,
    /// Seconds of each part.
    pub seconds: Vec<f64>,
}

/// Draws a horizontal bar for each method, from the top down, made of its parts. The time of a part
/// stands in it where there is room, the sum behind the bar.
///
/// # Errors
///
/// [`ChartError`] if there are no bars or parts or too many, if a bar does not have a time for each
/// part, or if a time is negative or not finite.
pub fn stacked_bars(chart: &StackedBars) -> Result<String, ChartError> {
    check_number("parts", chart.parts.len(), MAX_SERIES)?;
    check_number("bars", chart.bars.len(), MAX_ITEMS)?;
    let sums = checked_sums(chart)?;
    let axis = Axis::new(&sums, Scale::Linear, Unit::Seconds);
    let labels: Vec<Vec<String>> = chart
        .bars
        .iter()
        .map(|bar| wrap(&bar.name, COLUMNS))
        .collect();
    let frame = Frame {
        title: chart.title.clone(),
        x: axis.side(chart.x_label.clone()),
        y: sideways(labels),
        legend: legend(chart),
        size: (WIDTH, chart.bars.len() as i32 * (BAR + BETWEEN) + BETWEEN),
        beyond: sums
            .iter()
            .map(|&sum| width(&time(sum), TEXT))
            .max()
            .unwrap_or(0)
            + AROUND,
    };
    frame.svg(|canvas, plot| {
        for (i, (bar, &sum)) in chart.bars.iter().zip(&sums).enumerate() {
            let top = plot.top + BETWEEN + i as i32 * (BAR + BETWEEN);
            draw_bar(canvas, plot, &axis, top, &bar.seconds)?;
            let end = (plot.x(axis.fraction(sum)) + AROUND, top + BAR / 2);
            canvas.text(&time(sum), end, Style::new(HPos::Left, VPos::Center))?;
        }
        Ok(())
    })
}

/// The sum of each bar.
fn checked_sums(chart: &StackedBars) -> Result<Vec<f64>, ChartError> {
    let sum = |bar: &StackedBar| {
        check_count(&bar.name, chart.parts.len(), bar.seconds.len())?;
        for (index, &seconds) in bar.seconds.iter().enumerate() {
            Allowed::NotNegative.check(&bar.name, index, seconds)?;
        }
        Ok(bar.seconds.iter().sum())
    };
    chart.bars.iter().map(sum).collect()
}

/// The names of bars beside them, the first at the top.
fn sideways(labels: Vec<Vec<String>>) -> Side {
    let height = (labels.len() as i32 * (BAR + BETWEEN) + BETWEEN) as f64;
    let mut side = Side::groups("", labels);
    for (i, tick) in side.ticks.iter_mut().enumerate() {
        let middle = BETWEEN + i as i32 * (BAR + BETWEEN) + BAR / 2;
        tick.at = 1.0 - f64::from(middle) / height;
    }
    side
}

fn legend(chart: &StackedBars) -> Legend {
    let mut legend = Legend::default();
    for (part, color) in chart.parts.iter().zip(PALETTE) {
        legend.add(Sign::Fill(color), part);
    }
    legend
}

fn draw_bar(
    canvas: &Canvas,
    plot: &Plot,
    axis: &Axis,
    top: i32,
    parts: &[f64],
) -> Result<(), ChartError> {
    let mut before = 0.0;
    for (&seconds, color) in parts.iter().zip(PALETTE) {
        let left = plot.x(axis.fraction(before));
        before += seconds;
        let right = plot.x(axis.fraction(before));
        canvas.fill((left, top), (right, top + BAR), color)?;
        canvas.border((left, top), (right, top + BAR), INK)?;
        let label = time(seconds);
        if width(&label, TEXT) + AROUND <= right - left {
            let style = Style::new(HPos::Center, VPos::Center).color(ink_on(color));
            canvas.text(&label, ((left + right) / 2, top + BAR / 2), style)?;
        }
    }
    Ok(())
}

/// A time with three digits or so.
fn time(seconds: f64) -> String {
    Unit::Seconds.write(seconds, seconds * DIGITS)
}
