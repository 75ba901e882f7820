//! The rows with the highest scores, head by head.

use core::ops::Range;

use burn::backend::Dispatch;
use burn::tensor::{DType, Int, Tensor};

use super::KernelError;
use super::error::{check_dtype, check_sizes};
use super::extension::{Kernels, check_devices};

/// The rows that [`select_rows`] keeps.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RowChoice {
    /// Rows that may be kept.
    pub selectable: Range<usize>,
    /// Rows that are kept of each head; all selectable ones where they are fewer.
    pub count: usize,
    /// Odd width of the window that scores are max-pooled over, stride 1: a row is kept for the sake of
    /// its neighbours. 1 pools nothing.
    pub window: usize,
}

impl RowChoice {
    /// Rows that are kept in fact.
    pub fn kept(&self) -> usize {
        self.count.min(self.selectable.len())
    }
}

/// The rows whose pooled scores are highest, ascending, for each head; ties go to the lower index.
///
/// A score that is not a number counts as no score, and so does what lies outside the tensor: the window
/// is padded with -inf. Nothing is read back from the device.
///
/// # Shapes
///
/// - `scores`: `[batch, kv_heads, rows]`, f32
/// - `before`: `[batch, kv_heads, context]`, f32: scores of the rows just before the first, which are
///   pooled with them and never kept
/// - output: `[batch, kv_heads, kept]`, i32, indices into `rows`
///
/// # Errors
///
/// [`KernelError`] when the shapes or dtypes do not fit, the window is even, or rows that are not there
/// are selectable.
///
/// # References
///
/// Max pooling before the selection as in APB, arXiv 2502.12085, after SnapKV, arXiv 2404.14469.
pub fn select_rows(
    scores: Tensor<3>,
    before: Option<Tensor<3>>,
    choice: RowChoice,
) -> Result<Tensor<3, Int>, KernelError> {
    check(&scores, before.as_ref(), &choice)?;
    let before = before.unwrap_or_else(|| {
        let [batch, kv_heads, _] = scores.dims();
        Tensor::zeros([batch, kv_heads, 0], (&scores.device(), DType::F32))
    });
    check_devices(OPERATION, &[&scores.device(), &before.device()])?;
    let rows = Dispatch::select_rows(scores.into_dispatch(), before.into_dispatch(), choice);
    Ok(Tensor::from_dispatch(rows))
}

fn check(
    scores: &Tensor<3>,
    before: Option<&Tensor<3>>,
    choice: &RowChoice,
) -> Result<(), KernelError> {
    let [batch, kv_heads, rows] = scores.dims();
    check_dtype(OPERATION, "scores", scores.dtype(), "f32", &[DType::F32])?;
    if let Some(before) = before {
        let all = before.dims()[2].saturating_add(rows);
        if before.dims()[..2] != [batch, kv_heads] || i32::try_from(all).is_err() {
            let expected = format!(
                "[{batch}, {kv_heads}, context] beside the scores, with their {rows} rows no more than i32 can count"
            );
            return Err(KernelError::shape(
                OPERATION,
                "before",
                expected,
                &before.dims(),
            ));
        }
        check_dtype(OPERATION, "before", before.dtype(), "f32", &[DType::F32])?;
    }
    let Range { start, end } = choice.selectable;
    if start > end || end > rows || i32::try_from(rows).is_err() {
        let expected = format!("a range within {rows} rows, of which i32 can count");
        return Err(KernelError::shape(
            OPERATION,
            "selectable",
            expected,
            &[start, end],
        ));
    }
    if choice.window.is_multiple_of(2) {
        let expected = "an odd number".into();
        return Err(KernelError::shape(
            OPERATION,
            "window",
            expected,
            &[choice.window],
        ));
    }
    // There are no more rows in the output than in the scores.
    check_sizes(OPERATION, &[("scores", &scores.dims()[..])])?;
    match before {
        Some(before) => check_sizes(OPERATION, &[("before", &before.dims()[..])]),
        None => Ok(()),
    }
}

/// Its name in errors.
const OPERATION: &str = "select_rows";

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    fn tensor(values: &[f32], kv_heads: usize) -> Tensor<3> {
        let shape = [1, kv_heads, values.len() / kv_heads];
        Tensor::from_data(TensorData::new(values.to_vec(), shape), &Device::flex())
    }

    fn indices(rows: Tensor<3, Int>) -> Vec<i32> {
        rows.into_data().try_to_vec().unwrap()
    }

    fn choice(selectable: Range<usize>, count: usize, window: usize) -> RowChoice {
        RowChoice {
            selectable,
            count,
            window,
        }
    }

    fn select(values: &[f32], before: Option<&[f32]>, choice: RowChoice) -> Vec<i32> {
        let before = before.map(|before| tensor(before, 1));
        indices(select_rows(tensor(values, 1), before, choice).unwrap())
    }

    #[test]
    fn a_row_is_kept_for_the_sake_of_its_neighbours() {
        let values = [0.0, 9.0, 1.0, 2.0, 3.0, 0.5];
        // Pooled: 9, 9, 9, 9, 3, 3.
        assert_eq!(select(&values, None, choice(0..6, 5, 5)), [0, 1, 2, 3, 4]);
        assert_eq!(select(&values, None, choice(0..6, 2, 1)), [1, 4]);
    }

    #[test]
    fn ties_go_to_the_lower_index() {
        let values = [1.0, 3.0, 3.0, 3.0, 0.0, 3.0];
        assert_eq!(select(&values, None, choice(0..6, 2, 1)), [1, 2]);
        assert_eq!(select(&values, None, choice(2..6, 2, 1)), [2, 3]);
        assert_eq!(select(&values, None, choice(2..6, 9, 1)), [2, 3, 4, 5]);
        assert!(select(&values, None, choice(0..6, 0, 1)).is_empty());
        assert_eq!(select(&[0.0, -0.0, -0.0], None, choice(0..3, 2, 1)), [0, 1]);
        assert_eq!(select(&[-0.0, 0.0], None, choice(0..2, 1, 1)), [0]);
    }

    #[test]
    fn rows_before_are_pooled_but_not_kept() {
        let values = [0.0, 1.0, 5.0, 0.0, 0.0, 2.0];
        let kept = select(&values, Some(&[0.0, 7.0]), choice(0..6, 2, 5));
        assert_eq!(kept, [0, 1]);
        let kept = select(&values, None, choice(1..6, 2, 5));
        assert_eq!(kept, [1, 2], "5 is the pooled value of rows 0 to 4");
    }

    #[test]
    fn what_is_not_a_number_is_no_score() {
        let values = [
            f32::NAN,
            -1.0,
            f32::NAN,
            2.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
        ];
        assert_eq!(select(&values, None, choice(0..6, 2, 1)), [3, 4]);
        assert_eq!(select(&values, None, choice(0..6, 4, 1)), [0, 1, 3, 4]);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let values = tensor(&[0.0; 6], 2);
        let refused = |before: Option<Tensor<3>>, choice, wrong| match select_rows(
            values.clone(),
            before,
            choice,
        ) {
            Err(KernelError::Shape { argument, .. }) => assert_eq!(argument, wrong),
            other => panic!("{other:?}"),
        };
        refused(None, choice(1..4, 1, 5), "selectable");
        #[allow(clippy::reversed_empty_ranges)]
        refused(None, choice(2..1, 1, 5), "selectable");
        refused(None, choice(0..3, 1, 4), "window");
        refused(Some(tensor(&[0.0; 3], 1)), choice(0..3, 1, 5), "before");
        let half = values.clone().cast(DType::F16);
        let wrong = select_rows(half, None, choice(0..3, 1, 5));
        assert!(matches!(wrong, Err(KernelError::DType { .. })));
    }
}
