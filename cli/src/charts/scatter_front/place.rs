//! Places for the labels of points, so that they overlap neither each other nor the points.
//!
//! Labels are placed one after the other. Each takes, of the places about its point, the one that
//! costs least: the cost counts what the label would cover and how far it is from its point (after
//! Christensen, Marks and Shieber, "An empirical study of algorithms for point-feature label
//! placement", ACM Transactions on Graphics 14, 1995).

use super::super::frame::Plot;
use super::super::paint::Point;

/// Distances of a label from its point that are tried, in pixels.
const DISTANCES: [i32; 7] = [9, 22, 38, 56, 78, 104, 134];
/// Directions that are tried, the first ones preferred.
const DIRECTIONS: [Point; 8] = [
    (1, 0),
    (1, -1),
    (1, 1),
    (0, -1),
    (0, 1),
    (-1, -1),
    (-1, 1),
    (-1, 0),
];
/// Half the size of a point's mark and the space about it, in pixels.
const POINT: i32 = 7;
/// Space between labels, in pixels.
const AROUND: i32 = 2;
/// Distance between the places on lines that labels avoid, in pixels.
const LINE_STEP: i32 = 8;
/// Costs: of a label or a point that is covered; of a place on a line that is covered, or of a
/// label that the line to the point crosses; of each distance further away; of each direction less
/// preferred.
const COVERED: i32 = 1000;
const CROSSED: i32 = 40;
const FURTHER: i32 = 30;
const LATER: i32 = 1;

/// A rectangle in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) left: i32,
    pub(super) top: i32,
    right: i32,
    bottom: i32,
}

impl Area {
    fn about((x, y): Point, r: i32) -> Self {
        Self {
            left: x - r,
            top: y - r,
            right: x + r,
            bottom: y + r,
        }
    }

    fn overlaps(&self, other: &Self, gap: i32) -> bool {
        self.left < other.right + gap
            && other.left < self.right + gap
            && self.top < other.bottom + gap
            && other.top < self.bottom + gap
    }

    /// The point of it that is nearest to another.
    pub(super) fn nearest(&self, (x, y): Point) -> Point {
        (
            x.clamp(self.left, self.right),
            y.clamp(self.top, self.bottom),
        )
    }
}

/// What labels are placed about.
pub(super) struct Space<'a> {
    pub(super) plot: &'a Plot,
    pub(super) points: &'a [Point],
    /// The corners of each line: the front and the threshold.
    pub(super) lines: &'a [Vec<Point>],
}

/// Where a label stands.
pub(super) struct Placed {
    pub(super) area: Area,
    /// Whether it is so far from its point that a line must join them.
    pub(super) far: bool,
}

impl Placed {
    /// Places along the line to its point, if there is one.
    fn leader(&self, point: Point) -> Vec<Point> {
        match self.far {
            true => along(&[point, self.area.nearest(point)]),
            false => Vec::new(),
        }
    }
}

/// A place for the label of each point, given the labels' widths and heights in pixels.
pub(super) fn place_labels(space: &Space, sizes: &[Point]) -> Vec<Placed> {
    let mut on_lines: Vec<Point> = space.lines.iter().flat_map(|line| along(line)).collect();
    let mut placed: Vec<Placed> = Vec::new();
    for (&point, &size) in space.points.iter().zip(sizes) {
        let cost = |&(rank, area): &(i32, Area)| {
            let label = Placed {
                area,
                far: rank >= FURTHER,
            };
            rank + covered(space, &placed, &on_lines, point, &label)
        };
        let best = candidates(space.plot, point, size)
            .into_iter()
            .min_by_key(cost);
        let (rank, area) = best.unwrap_or((0, Area::about(point, 0)));
        let label = Placed {
            area,
            far: rank >= FURTHER,
        };
        on_lines.extend(label.leader(point));
        placed.push(label);
    }
    placed
}

/// What a label, and the line from it to its point, cost by what they cover.
fn covered(
    space: &Space,
    placed: &[Placed],
    on_lines: &[Point],
    point: Point,
    label: &Placed,
) -> i32 {
    let covers = |other: &Area, gap: i32| label.area.overlaps(other, gap);
    let labels = placed
        .iter()
        .filter(|other| covers(&other.area, AROUND))
        .count();
    let marks = space
        .points
        .iter()
        .filter(|&&p| covers(&Area::about(p, POINT), 0))
        .count();
    let crossed = on_lines
        .iter()
        .filter(|&&p| covers(&Area::about(p, 1), 0))
        .count();
    let leader = label.leader(point);
    let under = |area: &Area| leader.iter().any(|&p| Area::about(p, 1).overlaps(area, 0));
    let under = placed.iter().filter(|other| under(&other.area)).count();
    (labels + marks) as i32 * COVERED + (crossed + 2 * under) as i32 * CROSSED
}

/// The places about a point, each with what its distance and direction cost.
fn candidates(plot: &Plot, point: Point, size: Point) -> Vec<(i32, Area)> {
    let mut found = Vec::new();
    for (further, &distance) in DISTANCES.iter().enumerate() {
        for (later, &direction) in DIRECTIONS.iter().enumerate() {
            let rank = further as i32 * FURTHER + later as i32 * LATER;
            let area = within(plot, beside(point, size, direction, distance));
            found.push((rank, area));
        }
    }
    found
}

/// The place of a label at a distance from a point.
fn beside((x, y): Point, (width, height): Point, (dx, dy): Point, distance: i32) -> Area {
    let along = |at: i32, size: i32, step: i32| match step {
        1 => at + distance,
        -1 => at - distance - size,
        _ => at - size / 2,
    };
    // A label to the upper right stands a little above, not a full distance.
    let (left, top) = match (dx, dy) {
        (0, _) | (_, 0) => (along(x, width, dx), along(y, height, dy)),
        _ => (along(x, width, dx), y + dy * distance - height / 2),
    };
    Area {
        left,
        top,
        right: left + width,
        bottom: top + height,
    }
}

/// An area moved into the plot, if it fits.
fn within(plot: &Plot, area: Area) -> Area {
    let shift = |low: i32, high: i32, least: i32, most: i32| {
        if low < least {
            least - low
        } else {
            (most - high).min(0)
        }
    };
    let dx = shift(area.left, area.right, plot.left + AROUND, plot.right());
    let dy = shift(area.top, area.bottom, plot.top, plot.bottom());
    Area {
        left: area.left + dx,
        top: area.top + dy,
        right: area.right + dx,
        bottom: area.bottom + dy,
    }
}

/// Places along a line.
fn along(line: &[Point]) -> Vec<Point> {
    let mut places = Vec::new();
    for pair in line.windows(2) {
        let ((x, y), (u, v)) = (pair[0], pair[1]);
        let steps = ((u - x).abs().max((v - y).abs()) / LINE_STEP).max(1);
        places.extend((0..=steps).map(|i| (x + (u - x) * i / steps, y + (v - y) * i / steps)));
    }
    places
}
