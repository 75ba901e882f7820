//! The search for the number of units with which a document fits.
//!
//! The first number is given, the next ones follow from the tokens counted, so that few documents are
//! counted.

use std::ops::RangeInclusive;

/// Rounds that follow an estimate. The later ones halve the range, which ends for any counter.
const ESTIMATED_ROUNDS: usize = 8;

/// Rounds after which the least number of units is tried, if nothing fits.
const ROUNDS_TO_LEAST: usize = 3;

/// The part of the document's tokens that may stay unused: one in this many. A search ends there.
const SLACK: usize = 100;

/// The part that may stay unused where there are no more units: one in this many.
const MOST_SLACK: usize = 20;

/// A number of units, and the tokens of their document.
#[derive(Clone, Copy)]
struct Point {
    units: usize,
    tokens: usize,
}

/// The search for the largest number of units whose document fits.
pub(super) struct Search {
    least: usize,
    most: usize,
    room: usize,
    /// The largest number that fits, and the smallest larger one that does not.
    low: Option<Point>,
    high: Option<Point>,
    /// The last two.
    last: [Option<Point>; 2],
}

impl Search {
    pub(super) fn new(units: RangeInclusive<usize>, room: usize) -> Self {
        let least = *units.start();
        Self {
            least,
            // A unit has a token at least; the rest is for counters that are not so.
            most: (*units.end()).min(room.saturating_mul(2)).max(least),
            room,
            low: None,
            high: None,
            last: [None; 2],
        }
    }

    /// The next number to try; none where the largest is known.
    pub(super) fn next(&self, round: usize, start: Option<usize>) -> Option<usize> {
        match (self.low, self.high) {
            (None, None) => Some(start.unwrap_or(self.least).clamp(self.least, self.most)),
            (None, Some(high)) if high.units <= self.least => None,
            (None, Some(_)) if round >= ROUNDS_TO_LEAST => Some(self.least),
            (None, Some(high)) => Some(self.estimate().clamp(self.least, high.units - 1)),
            (Some(low), None) if low.units >= self.most => None,
            (Some(low), None) => Some(self.estimate().clamp(low.units + 1, self.most)),
            (Some(low), Some(high)) if high.units - low.units < 2 => None,
            (Some(low), Some(high)) if round >= ESTIMATED_ROUNDS => {
                Some(low.units + (high.units - low.units) / 2)
            }
            (Some(low), Some(high)) => Some(self.estimate().clamp(low.units + 1, high.units - 1)),
        }
    }

    /// The number whose document uses the room but half of the slack, on a line through the last two.
    fn estimate(&self) -> usize {
        let [before, Some(last)] = self.last else {
            return self.least;
        };
        let slope = |before: Point| {
            let tokens = last.tokens as f64 - before.tokens as f64;
            tokens / (last.units as f64 - before.units as f64)
        };
        let alone = last.tokens as f64 / last.units.max(1) as f64;
        let slope = before.map(slope).filter(|slope| *slope > 0.0);
        let wanted = (self.room - self.room / SLACK / 2) as f64 - last.tokens as f64;
        let units = last.units as f64 + wanted / slope.unwrap_or(alone);
        // Saturates where it is negative, too large or not a number.
        units as usize
    }

    /// Adds what was counted, and says whether it is the best so far.
    pub(super) fn add(&mut self, units: usize, tokens: usize) -> bool {
        let point = Point { units, tokens };
        self.last = [self.last[1], Some(point)];
        if tokens > self.room {
            self.high = Some(point);
            return false;
        }
        self.low = Some(point);
        true
    }

    /// Whether the room is used but for the slack.
    pub(super) fn is_close(&self) -> bool {
        self.low
            .is_some_and(|low| low.tokens >= self.room - self.room / SLACK)
    }

    /// Whether there are no more units, though there is much room.
    pub(super) fn ends_early(&self) -> bool {
        self.low.is_some_and(|low| {
            low.units >= self.most && low.tokens < self.room - self.room / MOST_SLACK
        })
    }
}
