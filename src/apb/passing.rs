//! From scores to a passing block: pool, select, gather, pack.

use std::cmp::Ordering;
use std::ops::Range;

use burn::tensor::{DType, Int, Tensor, TensorData};

use super::error::SessionError;
use super::host;

/// Window of the max pooling along the rows: a row is kept for the sake of its neighbours.
pub const POOL: usize = 5;

/// The rows that one rank passes on, for each sequence of the batch and KV head, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// `[batch][kv_heads][l_p]` indices of local rows.
    pub rows: Vec<Vec<Vec<usize>>>,
}

impl Selection {
    /// The `count` rows with the highest pooled scores among `selectable`, for each KV head; ties go
    /// to the lower index.
    ///
    /// `scores` are raw, `[batch, kv_heads, rows]`; `before`, where given, are raw scores of the rows
    /// just before them, which are pooled with them but never chosen.
    ///
    /// # Errors
    ///
    /// [`SessionError::Device`] when the scores cannot be read.
    pub fn highest(
        scores: Tensor<3>,
        before: Option<Tensor<3>>,
        selectable: Range<usize>,
        count: usize,
    ) -> Result<Self, SessionError> {
        let [batch, kv_heads, rows] = scores.dims();
        let context = before.as_ref().map_or(0, |before| before.dims()[2]);
        let all = match before {
            Some(before) => Tensor::cat(vec![before, scores], 2),
            None => scores,
        };
        let values = host::values(all)?;
        let width = context + rows;
        let head = |index: usize| {
            let pooled = max_pool(&values[index * width..(index + 1) * width]);
            highest_rows(&pooled[context..], selectable.clone(), count)
        };
        let rows = (0..batch)
            .map(|b| (0..kv_heads).map(|h| head(b * kv_heads + h)).collect())
            .collect();
        Ok(Self { rows })
    }

    /// Rows chosen for each KV head.
    pub fn count(&self) -> usize {
        self.rows
            .first()
            .and_then(|b| b.first())
            .map_or(0, Vec::len)
    }

    /// Gathers the chosen rows of keys (after RoPE) and values, `[batch, kv_heads, rows, head_dim]`
    /// each, into one packed block `[2 * batch, kv_heads, l_p, head_dim]`: all keys, then all values.
    pub fn gather(&self, keys: Tensor<4>, values: Tensor<4>) -> Tensor<4> {
        let [batch, kv_heads, _, head_dim] = keys.dims();
        let count = self.count();
        let indices: Vec<i32> = self
            .rows
            .iter()
            .flatten()
            .flatten()
            .map(|row| i32::try_from(*row).unwrap_or(i32::MAX))
            .collect();
        let indices = Tensor::<4, Int>::from_data(
            TensorData::new(indices, [batch, kv_heads, count, 1]),
            (&keys.device(), DType::I32),
        )
        .expand([batch, kv_heads, count, head_dim]);
        pack(keys.gather(2, indices.clone()), values.gather(2, indices))
    }
}

/// Keys and values `[batch, kv_heads, rows, head_dim]` as one tensor `[2 * batch, ..]`, so that they
/// travel in one exchange and each is still one piece of memory.
pub fn pack(keys: Tensor<4>, values: Tensor<4>) -> Tensor<4> {
    Tensor::cat(vec![keys, values], 0)
}

/// The keys and values that [`pack`] put together; views, not copies.
pub fn unpack(packed: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let [both, kv_heads, rows, head_dim] = packed.dims();
    let half = both / 2;
    let part = |range: Range<usize>| {
        packed
            .clone()
            .slice([range, 0..kv_heads, 0..rows, 0..head_dim])
    };
    (part(0..half), part(half..both))
}

/// The largest of each value and its two neighbours on either side.
fn max_pool(values: &[f32]) -> Vec<f32> {
    let reach = POOL / 2;
    (0..values.len())
        .map(|i| {
            let window = &values[i.saturating_sub(reach)..(i + reach + 1).min(values.len())];
            // Adding 0 makes -0 and 0 the same score.
            window.iter().copied().fold(f32::NEG_INFINITY, f32::max) + 0.0
        })
        .collect()
}

/// Indices of the `count` highest values within `selectable`, ascending; ties to the lower index.
fn highest_rows(values: &[f32], selectable: Range<usize>, count: usize) -> Vec<usize> {
    let mut rows: Vec<usize> = selectable.collect();
    let better =
        |a: &usize, b: &usize| -> Ordering { values[*b].total_cmp(&values[*a]).then(a.cmp(b)) };
    if count < rows.len() {
        if count > 0 {
            rows.select_nth_unstable_by(count - 1, better);
        }
        rows.truncate(count);
    }
    rows.sort_unstable();
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use proptest::prelude::*;

    #[test]
    fn pools_five_rows() {
        let pooled = max_pool(&[0.0, 9.0, 1.0, 2.0, 3.0, 0.5]);
        assert_eq!(pooled, [9.0, 9.0, 9.0, 9.0, 3.0, 3.0]);
    }

    #[test]
    fn ties_go_to_the_lower_index() {
        let values = [1.0, 3.0, 3.0, 3.0, 0.0, 3.0];
        assert_eq!(highest_rows(&values, 0..6, 2), [1, 2]);
        assert_eq!(highest_rows(&values, 2..6, 2), [2, 3]);
        assert_eq!(highest_rows(&values, 2..6, 9), [2, 3, 4, 5]);
        assert!(highest_rows(&values, 0..6, 0).is_empty());
    }

    #[test]
    fn rows_before_are_pooled_but_not_chosen() {
        let device = Device::flex();
        let scores = Tensor::<3>::from_floats([[[0.0, 1.0, 5.0, 0.0, 0.0, 2.0]]], &device);
        let before = Tensor::<3>::from_floats([[[0.0, 7.0]]], &device);
        let chosen = Selection::highest(scores.clone(), Some(before), 0..6, 2).unwrap();
        assert_eq!(chosen.rows, [[[0, 1]]]);
        let alone = Selection::highest(scores, None, 0..6, 2).unwrap();
        assert_eq!(
            alone.rows,
            [[[0, 1]]],
            "5 is the pooled value of rows 0 to 4"
        );
    }

    #[test]
    fn gathers_each_heads_own_rows() {
        let device = Device::flex();
        let keys: Vec<f32> = (0..2 * 3 * 2).map(|i| i as f32).collect();
        let keys = Tensor::<4>::from_data(TensorData::new(keys, [1, 2, 3, 2]), &device);
        let selection = Selection {
            rows: vec![vec![vec![0, 2], vec![1, 2]]],
        };
        let (k, v) = unpack(selection.gather(keys.clone(), keys + 100.0));
        let expected = [0.0, 1.0, 4.0, 5.0, 8.0, 9.0, 10.0, 11.0];
        assert_eq!(k.into_data().try_to_vec::<f32>().unwrap(), expected);
        assert_eq!(
            v.into_data().try_to_vec::<f32>().unwrap(),
            expected.map(|x| x + 100.0)
        );
    }

    proptest! {
        /// The reference sorts everything, stably.
        #[test]
        fn selection_is_a_stable_sort(
            values in prop::collection::vec((-3i8..3).prop_map(f32::from), 1..60),
            start in 0usize..20,
            count in 0usize..70,
        ) {
            let start = start.min(values.len());
            let mut sorted: Vec<usize> = (start..values.len()).collect();
            sorted.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
            sorted.truncate(count);
            sorted.sort_unstable();
            prop_assert_eq!(highest_rows(&values, start..values.len(), count), sorted);
        }
    }
}
