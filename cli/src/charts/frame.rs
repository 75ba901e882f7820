//! The frame of a chart: its title, axes, grid and legend about the plot.

use plotters::style::text_anchor::{HPos, VPos};

use super::ChartError;
use super::legend::Legend;
use super::paint::{
    Canvas, GRID, INK, LINE, Point, Style, TEXT, TITLE, stroke, widest, width, wrap,
};

/// White space about the chart, in pixels.
pub(super) const MARGIN: i32 = 16;
/// Distance between the plot and the legend, in pixels.
const LEGEND_GAP: i32 = 24;
/// Length of a tick and the distance to its label, in pixels.
const TICK: i32 = 5;
const TICK_GAP: i32 = 4;
/// Room for the title of an axis, in pixels.
pub(super) const AXIS_TITLE: i32 = LINE + 9;

/// A labelled place on an axis.
pub(super) struct Tick {
    /// From 0 (left or bottom) to 1.
    pub(super) at: f64,
    /// The lines of its label.
    pub(super) label: Vec<String>,
}

/// An axis as it is drawn.
pub(super) struct Side {
    pub(super) title: String,
    pub(super) ticks: Vec<Tick>,
    /// Whether a line crosses the plot at each tick.
    pub(super) grid: bool,
}

impl Side {
    /// Groups of the same width, each labelled at its middle.
    pub(super) fn groups(title: &str, labels: Vec<Vec<String>>) -> Self {
        let count = labels.len() as f64;
        let tick = |(i, label)| Tick {
            at: (i as f64 + 0.5) / count,
            label,
        };
        Self {
            title: title.to_owned(),
            ticks: labels.into_iter().enumerate().map(tick).collect(),
            grid: false,
        }
    }

    fn title_room(&self) -> i32 {
        if self.title.is_empty() { 0 } else { AXIS_TITLE }
    }

    fn most_lines(&self) -> i32 {
        let lines = self.ticks.iter().map(|tick| tick.label.len());
        lines.max().unwrap_or(0) as i32
    }

    /// How far labels stand out beyond the end of a horizontal axis of this length, in pixels.
    fn overhang(&self, length: i32) -> i32 {
        let end = |tick: &Tick| {
            let middle = (tick.at * f64::from(length)).round() as i32;
            middle + widest(&tick.label) / 2 - length
        };
        self.ticks.iter().map(end).max().unwrap_or(0).max(0)
    }

    fn widest(&self) -> i32 {
        widest(self.ticks.iter().flat_map(|tick| &tick.label))
    }
}

/// Where values are drawn, in pixels.
#[derive(Clone, Copy)]
pub(super) struct Plot {
    pub(super) left: i32,
    pub(super) top: i32,
    pub(super) width: i32,
    pub(super) height: i32,
}

impl Plot {
    /// The place of a fraction of the horizontal axis.
    pub(super) fn x(&self, fraction: f64) -> i32 {
        self.left + (fraction * f64::from(self.width)).round() as i32
    }

    /// The place of a fraction of the vertical axis.
    pub(super) fn y(&self, fraction: f64) -> i32 {
        self.bottom() - (fraction * f64::from(self.height)).round() as i32
    }

    pub(super) fn right(&self) -> i32 {
        self.left + self.width
    }

    pub(super) fn bottom(&self) -> i32 {
        self.top + self.height
    }
}

/// All of a chart but what is drawn in the plot.
pub(super) struct Frame {
    pub(super) title: String,
    pub(super) x: Side,
    pub(super) y: Side,
    pub(super) legend: Legend,
    /// Width and height of the plot, in pixels.
    pub(super) size: Point,
    /// Room to the right of the plot for what is drawn beyond it, in pixels.
    pub(super) beyond: i32,
}

impl Frame {
    /// The SVG text of the frame and what `paint` draws in the plot.
    pub(super) fn svg(
        &self,
        paint: impl FnOnce(&Canvas, &Plot) -> Result<(), ChartError>,
    ) -> Result<String, ChartError> {
        let (legend_width, legend_height) = self.legend.size();
        let gap = if legend_width == 0 { 0 } else { LEGEND_GAP };
        let left = MARGIN + self.y.title_room() + self.y.widest() + TICK + TICK_GAP;
        let beyond = self.beyond.max(self.x.overhang(self.size.0));
        let full = left + self.size.0 + beyond + gap + legend_width + MARGIN;
        let title = title_lines(&self.title, full - 2 * MARGIN);
        let plot = Plot {
            left,
            top: MARGIN + title_height(&title),
            width: self.size.0,
            height: self.size.1,
        };
        let below = TICK + TICK_GAP + self.x.most_lines() * LINE + self.x.title_room();
        let bottom = (plot.bottom() + below).max(plot.top + legend_height);
        Canvas::svg((full, bottom + MARGIN), |canvas| {
            draw_title(canvas, &title)?;
            self.draw_grid(canvas, &plot)?;
            paint(canvas, &plot)?;
            self.draw_x(canvas, &plot)?;
            self.draw_y(canvas, &plot)?;
            let corner = (plot.right() + beyond + gap, plot.top);
            self.legend.draw(canvas, corner)
        })
    }

    fn draw_grid(&self, canvas: &Canvas, plot: &Plot) -> Result<(), ChartError> {
        for tick in self.x.ticks.iter().filter(|_| self.x.grid) {
            let x = plot.x(tick.at);
            canvas.line(&[(x, plot.top), (x, plot.bottom())], stroke(GRID, 1))?;
        }
        for tick in self.y.ticks.iter().filter(|_| self.y.grid) {
            let y = plot.y(tick.at);
            canvas.line(&[(plot.left, y), (plot.right(), y)], stroke(GRID, 1))?;
        }
        Ok(())
    }

    fn draw_x(&self, canvas: &Canvas, plot: &Plot) -> Result<(), ChartError> {
        let bottom = plot.bottom();
        canvas.line(
            &[(plot.left, bottom), (plot.right(), bottom)],
            stroke(INK, 1),
        )?;
        for tick in &self.x.ticks {
            let x = plot.x(tick.at);
            canvas.line(&[(x, bottom), (x, bottom + TICK)], stroke(INK, 1))?;
            let style = Style::new(HPos::Center, VPos::Top);
            canvas.lines(&tick.label, (x, bottom + TICK + TICK_GAP), style)?;
        }
        let below = bottom + TICK + TICK_GAP + self.x.most_lines() * LINE + AXIS_TITLE / 2;
        let middle = (plot.x(0.5), below);
        canvas.text(
            &self.x.title,
            middle,
            Style::new(HPos::Center, VPos::Center),
        )
    }

    fn draw_y(&self, canvas: &Canvas, plot: &Plot) -> Result<(), ChartError> {
        let left = plot.left;
        canvas.line(&[(left, plot.top), (left, plot.bottom())], stroke(INK, 1))?;
        for tick in &self.y.ticks {
            let y = plot.y(tick.at);
            canvas.line(&[(left - TICK, y), (left, y)], stroke(INK, 1))?;
            let first = y - (tick.label.len() as i32 - 1) * LINE / 2;
            let style = Style::new(HPos::Right, VPos::Center);
            canvas.lines(&tick.label, (left - TICK - TICK_GAP, first), style)?;
        }
        let style = Style::new(HPos::Center, VPos::Center).upwards();
        canvas.text(&self.y.title, (MARGIN + TEXT / 2, plot.y(0.5)), style)
    }
}

/// A title in lines of at most this width in pixels.
pub(super) fn title_lines(title: &str, most: i32) -> Vec<String> {
    let columns = most / width("m", TITLE).max(1);
    match title.trim().is_empty() {
        true => Vec::new(),
        false => wrap(title, columns.unsigned_abs() as usize),
    }
}

/// The height of a title and the space after it, in pixels.
pub(super) fn title_height(title: &[String]) -> i32 {
    match title.len() as i32 {
        0 => 0,
        lines => lines * (TITLE + 4) + 12,
    }
}

/// Draws a title in the upper left corner.
pub(super) fn draw_title(canvas: &Canvas, title: &[String]) -> Result<(), ChartError> {
    let style = Style::new(HPos::Left, VPos::Top).size(TITLE);
    canvas.lines(title, (MARGIN, MARGIN), style)
}
