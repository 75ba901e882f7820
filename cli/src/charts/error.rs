//! Why a chart could not be drawn, and the checks of its data.

use plotters::drawing::DrawingAreaErrorKind;

/// The largest magnitude that is drawn.
const LARGEST: f64 = 1e15;
/// The most groups, bars, points, panels or cells along a side of a chart.
pub(super) const MAX_ITEMS: usize = 64;

/// Why a chart could not be drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChartError {
    /// There is nothing to draw.
    #[error("the chart has no {what}")]
    Empty {
        /// What is missing.
        what: &'static str,
    },
    /// More than can be told apart.
    #[error("a chart holds at most {most} {what}, found {found}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The most that are drawn.
        most: usize,
        /// How many there are.
        found: usize,
    },
    /// A series does not have one value for each group.
    #[error("expected {expected} values of {name:?}, found {found}")]
    Count {
        /// The series, or a row of a panel.
        name: String,
        /// How many there should be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A value that has no place on its axis.
    #[error("value {index} of {name:?} is {found}, expected {expected}")]
    Value {
        /// The series.
        name: String,
        /// Where the value stands in it, from 0.
        index: usize,
        /// What can be drawn.
        expected: &'static str,
        /// The value.
        found: f64,
    },
    /// The drawing library failed.
    #[error("the chart could not be drawn: {reason}")]
    Draw {
        /// Its message.
        reason: String,
    },
}

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for ChartError {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self::Draw {
            reason: error.to_string(),
        }
    }
}

/// Refuses none of something, and more than `most`.
pub(super) fn check_number(
    what: &'static str,
    found: usize,
    most: usize,
) -> Result<(), ChartError> {
    match found {
        0 => Err(ChartError::Empty { what }),
        _ if found > most => Err(ChartError::TooMany { what, most, found }),
        _ => Ok(()),
    }
}

/// Refuses a series that does not have `expected` values.
pub(super) fn check_count(name: &str, expected: usize, found: usize) -> Result<(), ChartError> {
    if expected == found {
        return Ok(());
    }
    Err(ChartError::Count {
        name: name.to_owned(),
        expected,
        found,
    })
}

/// What values are allowed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Allowed {
    /// Any number within [`LARGEST`].
    Finite,
    /// Those from 0.
    NotNegative,
    /// Those above 0.
    Positive,
    /// Those from 0 to 1.
    Share,
}

impl Allowed {
    /// Refuses a value that is not one of these.
    pub(super) fn check(self, name: &str, index: usize, found: f64) -> Result<(), ChartError> {
        let (holds, expected) = match self {
            Self::Finite => (true, "a number up to 1e15"),
            Self::NotNegative => (found >= 0.0, "a number from 0 to 1e15"),
            Self::Positive => (found > 0.0, "a number above 0, up to 1e15"),
            Self::Share => ((0.0..=1.0).contains(&found), "a number from 0 to 1"),
        };
        // A NaN is not within the largest magnitude either.
        if holds && found.abs() <= LARGEST {
            return Ok(());
        }
        Err(ChartError::Value {
            name: name.to_owned(),
            index,
            expected,
            found,
        })
    }
}
