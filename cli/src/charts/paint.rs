//! Drawing in pixels: text, lines and marks, and the colours of series.

use plotters::coord::Shift;
use plotters::element::{Circle, DashedPathElement, PathElement, Polygon, Rectangle};
use plotters::prelude::{DrawingArea, IntoDrawingArea, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontTransform, IntoFont, RGBColor, ShapeStyle, WHITE};

use super::ChartError;

/// Height of letters and of a line of text, in pixels.
pub(super) const TEXT: i32 = 13;
pub(super) const LINE: i32 = 17;
/// Height of the letters of a title, in pixels.
pub(super) const TITLE: i32 = 17;
/// Width of a letter as a share of its height: the mean of wide sans-serif fonts, and of
/// ideographs.
const LETTER: f64 = 0.62;
const WIDE_LETTER: f64 = 1.0;
/// The first letter of the scripts whose letters are as wide as high.
const FIRST_WIDE: char = '\u{1100}';
/// plotters divides the sizes of fonts by this.
const FONT_FACTOR: f64 = 1.24;
/// The most lines that a name is broken into; the rest is left out.
const MAX_LINES: usize = 4;
/// Length of a dash and of the gap after it, in pixels.
const DASH: i32 = 7;
const GAP: i32 = 5;

pub(super) const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
pub(super) const GRID: RGBColor = RGBColor(0xDD, 0xDD, 0xDD);
pub(super) const GREY: RGBColor = RGBColor(0x77, 0x77, 0x77);

/// Colours that readers with colour blindness can tell apart (Okabe and Ito, "Color Universal
/// Design", 2008), in an order that puts the ones that are pale on white last.
pub(super) const PALETTE: [RGBColor; MAX_SERIES] = [
    RGBColor(0x00, 0x72, 0xB2),
    RGBColor(0xE6, 0x9F, 0x00),
    RGBColor(0x00, 0x9E, 0x73),
    RGBColor(0xD5, 0x5E, 0x00),
    RGBColor(0xCC, 0x79, 0xA7),
    RGBColor(0x56, 0xB4, 0xE9),
    RGBColor(0x00, 0x00, 0x00),
    RGBColor(0xF0, 0xE4, 0x42),
];

/// The most series in a chart: each has a colour of its own.
pub const MAX_SERIES: usize = 8;

/// A place in pixels, from the upper left corner.
pub(super) type Point = (i32, i32);

/// How text lies about its place.
#[derive(Clone, Copy)]
pub(super) struct Style {
    size: i32,
    color: RGBColor,
    anchor: (HPos, VPos),
    upwards: bool,
}

impl Style {
    pub(super) const fn new(h: HPos, v: VPos) -> Self {
        Self {
            size: TEXT,
            color: INK,
            anchor: (h, v),
            upwards: false,
        }
    }

    pub(super) const fn size(self, size: i32) -> Self {
        Self { size, ..self }
    }

    pub(super) const fn color(self, color: RGBColor) -> Self {
        Self { color, ..self }
    }

    /// Text that is read from the bottom to the top.
    pub(super) const fn upwards(self) -> Self {
        Self {
            upwards: true,
            ..self
        }
    }
}

/// The shape of a mark at a point.
#[derive(Clone, Copy)]
pub(super) enum Mark {
    Circle,
    Square,
    Triangle,
    Diamond,
}

impl Mark {
    /// The mark of a series: it tells series apart without colour.
    pub(super) fn of(series: usize) -> Self {
        [Self::Circle, Self::Square, Self::Triangle, Self::Diamond][series % 4]
    }

    /// Its corners at a distance from the centre; none for a circle.
    fn corners(self, (x, y): Point, r: i32) -> Vec<Point> {
        match self {
            Self::Circle => Vec::new(),
            Self::Square => vec![
                (x - r, y - r),
                (x + r, y - r),
                (x + r, y + r),
                (x - r, y + r),
            ],
            Self::Triangle => vec![(x, y - r - 1), (x + r + 1, y + r), (x - r - 1, y + r)],
            Self::Diamond => {
                let r = r + 1;
                vec![(x, y - r), (x + r, y), (x, y + r), (x - r, y)]
            }
        }
    }
}

/// The area that a chart is drawn on.
pub(super) struct Canvas<'a>(DrawingArea<SVGBackend<'a>, Shift>);

impl Canvas<'_> {
    /// The SVG text of what `paint` draws on white.
    pub(super) fn svg(
        (width, height): Point,
        paint: impl FnOnce(&Canvas) -> Result<(), ChartError>,
    ) -> Result<String, ChartError> {
        let mut text = String::new();
        let size = (width.unsigned_abs(), height.unsigned_abs());
        let canvas = Canvas(SVGBackend::with_string(&mut text, size).into_drawing_area());
        canvas.0.fill(&WHITE)?;
        paint(&canvas)?;
        canvas.0.present()?;
        drop(canvas);
        Ok(text)
    }

    pub(super) fn text(&self, text: &str, at: Point, style: Style) -> Result<(), ChartError> {
        if text.is_empty() {
            return Ok(());
        }
        let transform = match style.upwards {
            true => FontTransform::Rotate270,
            false => FontTransform::None,
        };
        let font = ("sans-serif", f64::from(style.size) * FONT_FACTOR)
            .into_font()
            .transform(transform)
            .color(&style.color)
            .pos(Pos::new(style.anchor.0, style.anchor.1));
        Ok(self.0.draw_text(&printable(text), &font, at)?)
    }

    /// Lines of text, the first at `at`.
    pub(super) fn lines(
        &self,
        lines: &[String],
        (x, y): Point,
        style: Style,
    ) -> Result<(), ChartError> {
        let pitch = LINE.max(style.size + 4);
        for (line, top) in lines
            .iter()
            .zip((y..).step_by(pitch.unsigned_abs() as usize))
        {
            self.text(line, (x, top), style)?;
        }
        Ok(())
    }

    pub(super) fn line(&self, points: &[Point], style: ShapeStyle) -> Result<(), ChartError> {
        Ok(self.0.draw(&PathElement::new(points.to_vec(), style))?)
    }

    pub(super) fn dashed(&self, points: &[Point], style: ShapeStyle) -> Result<(), ChartError> {
        let path = DashedPathElement::new(points.to_vec(), DASH, GAP, style);
        Ok(self.0.draw(&path)?)
    }

    /// A filled rectangle between two corners.
    pub(super) fn fill(&self, a: Point, b: Point, color: RGBColor) -> Result<(), ChartError> {
        Ok(self.0.draw(&Rectangle::new([a, b], color.filled()))?)
    }

    /// The border of a rectangle.
    pub(super) fn border(&self, a: Point, b: Point, color: RGBColor) -> Result<(), ChartError> {
        Ok(self.0.draw(&Rectangle::new([a, b], stroke(color, 1)))?)
    }

    /// A mark of a colour, with a white rim that keeps it apart from lines and other marks.
    pub(super) fn mark(&self, mark: Mark, at: Point, color: RGBColor) -> Result<(), ChartError> {
        self.shape(mark, at, 6, WHITE)?;
        self.shape(mark, at, 5, color)
    }

    /// A mark with a white middle.
    pub(super) fn ring(&self, mark: Mark, at: Point, color: RGBColor) -> Result<(), ChartError> {
        self.mark(mark, at, color)?;
        self.shape(mark, at, 3, WHITE)
    }

    fn shape(&self, mark: Mark, at: Point, r: i32, color: RGBColor) -> Result<(), ChartError> {
        match mark {
            Mark::Circle => self.0.draw(&Circle::new(at, r, color.filled()))?,
            _ => self
                .0
                .draw(&Polygon::new(mark.corners(at, r), color.filled()))?,
        }
        Ok(())
    }
}

/// A line of a colour and a width in pixels.
pub(super) fn stroke(color: RGBColor, width: u32) -> ShapeStyle {
    color.stroke_width(width)
}

/// Dark or white ink, whichever has the higher contrast with a colour (Web Content Accessibility
/// Guidelines 2.1, "contrast ratio" and "relative luminance").
pub(super) fn ink_on(color: RGBColor) -> RGBColor {
    let contrast = |ink: RGBColor| {
        let (a, b) = (luminance(ink) + 0.05, luminance(color) + 0.05);
        a.max(b) / a.min(b)
    };
    if contrast(INK) >= contrast(WHITE) {
        INK
    } else {
        WHITE
    }
}

fn luminance(RGBColor(r, g, b): RGBColor) -> f64 {
    let linear = |part: u8| match f64::from(part) / 255.0 {
        c if c <= 0.03928 => c / 12.92,
        c => ((c + 0.055) / 1.055).powf(2.4),
    };
    0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
}

/// The estimated width of text, in pixels.
pub(super) fn width(text: &str, size: i32) -> i32 {
    let letters: f64 = text.chars().map(letter).sum();
    (letters * f64::from(size)).ceil() as i32
}

/// The estimated width of the widest line, in pixels.
pub(super) fn widest<'a>(lines: impl IntoIterator<Item = &'a String>) -> i32 {
    let widths = lines.into_iter().map(|line| width(line, TEXT));
    widths.max().unwrap_or(0)
}

fn letter(letter: char) -> f64 {
    if letter < FIRST_WIDE {
        LETTER
    } else {
        WIDE_LETTER
    }
}

/// Text without the characters that XML does not allow.
fn printable(text: &str) -> String {
    let allowed = |c: char| !c.is_control() && !matches!(c, '\u{FFFE}' | '\u{FFFF}');
    text.chars()
        .map(|c| if allowed(c) { c } else { ' ' })
        .collect()
}

/// Text in at most [`MAX_LINES`] lines of `columns` letters, broken after spaces and punctuation
/// where there are any.
pub(super) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut rest = printable(text).trim().to_owned();
    let mut lines = Vec::new();
    while let Some(end) = line_end(&rest, columns) {
        let tail = rest.split_off(end);
        lines.push(rest.trim_end().to_owned());
        rest = tail.trim_start().to_owned();
        if lines.len() == MAX_LINES {
            if let Some(last) = lines.last_mut() {
                last.pop();
                last.push('…');
            }
            return lines;
        }
    }
    lines.push(rest);
    lines
}

/// The byte where a line of text ends; none if all of it fits.
fn line_end(text: &str, columns: usize) -> Option<usize> {
    let mut used = 0.0;
    let mut after_break = None;
    for (at, c) in text.char_indices() {
        used += letter(c) / LETTER;
        // One letter a line at least.
        if used > columns.max(2) as f64 && at > 0 {
            return Some(after_break.unwrap_or(at));
        }
        if matches!(c, ' ' | '-' | '_' | '/' | '+' | ',' | ':') {
            after_break = Some(at + c.len_utf8());
        }
    }
    None
}
