//! Axes: where a value lies, and which values are labelled.

use super::frame::{Side, Tick};

/// Share of an axis that is left free beyond the outermost values, where it does not end at 0.
const PAD: f64 = 0.04;
/// Share of a logarithmic axis below its smallest value, where 0 is drawn.
const ZERO_SHARE: f64 = 0.1;
/// About how many values of a linear axis are labelled.
const LINEAR_TICKS: f64 = 6.0;
/// The most values of a logarithmic axis that are labelled.
const LOG_TICKS: i32 = 10;
/// Decades up to which 2 and 5 are labelled as well.
const FINE_DECADES: f64 = 2.0;
/// The least length of a linear axis.
const LEAST_SPAN: f64 = 1e-12;
/// 1024 tokens are written 1K, 1024 K are written 1M.
const KILO: usize = 1024;
const MEGA: usize = 1024 * 1024;

/// How values are laid out along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// Equal distances for equal differences; 0 is always shown.
    #[default]
    Linear,
    /// Equal distances for equal ratios. A value of 0 is drawn below all others, at a tick of its
    /// own.
    Log,
}

/// How the values of an axis are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unit {
    /// Plain numbers.
    #[default]
    Number,
    /// A share of 1, in percent.
    Percent,
    /// Seconds, as s, ms or µs.
    Seconds,
}

impl Unit {
    /// A value, with as many digits as a difference of `step` needs.
    pub(super) fn write(self, value: f64, step: f64) -> String {
        match self {
            Self::Number => number(value, step),
            Self::Percent => format!("{}%", number(value * 100.0, step * 100.0)),
            Self::Seconds => seconds(value, value, step),
        }
    }
}

/// Seconds in the unit that suits `largest`.
fn seconds(value: f64, largest: f64, step: f64) -> String {
    let (factor, unit) = match largest.abs() {
        x if x == 0.0 || x >= 1.0 => (1.0, "s"),
        x if x >= 1e-3 => (1e3, "ms"),
        _ => (1e6, "µs"),
    };
    format!("{} {unit}", number(value * factor, step * factor))
}

/// A number with as many digits as a difference of `step` needs.
fn number(value: f64, step: f64) -> String {
    if value != 0.0 && (value.abs() < 1e-4 || value.abs() >= 1e6) {
        return format!("{value:.1e}").replace(".0e", "e");
    }
    // The small part keeps 0.0999... from needing one digit more.
    let digits = match value == 0.0 {
        true => 0.0,
        false => (-step.abs().log10() - 1e-9).ceil().clamp(0.0, 6.0),
    };
    format!("{value:.*}", digits as usize)
}

/// A count of tokens: multiples of 1024 in K, of 1024 K in M, all others in digits.
pub(super) fn tokens(count: usize) -> String {
    match count {
        0 => "0".to_owned(),
        _ if count.is_multiple_of(MEGA) => format!("{}M", count / MEGA),
        _ if count.is_multiple_of(KILO) => format!("{}K", count / KILO),
        _ => count.to_string(),
    }
}

/// An axis over a range of values.
pub(super) struct Axis {
    /// The ends, or their logarithms.
    low: f64,
    high: f64,
    scale: Scale,
    /// Whether 0 has a place on a logarithmic axis.
    zero: bool,
    /// The labelled values.
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// An axis that holds all values, which its caller has checked.
    pub(super) fn new(values: &[f64], scale: Scale, unit: Unit) -> Self {
        match scale {
            Scale::Linear => Self::linear(values, unit),
            Scale::Log => Self::decades(values, unit),
        }
    }

    /// A linear axis that holds 0 and all values.
    fn linear(values: &[f64], unit: Unit) -> Self {
        let least = values.iter().copied().fold(0.0, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        let (least, most) = match most - least {
            0.0 => (0.0, 1.0),
            span if span < LEAST_SPAN => (least, least + LEAST_SPAN),
            _ => (least, most),
        };
        let step = nice_step(most - least);
        let (first, last) = ((least / step).floor(), (most / step).ceil());
        let largest = first.abs().max(last.abs()) * step;
        let write = |value: f64| match unit {
            Unit::Seconds => seconds(value, largest, step),
            _ => unit.write(value, step),
        };
        let steps = (last - first) as i32;
        let ticks = (0..=steps)
            .map(|i| (first + f64::from(i)) * step)
            .map(|value| (value, write(value)))
            .collect();
        Self {
            low: first * step,
            high: last * step,
            scale: Scale::Linear,
            zero: false,
            ticks,
        }
    }

    /// A logarithmic axis with labels at powers of 10, and at 2 and 5 times these where there is
    /// room.
    fn decades(values: &[f64], unit: Unit) -> Self {
        let (least, most) = log_range(values, f64::log10);
        let write = |value: f64| (value, unit.write(value, value));
        let (mut first, mut last) = (fine_below(least), fine_above(most));
        if first == last {
            (first, last) = (first - 1, last + 1);
        }
        let ticks = match most - least <= FINE_DECADES {
            true => (first..=last).map(|i| write(fine(i))).collect(),
            false => strided((first + 2).div_euclid(3), last.div_euclid(3))
                .map(|k| write(10f64.powi(k)))
                .collect(),
        };
        let zero = values.contains(&0.0);
        Self::log(fine(first).log10(), fine(last).log10(), zero, ticks)
    }

    /// A logarithmic axis of tokens, with labels at powers of 2.
    pub(super) fn tokens(counts: &[usize]) -> Self {
        let values: Vec<f64> = counts.iter().map(|&count| count as f64).collect();
        let (least, most) = log_range(&values, f64::log2);
        let last_bit = usize::BITS as i32 - 1;
        let (mut first, mut last) = (
            (least.floor() as i32).min(last_bit),
            (most.ceil() as i32).min(last_bit),
        );
        if first == last {
            (first, last) = ((first - 1).max(0), (last + 1).min(last_bit));
        }
        let ticks = strided(first, last)
            .map(|k| 1usize << k)
            .map(|count| (count as f64, tokens(count)))
            .collect();
        let log10 = |k: i32| f64::from(k) * 2f64.log10();
        Self::log(log10(first), log10(last), false, ticks)
    }

    fn log(low: f64, high: f64, zero: bool, mut ticks: Vec<(f64, String)>) -> Self {
        let pad = (high - low) * PAD;
        if zero {
            ticks.push((0.0, "0".to_owned()));
        }
        Self {
            low: low - pad,
            high: high + pad,
            scale: Scale::Log,
            zero,
            ticks,
        }
    }

    /// Where a value lies, from 0 to 1.
    pub(super) fn fraction(&self, value: f64) -> f64 {
        let along = |value: f64| (value - self.low) / (self.high - self.low);
        let fraction = match (self.scale, self.zero) {
            (Scale::Linear, _) => along(value),
            (Scale::Log, false) => along(value.log10()),
            (Scale::Log, true) if value == 0.0 => PAD,
            (Scale::Log, true) => ZERO_SHARE + (1.0 - ZERO_SHARE) * along(value.log10()),
        };
        fraction.clamp(0.0, 1.0)
    }

    /// Its labels and grid lines.
    pub(super) fn side(&self, title: impl Into<String>) -> Side {
        let tick = |(value, label): &(f64, String)| Tick {
            at: self.fraction(*value),
            label: vec![label.clone()],
        };
        Side {
            title: title.into(),
            ticks: self.ticks.iter().map(tick).collect(),
            grid: true,
        }
    }
}

/// The least and the largest logarithm of the values above 0; those of 1 if there are none.
fn log_range(values: &[f64], log: impl Fn(f64) -> f64) -> (f64, f64) {
    let logs = || {
        values
            .iter()
            .filter(|&&value| value > 0.0)
            .map(|&value| log(value))
    };
    let (least, most) = (
        logs().fold(f64::INFINITY, f64::min),
        logs().fold(f64::NEG_INFINITY, f64::max),
    );
    if least > most {
        (0.0, 0.0)
    } else {
        (least, most)
    }
}

/// Whole numbers from `first` to `last`, at most about [`LOG_TICKS`] of them.
fn strided(first: i32, last: i32) -> impl Iterator<Item = i32> {
    let stride = ((last - first) / LOG_TICKS + 1).max(1);
    (first..=last).step_by(stride.unsigned_abs() as usize)
}

/// The step of a linear axis of this length: 1, 2 or 5 times a power of 10.
fn nice_step(span: f64) -> f64 {
    let rough = span / LINEAR_TICKS;
    let power = 10f64.powf(rough.log10().floor());
    let factor = match rough / power {
        x if x <= 1.0 + 1e-9 => 1.0,
        x if x <= 2.0 + 1e-9 => 2.0,
        x if x <= 5.0 + 1e-9 => 5.0,
        _ => 10.0,
    };
    factor * power
}

/// The values 1, 2, 5, 10, 20, 50 ... by their index, which is 0 for 1.
fn fine(index: i32) -> f64 {
    let factor = [1.0, 2.0, 5.0][index.rem_euclid(3) as usize];
    factor * 10f64.powi(index.div_euclid(3))
}

/// The index of the last of them that is not above a logarithm.
fn fine_below(log: f64) -> i32 {
    let decade = log.floor() as i32 * 3;
    let fits = |&i: &i32| fine(i).log10() <= log + 1e-9;
    (decade..=decade + 3).rev().find(fits).unwrap_or(decade)
}

/// The index of the first of them that is not below a logarithm.
fn fine_above(log: f64) -> i32 {
    let decade = log.floor() as i32 * 3;
    let fits = |&i: &i32| fine(i).log10() >= log - 1e-9;
    (decade..=decade + 3).find(fits).unwrap_or(decade + 3)
}
