//! Python's indexing and slicing of sequences.

use num_bigint::BigInt;
use num_traits::ToPrimitive;

use super::fault::{Fault, Kind, Result};
use super::limits::{Budget, ITEM_BYTES};
use super::value::{Range, Value, clamp};

/// The bounds between the brackets; `None` where left out.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Slice {
    pub start: Option<i64>,
    pub stop: Option<i64>,
    pub step: Option<i64>,
}

impl Slice {
    /// The first index, the distance and the number of items, of a sequence of `length`.
    fn resolve(self, length: usize) -> Result<(i64, i64, usize)> {
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        let step = self.step.unwrap_or(1).max(-i64::MAX);
        if step == 0 {
            return Err(Fault::value_error("slice step cannot be zero"));
        }
        // Backwards, the index before the first item is -1.
        let (low, high) = match step > 0 {
            true => (0, length),
            false => (-1, length - 1),
        };
        let bound = |index: i64| match index {
            ..0 => index.saturating_add(length).clamp(low, high),
            _ => index.clamp(low, high),
        };
        let (first, last) = if step > 0 { (low, high) } else { (high, low) };
        let start = self.start.map_or(first, bound);
        let stop = self.stop.map_or(last, bound);
        let distance = if step > 0 { stop - start } else { start - stop };
        let count = match distance {
            ..=0 => 0,
            distance => (distance - 1) / step.abs() + 1,
        };
        Ok((start, step, usize::try_from(count).unwrap_or(0)))
    }

    /// The indices of the items taken of a sequence of `length`.
    pub(super) fn indices(self, length: usize) -> Result<impl Iterator<Item = usize>> {
        let (start, step, count) = self.resolve(length)?;
        Ok((0..count).map(move |at| {
            let offset = step.saturating_mul(i64::try_from(at).unwrap_or(i64::MAX));
            usize::try_from(start.saturating_add(offset)).unwrap_or(usize::MAX)
        }))
    }
}

/// `value[start:stop:step]`.
pub(super) fn slice(value: &Value, slice: Slice, budget: &Budget) -> Result<Value> {
    match value {
        Value::Str(text) | Value::Markup(text) => {
            budget.bytes(text.len())?;
            budget.reading(text.len())?;
            let taken: String = match slice.step.unwrap_or(1) {
                // Without a table of where the characters are.
                1 => {
                    let (start, _, count) = slice.resolve(text.chars().count())?;
                    let start = usize::try_from(start).unwrap_or(0);
                    text.chars().skip(start).take(count).collect()
                }
                _ => {
                    budget.product(4, text.len())?;
                    let chars: Vec<char> = text.chars().collect();
                    slice
                        .indices(chars.len())?
                        .filter_map(|at| chars.get(at))
                        .collect()
                }
            };
            Ok(Value::text(taken, value.is_safe()))
        }
        Value::List(seq) => Value::list(taken(&seq.items, slice, budget)?, budget),
        Value::Tuple(seq) => Value::tuple(taken(&seq.items, slice, budget)?, budget),
        Value::Range(range) => {
            let (start, step, length) = slice.resolve(range.length)?;
            let first = BigInt::from(range.start) + BigInt::from(range.step) * start;
            Ok(Value::Range(Range {
                start: clamp(&first),
                step: range.step.saturating_mul(step),
                length,
            }))
        }
        _ => Err(value.mismatch("a sequence to slice")),
    }
}

fn taken(items: &[Value], slice: Slice, budget: &Budget) -> Result<Vec<Value>> {
    budget.product(ITEM_BYTES, items.len())?;
    Ok(slice
        .indices(items.len())?
        .filter_map(|at| items.get(at).cloned())
        .collect())
}

/// `value[index]` of a sequence.
pub(super) fn index(value: &Value, index: &BigInt, budget: &Budget) -> Result<Value> {
    let length = value.length()?;
    budget.reading(value.as_str().map_or(0, str::len))?;
    let at = match index.sign() {
        num_bigint::Sign::Minus => index + BigInt::from(length),
        _ => index.clone(),
    };
    let out_of_range = || Fault::new(Kind::Lookup, "index out of range");
    let at = at
        .to_usize()
        .filter(|at| *at < length)
        .ok_or_else(out_of_range)?;
    match value {
        Value::Str(text) | Value::Markup(text) => {
            let c = text.chars().nth(at).ok_or_else(out_of_range)?;
            Ok(Value::text(c.to_string(), value.is_safe()))
        }
        Value::List(seq) | Value::Tuple(seq) => seq.items.get(at).cloned().ok_or_else(out_of_range),
        Value::Range(range) => Ok(Value::Int(range.at(at))),
        _ => Err(value.mismatch("a sequence")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The rule of Python's reference: with step `k`, the items `i`, `i + k`, `i + 2k` and so on.
    fn reference(length: i64, slice: Slice) -> Vec<usize> {
        let step = slice.step.unwrap_or(1);
        let relative = |index: i64| if index < 0 { index + length } else { index };
        let (mut at, stop);
        if step > 0 {
            at = slice.start.map_or(0, |start| relative(start).max(0));
            stop = slice.stop.map_or(length, |stop| relative(stop).min(length));
        } else {
            at = slice
                .start
                .map_or(length - 1, |start| relative(start).min(length - 1));
            stop = slice.stop.map_or(-1, |stop| relative(stop).max(-1));
        }
        let mut taken = Vec::new();
        while (step > 0 && at < stop) || (step < 0 && at > stop) {
            taken.push(at as usize);
            at += step;
        }
        taken
    }

    proptest! {
        #[test]
        fn slices_take_what_the_reference_takes(
            length in 0i64..8,
            start in proptest::option::of(-12i64..12),
            stop in proptest::option::of(-12i64..12),
            step in proptest::option::of((-5i64..5).prop_filter("not zero", |step| *step != 0)),
        ) {
            let slice = Slice { start, stop, step };
            let taken: Vec<usize> = slice.indices(length as usize).unwrap().collect();
            prop_assert_eq!(taken, reference(length, slice));
        }
    }

    #[test]
    fn bounds_beyond_all_lengths() {
        for step in [1, -1, i64::MAX, i64::MIN] {
            for bound in [i64::MIN, i64::MAX] {
                let slice = Slice {
                    start: Some(bound),
                    stop: Some(-bound.max(-i64::MAX)),
                    step: Some(step),
                };
                assert!(slice.indices(3).unwrap().all(|at| at < 3));
            }
        }
    }
}
