//! Device, fixtures and comparisons.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, DeviceType, Tensor};
use serde_json::Value;

pub use crate::noise::noise;

/// The device that the environment names; none where it is not there and may be missing.
pub fn device() -> Option<Device> {
    if on_cpu() {
        return Some(Device::flex());
    }
    if Device::enumerate(DeviceType::Cuda)
        .into_iter()
        .next()
        .is_some()
    {
        return Some(Device::cuda(0));
    }
    assert!(
        std::env::var_os("APB_REQUIRE_CUDA").is_none(),
        "no CUDA device; `apb doctor` says what is missing"
    );
    println!("skipped: no CUDA device");
    None
}

/// Whether the checks run on the CPU's kernels.
pub fn on_cpu() -> bool {
    std::env::var("APB_TEST_DEVICE").is_ok_and(|name| name == "cpu")
}

/// Whose products are measured.
pub fn products() -> String {
    #[cfg(feature = "cuda")]
    if !on_cpu() {
        return match burn_apb::kernels::cublaslt_version() {
            Ok(version) => format!("cuBLASLt {version}"),
            Err(reason) => format!("Burn's: {reason}"),
        };
    }
    "the CPU's".into()
}

/// Whether products of f32 are computed in f32. Burn's run on CUDA's tensor cores as tf32, whose inputs are rounded to
/// 10 bits.
pub fn exact_products() -> bool {
    !products().starts_with("Burn's")
}

/// `tests/fixtures`, or where a bundle carries them.
pub fn fixtures() -> PathBuf {
    std::env::var_os("APB_TEST_FIXTURES").map_or_else(
        || Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/fixtures"),
        PathBuf::from,
    )
}

/// A line that `scripts/gpu-check` gathers.
pub fn report(value: &Value) {
    println!("RESULT {value}");
}

/// A copy on another device, in the order of its dimensions and with its dtype.
pub fn to<const D: usize>(tensor: &Tensor<D>, device: &Device) -> Tensor<D> {
    let dtype = tensor.dtype();
    Tensor::from_data(tensor.clone().into_data(), (device, dtype))
}

/// Elements in f32.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .cast(DType::F32)
        .into_data()
        .try_to_vec()
        .expect("f32")
}

/// The largest difference; NaN and infinities only equal themselves.
pub fn largest_difference<const D: usize>(got: Tensor<D>, expected: Tensor<D>) -> f32 {
    assert_eq!(got.dims(), expected.dims());
    let mut got = values(got);
    if std::env::var_os("APB_TEST_SPOIL").is_some()
        && let Some(last) = got.last_mut()
    {
        *last += 1.0;
    }
    let differences = got.iter().zip(values(expected)).map(|(a, b)| {
        if *a == b || (a.is_nan() && b.is_nan()) {
            0.0
        } else {
            (a - b).abs()
        }
    });
    differences.fold(0.0, |most, x| if x <= most { most } else { x })
}

/// The largest error that rounding to `dtype` makes.
pub fn rounding_error<const D: usize>(expected: &Tensor<D>, dtype: DType) -> f32 {
    let expected = expected.clone().cast(DType::F32);
    let (rounded, exact) = (values(expected.clone().cast(dtype)), values(expected));
    let differences = rounded.iter().zip(&exact).map(|(a, b)| (a - b).abs());
    differences.filter(|x| x.is_finite()).fold(0.0, f32::max)
}

/// Gathers what went wrong, so that one failure does not hide the next.
#[derive(Default)]
pub struct Failures {
    checks: usize,
    lines: Vec<String>,
}

impl Failures {
    /// Counts a check, and keeps its line where it failed.
    pub fn check(&mut self, passed: bool, line: impl FnOnce() -> String) {
        self.checks += 1;
        if !passed {
            let line = line();
            println!("FAILED {line}");
            self.lines.push(line);
        }
    }

    /// Fails the test if any check did.
    pub fn finish(self) {
        report(&serde_json::json!({ "checks": self.checks, "failed": self.lines.len() }));
        assert!(self.checks > 0, "nothing was checked");
        assert!(
            self.lines.is_empty(),
            "{} of {} checks failed, first: {}",
            self.lines.len(),
            self.checks,
            self.lines[0]
        );
    }
}
