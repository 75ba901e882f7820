//! Times over lengths, measured and predicted.

use plotters::style::RGBColor;

use super::ChartError;
use super::axis::{Axis, Scale, Unit};
use super::error::{Allowed, check_number};
use super::frame::{Frame, Plot};
use super::legend::{Legend, Sign};
use super::paint::{Canvas, INK, MAX_SERIES, Mark, PALETTE, Point, stroke};

/// Width and height of the plot, in pixels.
const SIZE: Point = (660, 420);

/// Times over lengths.
#[derive(Debug, Clone, Default)]
pub struct Lines {
    /// Title of the chart.
    pub title: String,
    /// Title of the axis of lengths.
    pub x_label: String,
    /// Title of the axis of times.
    pub y_label: String,
    /// The series: methods. At most [`MAX_SERIES`].
    pub series: Vec<LineSeries>,
    /// What the legend calls dashed lines.
    pub predicted_name: String,
}

/// Times of a method.
#[derive(Debug, Clone, Default)]
pub struct LineSeries {
    /// Name of the method.
    pub name: String,
    /// Measured times: marks joined by a line.
    pub measured: Vec<LinePoint>,
    /// Predicted times: a dashed line of the same colour.
    pub predicted: Vec<LinePoint>,
}

/// The time at a length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinePoint {
    /// Length in tokens, above 0.
    pub tokens: usize,
    /// Time in seconds, above 0.
    pub seconds: f64,
}

/// Draws times over lengths, both on logarithmic axes. Points are joined in the order of their
/// lengths.
///
/// # Errors
///
/// [`ChartError`] if there are no series or too many, if no series has a point, or if a length or a
/// time is not above 0 or not finite.
pub fn lines(chart: &Lines) -> Result<String, ChartError> {
    check_number("series", chart.series.len(), MAX_SERIES)?;
    let points = checked_points(chart)?;
    let tokens: Vec<usize> = points.iter().map(|point| point.tokens).collect();
    let seconds: Vec<f64> = points.iter().map(|point| point.seconds).collect();
    let x = Axis::tokens(&tokens);
    let y = Axis::new(&seconds, Scale::Log, Unit::Seconds);
    let frame = Frame {
        title: chart.title.clone(),
        x: x.side(chart.x_label.clone()),
        y: y.side(chart.y_label.clone()),
        legend: legend(chart),
        size: SIZE,
        beyond: 0,
    };
    frame.svg(|canvas, plot| {
        for (series, color) in chart.series.iter().zip(PALETTE) {
            let path = places(&series.predicted, plot, (&x, &y));
            canvas.dashed(&path, stroke(color, 2))?;
        }
        for (i, (series, color)) in chart.series.iter().zip(PALETTE).enumerate() {
            let path = places(&series.measured, plot, (&x, &y));
            draw_measured(canvas, &path, color, Mark::of(i))?;
        }
        Ok(())
    })
}

/// The points of all series.
fn checked_points(chart: &Lines) -> Result<Vec<LinePoint>, ChartError> {
    let mut points = Vec::new();
    for series in &chart.series {
        for list in [&series.measured, &series.predicted] {
            for (index, point) in list.iter().enumerate() {
                Allowed::Positive.check(&series.name, index, point.tokens as f64)?;
                Allowed::Positive.check(&series.name, index, point.seconds)?;
            }
            points.extend(list);
        }
    }
    match points.is_empty() {
        true => Err(ChartError::Empty { what: "points" }),
        false => Ok(points),
    }
}

fn legend(chart: &Lines) -> Legend {
    let mut legend = Legend::default();
    for (i, (series, color)) in chart.series.iter().zip(PALETTE).enumerate() {
        legend.add(Sign::Line(color, Mark::of(i)), &series.name);
    }
    if chart
        .series
        .iter()
        .any(|series| !series.predicted.is_empty())
    {
        legend.add(Sign::Dashed(INK), &chart.predicted_name);
    }
    legend
}

/// Where points lie, in the order of their lengths.
fn places(points: &[LinePoint], plot: &Plot, (x, y): (&Axis, &Axis)) -> Vec<Point> {
    let mut points = points.to_vec();
    points.sort_by_key(|point| point.tokens);
    let place = |point: &LinePoint| {
        let across = x.fraction(point.tokens as f64);
        (plot.x(across), plot.y(y.fraction(point.seconds)))
    };
    points.iter().map(place).collect()
}

fn draw_measured(
    canvas: &Canvas,
    path: &[Point],
    color: RGBColor,
    mark: Mark,
) -> Result<(), ChartError> {
    canvas.line(path, stroke(color, 2))?;
    path.iter().try_for_each(|&at| canvas.mark(mark, at, color))
}
