//! Legends: the sign and the name of each series, in a column outside the plot.

use plotters::style::RGBColor;
use plotters::style::text_anchor::{HPos, VPos};

use super::ChartError;
use super::paint::{Canvas, INK, LINE, Mark, Point, Style, stroke, widest, wrap};

/// The most letters of a line.
const COLUMNS: usize = 26;
/// Width of a sign and the gap after it, in pixels.
const SIGN: i32 = 28;
const GAP: i32 = 8;
/// Distance between entries, in pixels.
const BETWEEN: i32 = 5;

/// What stands for a series.
#[derive(Clone, Copy)]
pub(super) enum Sign {
    /// A filled box.
    Fill(RGBColor),
    /// A line with a mark.
    Line(RGBColor, Mark),
    /// A dashed line.
    Dashed(RGBColor),
    /// A mark with a white middle.
    Ring(RGBColor, Mark),
}

struct Entry {
    sign: Sign,
    name: Vec<String>,
}

impl Entry {
    fn height(&self) -> i32 {
        self.name.len() as i32 * LINE + BETWEEN
    }
}

/// A column of entries.
#[derive(Default)]
pub(super) struct Legend(Vec<Entry>);

impl Legend {
    pub(super) fn add(&mut self, sign: Sign, name: &str) {
        let name = wrap(name, COLUMNS);
        self.0.push(Entry { sign, name });
    }

    /// Its width and height, in pixels.
    pub(super) fn size(&self) -> Point {
        let height = self.0.iter().map(Entry::height).sum();
        let width = widest(self.0.iter().flat_map(|entry| &entry.name));
        match self.0.is_empty() {
            true => (0, 0),
            false => (SIGN + GAP + width, height),
        }
    }

    /// Draws it with its upper left corner at a point.
    pub(super) fn draw(&self, canvas: &Canvas, (x, mut y): Point) -> Result<(), ChartError> {
        for entry in &self.0 {
            draw_sign(canvas, entry.sign, (x, y + LINE / 2))?;
            let style = Style::new(HPos::Left, VPos::Center);
            canvas.lines(&entry.name, (x + SIGN + GAP, y + LINE / 2), style)?;
            y += entry.height();
        }
        Ok(())
    }
}

fn draw_sign(canvas: &Canvas, sign: Sign, (x, y): Point) -> Result<(), ChartError> {
    let line = [(x, y), (x + SIGN, y)];
    let middle = (x + SIGN / 2, y);
    match sign {
        Sign::Fill(color) => {
            let (a, b) = ((x + 6, y - 7), (x + SIGN - 6, y + 7));
            canvas.fill(a, b, color)?;
            canvas.border(a, b, INK)
        }
        Sign::Line(color, mark) => {
            canvas.line(&line, stroke(color, 2))?;
            canvas.mark(mark, middle, color)
        }
        Sign::Dashed(color) => canvas.dashed(&line, stroke(color, 2)),
        Sign::Ring(color, mark) => canvas.ring(mark, middle, color),
    }
}
