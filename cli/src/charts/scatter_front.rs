//! Cost against divergence, with the Pareto front.

mod place;

use plotters::style::text_anchor::{HPos, VPos};

use self::place::{Space, place_labels};
use super::ChartError;
use super::axis::{Axis, Scale, Unit};
use super::bars::{Reference, draw_reference};
use super::error::{Allowed, MAX_ITEMS, check_number};
use super::frame::Frame;
use super::legend::{Legend, Sign};
use super::paint::{Canvas, GREY, INK, LINE, Mark, PALETTE, Point, Style, stroke, widest, wrap};

/// Width and height of the plot, in pixels.
const SIZE: Point = (700, 460);
/// The most letters in a line of a label.
const COLUMNS: usize = 22;
/// The mark of the points.
const MARK: Mark = Mark::Circle;

/// Points by cost and divergence; less is better of both.
#[derive(Debug, Clone, Default)]
pub struct ScatterFront {
    /// Title of the chart.
    pub title: String,
    /// Title of the axis of costs.
    pub x_label: String,
    /// Title of the axis of divergences.
    pub y_label: String,
    /// How costs are laid out.
    pub x_scale: Scale,
    /// How divergences are laid out.
    pub y_scale: Scale,
    /// The points. At most 64.
    pub points: Vec<FrontPoint>,
    /// The divergence that should not be exceeded.
    pub threshold: Option<Reference>,
}

/// What a method, or a setting of it, costs and how far its answers diverge.
#[derive(Debug, Clone, Default)]
pub struct FrontPoint {
    /// Name beside the point.
    pub label: String,
    /// Cost in seconds.
    pub seconds: f64,
    /// Divergence from the reference, such as a Kullback-Leibler divergence in nats.
    pub divergence: f64,
}

/// Draws points with labels. Those that no other point beats or equals in both are filled, and
/// joined.
///
/// # Errors
///
/// [`ChartError`] if there are no points or too many, or if a cost, a divergence or the threshold
/// is negative or not finite.
pub fn scatter_front(chart: &ScatterFront) -> Result<String, ChartError> {
    check(chart)?;
    let (x, y) = axes(chart);
    let front = front(&chart.points);
    let frame = Frame {
        title: chart.title.clone(),
        x: x.side(chart.x_label.clone()),
        y: y.side(chart.y_label.clone()),
        legend: legend(chart, front.len()),
        size: SIZE,
        beyond: 0,
    };
    frame.svg(|canvas, plot| {
        let place = |p: &FrontPoint| {
            (
                plot.x(x.fraction(p.seconds)),
                plot.y(y.fraction(p.divergence)),
            )
        };
        let places: Vec<Point> = chart.points.iter().map(place).collect();
        let path: Vec<Point> = front.iter().map(|&i| places[i]).collect();
        canvas.line(&path, stroke(PALETTE[0], 2))?;
        let mut lines = vec![path];
        if let Some(line) = &chart.threshold {
            draw_reference(canvas, plot, &y, line.value)?;
            let height = plot.y(y.fraction(line.value));
            lines.push(vec![(plot.left, height), (plot.right(), height)]);
        }
        let space = Space {
            plot,
            points: &places,
            lines: &lines,
        };
        draw_labels(canvas, &chart.points, &space)?;
        draw_points(canvas, &places, &front)
    })
}

/// The axes of costs and of divergences; the threshold lies on the second.
fn axes(chart: &ScatterFront) -> (Axis, Axis) {
    let seconds: Vec<f64> = chart.points.iter().map(|point| point.seconds).collect();
    let divergences = chart.points.iter().map(|point| point.divergence);
    let divergences: Vec<f64> = divergences
        .chain(chart.threshold.iter().map(|line| line.value))
        .collect();
    let x = Axis::new(&seconds, chart.x_scale, Unit::Seconds);
    let y = Axis::new(&divergences, chart.y_scale, Unit::Number);
    (x, y)
}

fn check(chart: &ScatterFront) -> Result<(), ChartError> {
    check_number("points", chart.points.len(), MAX_ITEMS)?;
    for (index, point) in chart.points.iter().enumerate() {
        Allowed::NotNegative.check(&point.label, index, point.seconds)?;
        Allowed::NotNegative.check(&point.label, index, point.divergence)?;
    }
    match &chart.threshold {
        Some(line) => Allowed::NotNegative.check(&line.name, 0, line.value),
        None => Ok(()),
    }
}

/// The points that no other beats or equals in both cost and divergence, by rising cost. Of equal
/// points, the first.
fn front(points: &[FrontPoint]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    let key = |i: usize| (points[i].seconds, points[i].divergence);
    order.sort_by(|&a, &b| {
        let ((s, d), (t, e)) = (key(a), key(b));
        s.total_cmp(&t).then(d.total_cmp(&e))
    });
    let mut least = f64::INFINITY;
    order.retain(|&i| {
        let better = points[i].divergence < least;
        least = least.min(points[i].divergence);
        better
    });
    order
}

fn legend(chart: &ScatterFront, on_front: usize) -> Legend {
    let mut legend = Legend::default();
    legend.add(Sign::Line(PALETTE[0], MARK), "Pareto front");
    if on_front < chart.points.len() {
        legend.add(Sign::Ring(GREY, MARK), "not on the front");
    }
    if let Some(line) = &chart.threshold {
        legend.add(Sign::Dashed(INK), &line.name);
    }
    legend
}

fn draw_labels(canvas: &Canvas, points: &[FrontPoint], space: &Space) -> Result<(), ChartError> {
    let labels: Vec<Vec<String>> = points
        .iter()
        .map(|point| wrap(&point.label, COLUMNS))
        .collect();
    let sizes: Vec<Point> = labels
        .iter()
        .map(|lines| (widest(lines), lines.len() as i32 * LINE))
        .collect();
    let placed = place_labels(space, &sizes);
    for ((lines, label), &point) in labels.iter().zip(&placed).zip(space.points) {
        if label.far {
            canvas.line(&[point, label.area.nearest(point)], stroke(GREY, 1))?;
        }
        let first = (label.area.left, label.area.top + LINE / 2);
        canvas.lines(lines, first, Style::new(HPos::Left, VPos::Center))?;
    }
    Ok(())
}

fn draw_points(canvas: &Canvas, places: &[Point], front: &[usize]) -> Result<(), ChartError> {
    let (on, off): (Vec<usize>, Vec<usize>) = (0..places.len()).partition(|i| front.contains(i));
    off.iter()
        .try_for_each(|&i| canvas.ring(MARK, places[i], GREY))?;
    on.iter()
        .try_for_each(|&i| canvas.mark(MARK, places[i], PALETTE[0]))
}
