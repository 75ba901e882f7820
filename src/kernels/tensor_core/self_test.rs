//! A small problem of attention on the device, before the first that many rows take part in. Where its result is wrong,
//! kernels on `wgmma` are not chosen any more, and those on `mma.sync` take over.

#[cfg(feature = "cuda")]
use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Device, Tensor, TensorData};

#[cfg(feature = "cuda")]
use super::choice::{self, Choice};
#[cfg(feature = "cuda")]
use super::table::FEW_ROWS;
use crate::kernels::{AttentionOutput, KernelError, Regions, reference};

/// Rows and keys: several blocks of each, the last ones short.
#[cfg(feature = "cuda")]
const LENGTH: usize = 601;
const HEADS: usize = 2;
/// The largest difference from f32: values are below 1, and weights and outputs are rounded to 16 bits.
const OUT: f32 = 0.02;
/// And of the lse, whose products are exact and whose sums are f32.
const LSE: f32 = 1e-3;

/// Tests a CUDA device once in a process for each dtype and `head_dim`, where `rows` packed rows take kernels on `wgmma`.
#[cfg(feature = "cuda")]
pub fn before(device: &Device, dtype: DType, head_dim: usize, rows: usize) {
    static TESTED: Mutex<Vec<(Device, DType, usize)>> = Mutex::new(Vec::new());
    if rows <= FEW_ROWS
        || !matches!(dtype, DType::F16 | DType::BF16)
        || !crate::kernels::extension::is_cuda(device)
        || Choice::of_environment() != Choice::Best
    {
        return;
    }
    let this = (device.clone(), dtype, head_dim);
    let mut tested = TESTED.lock().unwrap_or_else(PoisonError::into_inner);
    if tested.contains(&this) {
        return;
    }
    // Before the test, whose attention comes here too.
    tested.push(this);
    drop(tested);
    if let Err(found) = test(device, dtype, [LENGTH, head_dim], crate::kernels::attention) {
        tracing::warn!(
            "attention on this device's tensor cores was wrong on a small problem ({found}); kernels on wgmma are not used"
        );
        choice::refuse_wgmma();
    }
}

/// What is wrong with `attention` on so many rows and keys, if anything.
fn test(
    device: &Device,
    dtype: DType,
    [length, head_dim]: [usize; 2],
    attention: impl Fn(Tensor<4>, Tensor<4>, Tensor<4>, Regions) -> Result<AttentionOutput, KernelError>,
) -> Result<(), String> {
    let host = Device::flex();
    let inputs = |device: &Device, dtype: DType| {
        [(1, HEADS), (2, 1), (3, 1)].map(|(salt, heads)| {
            let count = heads * length * head_dim;
            let data = TensorData::new(values(salt, count), [1, heads, length, head_dim]);
            Tensor::<4>::from_data(data, (device, dtype))
        })
    };
    let regions = Regions::causal();
    let [q, k, v] = inputs(&host, DType::F32);
    let expected = reference::attention(q, k, v, regions);
    let [q, k, v] = inputs(device, dtype);
    let found = attention(q, k, v, regions).map_err(|error| error.to_string())?;
    compare("output", expected.out, found.out, OUT)?;
    compare("lse", expected.lse, found.lse, LSE)
}

/// From -1 to 1 in steps of 1/128, which both dtypes of 16 bits hold.
fn values(salt: u32, count: usize) -> Vec<f32> {
    let value = |index: usize| {
        let mixed = (index as u32 ^ salt << 24).wrapping_mul(2_654_435_761) >> 24;
        (mixed as f32 - 128.0) / 128.0
    };
    (0..count).map(value).collect()
}

fn compare<const D: usize>(
    what: &str,
    expected: Tensor<D>,
    found: Tensor<D>,
    allowed: f32,
) -> Result<(), String> {
    let read = |tensor: Tensor<D>| tensor.try_into_data().map_err(|error| error.to_string());
    let (expected, found) = (read(expected)?, read(found)?);
    let pairs = expected.iter::<f32>().zip(found.iter::<f32>());
    for (index, (expected, found)) in pairs.enumerate() {
        // Of what is no number, no difference is small.
        let near = (expected - found).abs() <= allowed;
        if !near {
            return Err(format!("{what} {index}: {found}, not {expected}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::attention;

    const LENGTH: usize = 40;

    fn tested(
        spoil: impl Fn(AttentionOutput) -> AttentionOutput,
        dtype: DType,
    ) -> Result<(), String> {
        let spoiled = |q, k, v, regions| attention(q, k, v, regions).map(&spoil);
        test(&Device::flex(), dtype, [LENGTH, 64], spoiled)
    }

    #[test]
    fn what_is_right_passes_and_what_is_wrong_does_not() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            assert_eq!(tested(|right| right, dtype), Ok(()), "{dtype:?}");
        }
        let of_out = |change: fn(Tensor<4>) -> Tensor<4>| {
            let spoil = move |right: AttentionOutput| AttentionOutput {
                out: change(right.out),
                lse: right.lse,
            };
            tested(spoil, DType::BF16)
        };
        // Another head's rows, the rows before, one column, nothing written, nothing that is a number.
        assert!(of_out(|out| out.flip([1])).is_err());
        assert!(of_out(|out| out.roll_dim(1, 2)).is_err());
        assert!(
            of_out(|out| {
                let column = out.clone().slice([0..1, 0..2, 0..LENGTH, 5..6]) * 1.5;
                out.slice_assign([0..1, 0..2, 0..LENGTH, 5..6], column)
            })
            .is_err()
        );
        assert!(of_out(|out| out.zeros_like()).is_err());
        assert!(of_out(|out| out.full_like(f32::NAN)).is_err());
        let of_lse = |right: AttentionOutput| AttentionOutput {
            lse: right.lse + 0.01,
            out: right.out,
        };
        assert!(tested(of_lse, DType::BF16).is_err());
    }
}
