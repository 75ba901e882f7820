//! One attention out of parts of it.

use burn::backend::Dispatch;
use burn::tensor::{DType, Tensor};

use super::error::{check_float, check_sizes};
use super::extension::{Kernels, check_devices};
use super::{AttentionOutput, KernelError};

/// Merges attention over disjoint sets of keys into attention over all of them, in f32.
///
/// `lse = log(sum_h exp(lse_h))`, `out = sum_h exp(lse_h - lse) out_h`, both shifted by the largest
/// `lse_h`, so that neither large scores overflow nor rows without keys (`lse` of -inf) give NaN. A
/// row that no part has keys for keeps `out` 0 and `lse` -inf. `out` has the dtype of the first part.
///
/// # Shapes
///
/// Every part: `out` `[batch, heads, seq_q, head_dim]`, `lse` `[batch, heads, seq_q]`, all equal.
///
/// # Errors
///
/// [`KernelError`] when there is no part, or the parts differ in shape.
pub fn merge(
    parts: impl IntoIterator<Item = AttentionOutput>,
) -> Result<AttentionOutput, KernelError> {
    let mut parts = parts.into_iter();
    let Some(first) = parts.next() else {
        let expected = "at least one".into();
        return Err(KernelError::shape("merge", "parts", expected, &[0]));
    };
    let (dtype, shape) = (first.out.dtype(), first.out.dims());
    check(&first, shape)?;
    let (mut out, mut lse) = (first.out.cast(DType::F32), first.lse.cast(DType::F32));
    for part in parts {
        check(&part, shape)?;
        check_devices(
            "merge",
            &[
                &out.device(),
                &lse.device(),
                &part.out.device(),
                &part.lse.device(),
            ],
        )?;
        let merged = Dispatch::merge(
            out.into_dispatch(),
            lse.into_dispatch(),
            part.out.into_dispatch(),
            part.lse.cast(DType::F32).into_dispatch(),
        );
        out = Tensor::from_dispatch(merged.out);
        lse = Tensor::from_dispatch(merged.lse);
    }
    Ok(AttentionOutput {
        out: out.cast(dtype),
        lse,
    })
}

/// Refuses a part that has not the shape of the first, or holds no floats.
fn check(part: &AttentionOutput, shape: [usize; 4]) -> Result<(), KernelError> {
    for (argument, expected, found) in [
        ("out", &shape[..], &part.out.dims()[..]),
        ("lse", &shape[..3], &part.lse.dims()),
    ] {
        if expected != found {
            let expected = format!("{expected:?}, as the first part");
            return Err(KernelError::shape("merge", argument, expected, found));
        }
    }
    check_float("merge", "out", part.out.dtype())?;
    check_float("merge", "lse", part.lse.dtype())?;
    check_sizes("merge", &[("out", &shape[..])])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn part(out: f32, lse: f32) -> AttentionOutput {
        let device = Device::flex();
        AttentionOutput {
            out: Tensor::from_floats([[[[out, -out]]]], &device),
            lse: Tensor::from_floats([[[lse]]], &device),
        }
    }

    fn values(merged: AttentionOutput) -> (Vec<f32>, f32) {
        (
            merged.out.into_data().try_to_vec().unwrap(),
            merged.lse.into_scalar(),
        )
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let (out, lse) = values(merge([part(1.0, 170.0), part(3.0, 170.0)]).unwrap());
        assert_eq!(out, [2.0, -2.0]);
        assert!((lse - (170.0 + 2f32.ln())).abs() < 1e-4);
    }

    #[test]
    fn parts_without_keys_do_not_count() {
        let none = f32::NEG_INFINITY;
        assert_eq!(
            values(merge([part(0.0, none), part(3.0, 1.5), part(0.0, none)]).unwrap()),
            (vec![3.0, -3.0], 1.5)
        );
        let (out, lse) = values(merge([part(0.0, none), part(0.0, none)]).unwrap());
        assert_eq!(out, [0.0, 0.0]);
        assert_eq!(lse, none);
    }

    #[test]
    fn nothing_merges_to_nothing() {
        assert!(merge([]).is_err());
    }
}
