//! Grouped bars with intervals.

use plotters::style::{RGBColor, WHITE};

use super::ChartError;
use super::axis::{Axis, Scale, Unit};
use super::error::{Allowed, MAX_ITEMS, check_count, check_number};
use super::frame::{Frame, Plot, Side};
use super::legend::{Legend, Sign};
use super::paint::{Canvas, INK, MAX_SERIES, PALETTE, stroke, widest, wrap};

/// Height of the plot, in pixels.
const HEIGHT: i32 = 340;
/// Least width of the plot, and the width that all bars together should have, in pixels.
const LEAST_WIDTH: i32 = 320;
const GOOD_WIDTH: i32 = 720;
/// Least and largest width of a bar, in pixels.
const LEAST_BAR: i32 = 9;
const LARGEST_BAR: i32 = 30;
/// Distance between groups and between their labels, in pixels.
const GROUP_GAP: i32 = 20;
const LABEL_GAP: i32 = 14;
/// The most letters in a line of a group's label.
const COLUMNS: usize = 13;

/// Scores by group and series.
#[derive(Debug, Clone, Default)]
pub struct Bars {
    /// Title of the chart.
    pub title: String,
    /// Title of the horizontal axis.
    pub x_label: String,
    /// Title of the vertical axis.
    pub y_label: String,
    /// How values are written.
    pub unit: Unit,
    /// Names of the groups: tasks or lengths. At most 64.
    pub groups: Vec<String>,
    /// The series: methods. At most [`MAX_SERIES`].
    pub series: Vec<BarSeries>,
    /// A line across the chart.
    pub reference: Option<Reference>,
}

/// A bar for each group.
#[derive(Debug, Clone, Default)]
pub struct BarSeries {
    /// Name of the series.
    pub name: String,
    /// A bar for each group; none where there is no measurement.
    pub bars: Vec<Option<Bar>>,
}

/// A bar, in the chart's unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    /// The bar's end; it begins at 0.
    pub value: f64,
    /// Lower and upper end of its interval.
    pub interval: Option<(f64, f64)>,
}

/// A dashed line at a value.
#[derive(Debug, Clone, Default)]
pub struct Reference {
    /// Name in the legend.
    pub name: String,
    /// In the chart's unit.
    pub value: f64,
}

/// Draws grouped bars with error bars, and a reference line if there is one. Negative values go
/// down from 0.
///
/// # Errors
///
/// [`ChartError`] if there are no groups or series or too many, if a series does not have a bar or
/// none for each group, or if a value or an end of an interval is not finite.
pub fn bars(chart: &Bars) -> Result<String, ChartError> {
    check_number("groups", chart.groups.len(), MAX_ITEMS)?;
    check_number("series", chart.series.len(), MAX_SERIES)?;
    let axis = Axis::new(&checked_values(chart)?, Scale::Linear, chart.unit);
    let labels: Vec<Vec<String>> = chart
        .groups
        .iter()
        .map(|name| wrap(name, COLUMNS))
        .collect();
    let layout = Layout::new(&labels, chart.series.len() as i32);
    let frame = Frame {
        title: chart.title.clone(),
        x: Side::groups(&chart.x_label, labels),
        y: axis.side(chart.y_label.clone()),
        legend: legend(chart),
        size: (layout.group * chart.groups.len() as i32, HEIGHT),
        beyond: 0,
    };
    frame.svg(|canvas, plot| {
        for (i, (series, color)) in chart.series.iter().zip(PALETTE).enumerate() {
            for (group, bar) in series.bars.iter().enumerate() {
                let Some(bar) = bar else { continue };
                let left = plot.left + layout.left(group as i32, i as i32);
                draw_bar(canvas, plot, &axis, (left, layout.bar), (bar, color))?;
            }
        }
        draw_zero(canvas, plot, &axis)?;
        match &chart.reference {
            Some(reference) => draw_reference(canvas, plot, &axis, reference.value),
            None => Ok(()),
        }
    })
}

/// All values that the axis must hold.
fn checked_values(chart: &Bars) -> Result<Vec<f64>, ChartError> {
    let mut values = Vec::new();
    for series in &chart.series {
        check_count(&series.name, chart.groups.len(), series.bars.len())?;
        for (index, bar) in series.bars.iter().enumerate() {
            let Some(bar) = bar else { continue };
            let interval = bar.interval.into_iter().flat_map(|(low, high)| [low, high]);
            for value in interval.chain([bar.value]) {
                Allowed::Finite.check(&series.name, index, value)?;
                values.push(value);
            }
        }
    }
    if let Some(reference) = &chart.reference {
        Allowed::Finite.check(&reference.name, 0, reference.value)?;
        values.push(reference.value);
    }
    Ok(values)
}

fn legend(chart: &Bars) -> Legend {
    let mut legend = Legend::default();
    for (series, color) in chart.series.iter().zip(PALETTE) {
        legend.add(Sign::Fill(color), &series.name);
    }
    if let Some(reference) = &chart.reference {
        legend.add(Sign::Dashed(INK), &reference.name);
    }
    legend
}

/// Widths of groups and bars, in pixels.
struct Layout {
    group: i32,
    bar: i32,
    series: i32,
}

impl Layout {
    fn new(labels: &[Vec<String>], series: i32) -> Self {
        let groups = labels.len() as i32;
        let bar = (GOOD_WIDTH / (groups * series)).clamp(LEAST_BAR, LARGEST_BAR);
        let label = widest(labels.iter().flatten()) + LABEL_GAP;
        let group = (series * bar + GROUP_GAP)
            .max(label)
            .max(LEAST_WIDTH / groups);
        Self { group, bar, series }
    }

    /// The left side of a bar, from the left side of the plot.
    fn left(&self, group: i32, series: i32) -> i32 {
        let before = (self.group - self.series * self.bar) / 2;
        group * self.group + before + series * self.bar
    }
}

fn draw_bar(
    canvas: &Canvas,
    plot: &Plot,
    axis: &Axis,
    (left, width): (i32, i32),
    (bar, color): (&Bar, RGBColor),
) -> Result<(), ChartError> {
    let y = |value| plot.y(axis.fraction(value));
    let (top, bottom) = (y(bar.value.max(0.0)), y(bar.value.min(0.0)));
    canvas.fill((left, top), (left + width, bottom), color)?;
    canvas.border((left, top), (left + width, bottom), INK)?;
    let Some((low, high)) = bar.interval else {
        return Ok(());
    };
    let (middle, cap) = (left + width / 2, (width / 3).min(5));
    // The white rim shows it on dark bars.
    for style in [stroke(WHITE, 3), stroke(INK, 1)] {
        canvas.line(&[(middle, y(low)), (middle, y(high))], style)?;
        for end in [y(low), y(high)] {
            canvas.line(&[(middle - cap, end), (middle + cap, end)], style)?;
        }
    }
    Ok(())
}

fn draw_zero(canvas: &Canvas, plot: &Plot, axis: &Axis) -> Result<(), ChartError> {
    let y = plot.y(axis.fraction(0.0));
    canvas.line(&[(plot.left, y), (plot.right(), y)], stroke(INK, 1))
}

/// A dashed line across the plot.
pub(super) fn draw_reference(
    canvas: &Canvas,
    plot: &Plot,
    axis: &Axis,
    value: f64,
) -> Result<(), ChartError> {
    let y = plot.y(axis.fraction(value));
    canvas.dashed(&[(plot.left, y), (plot.right(), y)], stroke(INK, 2))
}
