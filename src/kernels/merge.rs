//! One attention out of parts of it.

use burn::tensor::{DType, Tensor};

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
    let mut merged = in_f32(first, shape)?;
    for part in parts {
        merged = merge_two(merged, in_f32(part, shape)?);
    }
    Ok(AttentionOutput {
        out: merged.out.cast(dtype),
        lse: merged.lse,
    })
}

/// A part in f32, which must have the shape of the first.
fn in_f32(part: AttentionOutput, shape: [usize; 4]) -> Result<AttentionOutput, KernelError> {
    let AttentionOutput { out, lse } = part;
    for (argument, expected, found) in [
        ("out", &shape[..], &out.dims()[..]),
        ("lse", &shape[..3], &lse.dims()),
    ] {
        if expected != found {
            let expected = format!("{expected:?}, as the first part");
            return Err(KernelError::shape("merge", argument, expected, found));
        }
    }
    Ok(AttentionOutput {
        out: out.cast(DType::F32),
        lse: lse.cast(DType::F32),
    })
}

/// Pairwise, so that no more than two parts are alive at once.
fn merge_two(a: AttentionOutput, b: AttentionOutput) -> AttentionOutput {
    let top = a.lse.clone().max_pair(b.lse.clone());
    // -inf minus -inf is NaN: where neither part has keys, shift by a finite number instead.
    let shift = top.clone().clamp_min(f32::MIN);
    let weight_a = (a.lse - shift.clone()).exp();
    let weight_b = (b.lse - shift.clone()).exp();
    let total = weight_a.clone() + weight_b.clone();
    // At least one weight is 1 wherever there are keys, so this changes only rows without any.
    let divisor = total.clone().clamp_min(f32::MIN_POSITIVE);
    let share =
        |out: Tensor<4>, weight: Tensor<3>| out * (weight / divisor.clone()).unsqueeze_dim(3);
    AttentionOutput {
        out: share(a.out, weight_a) + share(b.out, weight_b),
        lse: shift + total.log(),
    }
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
