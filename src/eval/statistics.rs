//! Means, proportions and differences of scores, each with a 95 % interval.
//!
//! Intervals of means come from the percentile bootstrap (Efron and Tibshirani, "An Introduction to
//! the Bootstrap", 1993, chapter 13): the samples are drawn anew with replacement [`RESAMPLES`]
//! times, and the interval holds the middle 95 % of the means of the draws. The draws are those of
//! a seeded generator, so the same samples give the same interval. With fewer than about 20 samples
//! such an interval is too narrow.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};

/// Resamples of a bootstrap interval.
pub const RESAMPLES: usize = 10_000;
/// Resamples that an interval leaves out at each end, plus one: 2.5 % of them.
const TAIL: usize = RESAMPLES / 40;
/// Seed of the generator that draws the resamples.
const SEED: u64 = 0x005e_ed0f_7e57;
/// The 97.5 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// An interval with a confidence level of 95 %, in the unit of the samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// An estimate and its 95 % interval, in the unit of the samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The estimate from all samples.
    pub value: f64,
    /// Its interval.
    pub interval: Interval,
}

impl Estimate {
    /// Whether 0 lies outside the interval: a difference is then significant at the 5 % level.
    pub fn excludes_zero(&self) -> bool {
        self.interval.low > 0.0 || self.interval.high < 0.0
    }
}

/// Why samples have no statistics.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StatisticsError {
    /// There is nothing to average.
    #[error("no {what} to average")]
    Empty {
        /// Samples or tasks.
        what: &'static str,
    },
    /// A sample that is no finite number.
    #[error("sample {index} is {found}, expected a finite number")]
    NotFinite {
        /// Where it stands, from 0.
        index: usize,
        /// The sample; for a pair, the difference.
        found: f64,
    },
    /// The sum of as many samples of this size is no finite number.
    #[error("sample {index} is {found}, which is too large to average")]
    TooLarge {
        /// Where it stands, from 0.
        index: usize,
        /// The sample.
        found: f64,
    },
    /// Two methods without the same samples.
    #[error("expected as many samples of both methods, found {first} and {second}")]
    Unpaired {
        /// Samples of the first method.
        first: usize,
        /// Samples of the second method.
        second: usize,
    },
    /// More successes than trials.
    #[error("{successes} successes in {trials} trials")]
    Successes {
        /// Successes counted.
        successes: usize,
        /// Trials counted.
        trials: usize,
    },
    /// The samples of a task have no mean.
    #[error("task {task}: {reason}")]
    Task {
        /// Where the task stands, from 0.
        task: usize,
        /// Why its samples have no mean.
        reason: Box<StatisticsError>,
    },
}

/// The Wilson score interval of a proportion: successes in a number of trials (Wilson, "Probable
/// inference, the law of succession, and statistical inference", Journal of the American
/// Statistical Association 22, 1927).
///
/// ```text
/// (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)
/// ```
///
/// Where `n` is the number of trials, `p` the proportion of successes and `z` = 1.96. Without
/// trials, the interval is 0 to 1.
///
/// # Errors
///
/// [`StatisticsError::Successes`] if there are more successes than trials.
pub fn wilson_interval(successes: usize, trials: usize) -> Result<Interval, StatisticsError> {
    if successes > trials {
        return Err(StatisticsError::Successes { successes, trials });
    }
    // The upper end of the failures is 1 less the lower end of the successes.
    Ok(Interval {
        low: wilson_low(successes, trials),
        high: 1.0 - wilson_low(trials - successes, trials),
    })
}

/// The lower end of the Wilson score interval.
fn wilson_low(successes: usize, trials: usize) -> f64 {
    if successes == 0 {
        return 0.0;
    }
    let n = trials as f64;
    let p = successes as f64 / n;
    let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((p + Z * Z / (2.0 * n) - spread) / (1.0 + Z * Z / n)).max(0.0)
}

/// The mean of samples, with a bootstrap interval.
///
/// # Errors
///
/// [`StatisticsError`] if there are no samples, or if one of them is not finite or too large.
pub fn mean(samples: &[f64]) -> Result<Estimate, StatisticsError> {
    check(samples)?;
    Ok(bootstrap(&[samples]))
}

/// The mean of `first[i] - second[i]`, with an interval from resampled pairs: two methods on the
/// same samples.
///
/// # Errors
///
/// [`StatisticsError`] if the lengths differ or are 0, or if a sample or a difference is not finite
/// or too large.
pub fn paired_difference(first: &[f64], second: &[f64]) -> Result<Estimate, StatisticsError> {
    if first.len() != second.len() {
        let (first, second) = (first.len(), second.len());
        return Err(StatisticsError::Unpaired { first, second });
    }
    let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
    mean(&differences)
}

/// The average over tasks of the mean of each task's samples, every task with the same weight, with
/// an interval from the stratified bootstrap: samples are drawn anew within each task.
///
/// Given the differences of two methods task by task, it estimates the difference of their
/// averages.
///
/// # Errors
///
/// [`StatisticsError::Empty`] if there are no tasks, and [`StatisticsError::Task`] if there are no
/// samples of a task, or if one of them is not finite or too large.
pub fn average_over_tasks<S: AsRef<[f64]>>(tasks: &[S]) -> Result<Estimate, StatisticsError> {
    if tasks.is_empty() {
        return Err(StatisticsError::Empty { what: "tasks" });
    }
    let strata: Vec<&[f64]> = tasks.iter().map(AsRef::as_ref).collect();
    for (task, samples) in strata.iter().enumerate() {
        check(samples).map_err(|reason| StatisticsError::Task {
            task,
            reason: Box::new(reason),
        })?;
    }
    Ok(bootstrap(&strata))
}

/// Refuses samples without a finite mean, whichever of them are drawn.
fn check(samples: &[f64]) -> Result<(), StatisticsError> {
    if samples.is_empty() {
        return Err(StatisticsError::Empty { what: "samples" });
    }
    let largest = f64::MAX / samples.len() as f64;
    for (index, &found) in samples.iter().enumerate() {
        if !found.is_finite() {
            return Err(StatisticsError::NotFinite { index, found });
        }
        if found.abs() > largest {
            return Err(StatisticsError::TooLarge { index, found });
        }
    }
    Ok(())
}

/// The average over strata of their means, with the percentile interval of resamples within each
/// stratum.
fn bootstrap(strata: &[&[f64]]) -> Estimate {
    let value = average(strata, |samples| samples.iter().sum());
    let mut random = Xoshiro256PlusPlus::seed_from_u64(SEED);
    let mut resampled: Vec<f64> = (0..RESAMPLES)
        .map(|_| average(strata, |samples| resample_sum(samples, &mut random)))
        .collect();
    resampled.sort_unstable_by(f64::total_cmp);
    // As many are left out at either end, so that an interval of negated samples is the negated
    // interval.
    let interval = Interval {
        low: resampled[TAIL - 1],
        high: resampled[RESAMPLES - TAIL],
    };
    Estimate { value, interval }
}

/// The average over strata of a sum divided by the number of its samples.
fn average(strata: &[&[f64]], mut sum: impl FnMut(&[f64]) -> f64) -> f64 {
    let weight = strata.len() as f64;
    let mean = |samples: &&[f64]| sum(samples) / samples.len() as f64 / weight;
    strata.iter().map(mean).sum()
}

/// The sum of as many samples drawn with replacement.
fn resample_sum(samples: &[f64], random: &mut Xoshiro256PlusPlus) -> f64 {
    (0..samples.len())
        .map(|_| samples[draw(samples.len(), random)])
        .sum()
}

/// A number below `bound`. The product's upper half is uniform to within `bound` / 2⁶⁴, and unlike
/// the `rand` crate's own ranges it is the same in every version of that crate.
fn draw(bound: usize, random: &mut Xoshiro256PlusPlus) -> usize {
    ((u128::from(random.next_u64()) * bound as u128) >> 64) as usize
}

#[cfg(test)]
mod tests;
