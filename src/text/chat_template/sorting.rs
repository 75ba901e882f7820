//! A stable sort whose comparison may fail, and need not be an order, as Python's; `slice::sort_by` may
//! panic there.

use super::fault::Result;

/// The items sorted; `less(a, b)` is whether `a` must be before `b`.
pub(super) fn sorted<T>(
    items: Vec<T>,
    less: &mut impl FnMut(&T, &T) -> Result<bool>,
) -> Result<Vec<T>> {
    if items.len() < 2 {
        return Ok(items);
    }
    let mut left = items;
    let right = left.split_off(left.len() / 2);
    let mut left = sorted(left, less)?.into_iter().peekable();
    let mut right = sorted(right, less)?.into_iter().peekable();
    let mut merged = Vec::with_capacity(left.len() + right.len());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let next = match less(b, a)? {
            true => right.next(),
            false => left.next(),
        };
        merged.extend(next);
    }
    merged.extend(left);
    merged.extend(right);
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::chat_template::fault::Fault;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sorts_stably(keys in proptest::collection::vec(0u8..6, 0..60)) {
            let items: Vec<(u8, usize)> = keys.into_iter().zip(0..).collect();
            let mut expected = items.clone();
            expected.sort_by_key(|item| item.0);
            prop_assert_eq!(sorted(items, &mut |a, b| Ok(a.0 < b.0)).unwrap(), expected);
        }
    }

    #[test]
    fn an_inconsistent_comparison_does_not_panic() {
        let mut calls = 0;
        let mut odd = |_: &u32, _: &u32| {
            calls += 1;
            Ok(calls % 3 == 0)
        };
        assert_eq!(sorted((0..1000).collect(), &mut odd).unwrap().len(), 1000);
        assert!(sorted(vec![1, 2], &mut |_, _| Err(Fault::type_error("none"))).is_err());
    }
}
