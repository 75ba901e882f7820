//! Scores by length and depth, a panel for each method.

use plotters::style::RGBColor;
use plotters::style::text_anchor::{HPos, VPos};

use super::ChartError;
use super::axis::tokens;
use super::error::{Allowed, MAX_ITEMS, check_count, check_number};
use super::frame::{AXIS_TITLE, MARGIN, draw_title, title_height, title_lines};
use super::paint::{
    Canvas, GREY, INK, LINE, Point, Style, TEXT, ink_on, stroke, widest, width, wrap,
};

/// Width of a cell, at least, and its height, in pixels.
const CELL_WIDTH: i32 = 46;
const CELL_HEIGHT: i32 = 32;
/// Space between panels, in pixels.
const GUTTER: i32 = 28;
/// Width up to which panels stand side by side, in pixels.
const ROW_WIDTH: i32 = 1400;
/// Space between a panel and its labels, in pixels.
const LABEL_GAP: i32 = 7;
/// Width and least height of the colour scale, and the number of its steps.
const SCALE_WIDTH: i32 = 18;
const SCALE_HEIGHT: i32 = 160;
const SCALE_STEPS: i32 = 64;
/// The colour of cells without a score.
const NO_SCORE: RGBColor = RGBColor(0xEE, 0xEE, 0xEE);
/// What stands in them.
const NO_SCORE_TEXT: &str = "–";

/// The viridis colours at nine equal steps from 0 to 1 (van der Walt and Smith, matplotlib, 2015).
/// Their lightness rises evenly, for readers with colour blindness too.
const VIRIDIS: [RGBColor; 9] = [
    RGBColor(0x44, 0x01, 0x54),
    RGBColor(0x47, 0x2D, 0x7B),
    RGBColor(0x3B, 0x52, 0x8B),
    RGBColor(0x2C, 0x72, 0x8E),
    RGBColor(0x21, 0x90, 0x8C),
    RGBColor(0x27, 0xAD, 0x81),
    RGBColor(0x5D, 0xC8, 0x63),
    RGBColor(0xAA, 0xDC, 0x32),
    RGBColor(0xFD, 0xE7, 0x25),
];

/// Scores by length, depth and method.
#[derive(Debug, Clone, Default)]
pub struct HeatMap {
    /// Title of the chart.
    pub title: String,
    /// What a score is, beside the colour scale.
    pub score_name: String,
    /// Lengths in tokens, from left to right. At most 64.
    pub lengths: Vec<usize>,
    /// Depths in percent of the length, from the top down. At most 64.
    pub depths: Vec<f64>,
    /// The panels: methods. At most 64.
    pub panels: Vec<HeatPanel>,
}

/// The scores of a method.
#[derive(Debug, Clone, Default)]
pub struct HeatPanel {
    /// Name of the method.
    pub name: String,
    /// A row for each depth, in it a score from 0 to 1 for each length; none where there is no
    /// measurement.
    pub scores: Vec<Vec<Option<f64>>>,
}

/// Draws a panel for each method, side by side, with one colour scale. The score stands in its
/// cell.
///
/// # Errors
///
/// [`ChartError`] if there are no lengths, depths or panels or too many, if a panel does not have a
/// row for each depth and in it a score or none for each length, if a score is not from 0 to 1, or
/// if a depth is not finite.
pub fn heat_map(chart: &HeatMap) -> Result<String, ChartError> {
    check(chart)?;
    let layout = Layout::new(chart);
    Canvas::svg(layout.size, |canvas| {
        draw_title(canvas, &layout.title)?;
        for (i, panel) in chart.panels.iter().enumerate() {
            draw_panel(canvas, chart, panel, &layout, i as i32)?;
        }
        draw_scale(canvas, &chart.score_name, &layout)
    })
}

fn check(chart: &HeatMap) -> Result<(), ChartError> {
    check_number("lengths", chart.lengths.len(), MAX_ITEMS)?;
    check_number("depths", chart.depths.len(), MAX_ITEMS)?;
    check_number("panels", chart.panels.len(), MAX_ITEMS)?;
    for (index, &depth) in chart.depths.iter().enumerate() {
        Allowed::Finite.check("depths", index, depth)?;
    }
    for panel in &chart.panels {
        check_count(&panel.name, chart.depths.len(), panel.scores.len())?;
        for row in &panel.scores {
            check_count(&panel.name, chart.lengths.len(), row.len())?;
        }
        let scores = panel.scores.iter().flatten().enumerate();
        for (index, score) in scores.filter_map(|(index, score)| Some((index, (*score)?))) {
            Allowed::Share.check(&panel.name, index, score)?;
        }
    }
    Ok(())
}

/// Sizes and labels, in pixels.
struct Layout {
    title: Vec<String>,
    lengths: Vec<String>,
    depths: Vec<String>,
    names: Vec<Vec<String>>,
    cell_width: i32,
    /// Width and height of a panel's cells.
    panel: Point,
    /// The cells of the first panel.
    corner: Point,
    /// Distance between panels.
    pitch: Point,
    per_row: i32,
    /// Width and height of the chart.
    size: Point,
}

impl Layout {
    fn new(chart: &HeatMap) -> Self {
        let lengths: Vec<String> = chart.lengths.iter().map(|&count| tokens(count)).collect();
        let depths: Vec<String> = chart.depths.iter().map(|&depth| percent(depth)).collect();
        let cell_width = CELL_WIDTH.max(widest(&lengths) + LABEL_GAP);
        let columns = lengths.len() as i32;
        // A panel is wide enough for a name of some letters.
        let panel_width = (cell_width * columns).max(2 * CELL_WIDTH);
        let panel = (panel_width, CELL_HEIGHT * depths.len() as i32);
        let letters = panel_width / width("m", TEXT);
        let names: Vec<Vec<String>> = chart
            .panels
            .iter()
            .map(|panel| wrap(&panel.name, letters.unsigned_abs() as usize))
            .collect();
        let header = LINE * names.iter().map(Vec::len).max().unwrap_or(0) as i32 + LABEL_GAP;
        let footer = LABEL_GAP + LINE + AXIS_TITLE;
        let left = MARGIN + AXIS_TITLE + widest(&depths) + LABEL_GAP;
        let panels = chart.panels.len() as i32;
        let per_row = (ROW_WIDTH / (panel_width + GUTTER)).clamp(1, panels);
        let pitch = (panel_width + GUTTER, header + panel.1 + footer + LINE);
        let scale = GUTTER + SCALE_WIDTH + width(" 1.00", TEXT) + AXIS_TITLE;
        let right = left + per_row * pitch.0 - GUTTER + scale + MARGIN;
        let title = title_lines(&chart.title, right - 2 * MARGIN);
        let corner = (left, MARGIN + title_height(&title) + header);
        let rows = (panels + per_row - 1) / per_row;
        let cells_bottom = corner.1 + (rows - 1) * pitch.1 + panel.1.max(SCALE_HEIGHT - footer);
        let size = (right, cells_bottom + footer + MARGIN);
        Self {
            title,
            lengths,
            depths,
            names,
            cell_width,
            panel,
            corner,
            pitch,
            per_row,
            size,
        }
    }

    /// The upper left corner of a panel's cells.
    fn corner(&self, panel: i32) -> Point {
        let (row, column) = (panel / self.per_row, panel % self.per_row);
        (
            self.corner.0 + column * self.pitch.0,
            self.corner.1 + row * self.pitch.1,
        )
    }
}

fn draw_panel(
    canvas: &Canvas,
    chart: &HeatMap,
    panel: &HeatPanel,
    layout: &Layout,
    index: i32,
) -> Result<(), ChartError> {
    let (left, top) = layout.corner(index);
    let name = &layout.names[index.unsigned_abs() as usize];
    let above = top - LABEL_GAP - (name.len() as i32 - 1) * LINE;
    canvas.lines(name, (left, above), Style::new(HPos::Left, VPos::Bottom))?;
    for (row, scores) in panel.scores.iter().enumerate() {
        for (column, &score) in scores.iter().enumerate() {
            let x = left + column as i32 * layout.cell_width;
            let cell = (x, top + row as i32 * CELL_HEIGHT);
            draw_cell(canvas, cell, layout.cell_width, score)?;
        }
    }
    draw_lengths(
        canvas,
        layout,
        (left, top + layout.panel.1),
        chart.lengths.len(),
    )?;
    // Panels of a row share their depths.
    if index % layout.per_row == 0 {
        draw_depths(canvas, layout, (left, top))?;
    }
    Ok(())
}

fn draw_cell(
    canvas: &Canvas,
    (x, y): Point,
    cell_width: i32,
    score: Option<f64>,
) -> Result<(), ChartError> {
    let color = score.map_or(NO_SCORE, viridis);
    let end = (x + cell_width - 1, y + CELL_HEIGHT - 1);
    canvas.fill((x, y), end, color)?;
    let (text, ink) = match score {
        Some(score) => (format!("{score:.2}"), ink_on(color)),
        None => (NO_SCORE_TEXT.to_owned(), GREY),
    };
    let middle = (x + cell_width / 2, y + CELL_HEIGHT / 2);
    canvas.text(
        &text,
        middle,
        Style::new(HPos::Center, VPos::Center).color(ink),
    )
}

/// The lengths below a panel.
fn draw_lengths(
    canvas: &Canvas,
    layout: &Layout,
    (left, bottom): Point,
    count: usize,
) -> Result<(), ChartError> {
    let style = Style::new(HPos::Center, VPos::Top);
    for (column, length) in layout.lengths.iter().enumerate() {
        let x = left + column as i32 * layout.cell_width + layout.cell_width / 2;
        canvas.text(length, (x, bottom + LABEL_GAP), style)?;
    }
    let middle = left + count as i32 * layout.cell_width / 2;
    canvas.text("tokens", (middle, bottom + LABEL_GAP + LINE + 4), style)
}

/// The depths to the left of a panel.
fn draw_depths(canvas: &Canvas, layout: &Layout, (left, top): Point) -> Result<(), ChartError> {
    for (row, depth) in layout.depths.iter().enumerate() {
        let y = top + row as i32 * CELL_HEIGHT + CELL_HEIGHT / 2;
        let style = Style::new(HPos::Right, VPos::Center);
        canvas.text(depth, (left - LABEL_GAP, y), style)?;
    }
    let middle = (MARGIN + TEXT / 2, top + layout.panel.1 / 2);
    canvas.text(
        "depth",
        middle,
        Style::new(HPos::Center, VPos::Center).upwards(),
    )
}

/// The colour scale to the right of the panels.
fn draw_scale(canvas: &Canvas, name: &str, layout: &Layout) -> Result<(), ChartError> {
    let left = layout.corner.0 + layout.per_row * layout.pitch.0;
    let (top, height) = (layout.corner.1, layout.panel.1.max(SCALE_HEIGHT));
    let y = |share: f64| top + ((1.0 - share) * f64::from(height)).round() as i32;
    for step in 0..SCALE_STEPS {
        let share = |step: i32| f64::from(step) / f64::from(SCALE_STEPS);
        let color = viridis((f64::from(step) + 0.5) / f64::from(SCALE_STEPS));
        let (low, high) = (y(share(step)), y(share(step + 1)));
        canvas.fill((left, high), (left + SCALE_WIDTH, low), color)?;
    }
    canvas.border((left, top), (left + SCALE_WIDTH, top + height), INK)?;
    for quarter in 0..=4 {
        let score = f64::from(quarter) / 4.0;
        let tick = (left + SCALE_WIDTH, y(score));
        canvas.line(&[tick, (tick.0 + 4, tick.1)], stroke(INK, 1))?;
        let style = Style::new(HPos::Left, VPos::Center);
        canvas.text(&format!("{score:.2}"), (tick.0 + LABEL_GAP, tick.1), style)?;
    }
    let beside = (layout.size.0 - MARGIN - TEXT / 2, y(0.5));
    canvas.text(
        name,
        beside,
        Style::new(HPos::Center, VPos::Center).upwards(),
    )
}

/// The colour of a score, between the two nearest of [`VIRIDIS`].
fn viridis(score: f64) -> RGBColor {
    let place = score.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f64;
    let below = (place as usize).min(VIRIDIS.len() - 2);
    let (RGBColor(r, g, b), RGBColor(s, h, c)) = (VIRIDIS[below], VIRIDIS[below + 1]);
    let part = place - below as f64;
    let mix = |a: u8, b: u8| (f64::from(a) + part * (f64::from(b) - f64::from(a))).round() as u8;
    RGBColor(mix(r, s), mix(g, h), mix(b, c))
}

/// A depth with at most one digit after the point.
fn percent(depth: f64) -> String {
    let text = format!("{depth:.1}");
    format!("{}%", text.strip_suffix(".0").unwrap_or(&text))
}
