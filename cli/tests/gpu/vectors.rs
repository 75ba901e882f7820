//! Attention against the vectors that a float64 program computed.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_apb::kernels::{Regions, attention, merge};
use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use super::setup::{Failures, device, fixtures, largest_difference, report, rounding_error, to};

/// Absolute tolerance in f32, and where scores are large.
const TOLERANCE: f32 = 1e-5;
const HOT_TOLERANCE: f32 = 5e-4;

fn files(prefix: &str) -> Vec<(String, Vec<u8>)> {
    let folder = fixtures().join("attention");
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let name = |path: &Path| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let files: Vec<_> = paths
        .iter()
        .filter(|path| name(path.as_path()).starts_with(prefix))
        .map(|path| (name(path), std::fs::read(path).expect("a vector")))
        .collect();
    assert!(!files.is_empty(), "no fixtures {prefix}*");
    files
}

/// `[rows, heads, ..]` as stored, on the CPU, with heads first and a batch of one.
fn load<const D: usize, const E: usize>(file: &SafeTensors, name: &str) -> Tensor<E> {
    let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let dtype = match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => panic!("{name} holds {other:?}"),
    };
    let data = TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype);
    let stored: Tensor<D> = Tensor::from_data(data, (&Device::flex(), dtype));
    stored.swap_dims(0, 1).unsqueeze()
}

fn tolerance(name: &str) -> f32 {
    match name.contains("_hot") {
        true => HOT_TOLERANCE,
        false => TOLERANCE,
    }
}

fn prefill(dtype: DType) {
    let Some(device) = device() else { return };
    let mut failures = Failures::default();
    for (name, bytes) in files("prefill_") {
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let tensors = ["q", "k", "v"].map(|name| load::<3, 4>(&file, name));
        if tensors[0].dtype() != dtype {
            continue;
        }
        let dims: Vec<i64> =
            bytemuck::pod_collect_to_vec(file.tensor("dims").expect("dims").data());
        let regions = Regions {
            passing: dims[0] as usize,
            anchor: dims[1] as usize,
            causal: true,
        };
        let (out, lse) = (load::<3, 4>(&file, "out"), load::<2, 3>(&file, "lse"));
        let allowed = match dtype {
            DType::F32 => tolerance(&name),
            dtype => 2.0 * rounding_error(&out, dtype),
        };
        let [q, k, v] = tensors.each_ref().map(|x| to(x, &device));
        let got = attention(q, k, v, regions).expect("the vector fits");
        let out = largest_difference(got.out, out);
        let lse = largest_difference(got.lse, lse);
        report(&json!({ "vector": name, "out": out, "out_allowed": allowed, "lse": lse }));
        failures.check(out <= allowed, || {
            format!("{name}: out off by {out}, {allowed} allowed")
        });
        failures.check(lse <= tolerance(&name), || {
            format!("{name}: lse off by {lse}")
        });
    }
    failures.finish();
}

#[test]
fn prefill_vectors_f32() {
    prefill(DType::F32);
}

#[test]
fn prefill_vectors_f16() {
    prefill(DType::F16);
}

#[test]
fn prefill_vectors_bf16() {
    prefill(DType::BF16);
}

#[test]
fn query_vectors_by_parts_and_merge() {
    let Some(device) = device() else { return };
    let mut failures = Failures::default();
    for (name, bytes) in files("query_") {
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let (_, metadata) = SafeTensors::read_metadata(&bytes).expect("a header");
        let hosts = &metadata.metadata().as_ref().expect("metadata")["hosts"];
        let hosts: usize = hosts.parse().expect("a number");
        let q = to(&load::<3, 4>(&file, "q"), &device);
        let allowed = tolerance(&name);
        let hosts = (0..hosts).map(|host| host.to_string());
        let parts = hosts.chain(["new".into()]).map(|host| {
            let [k, v] =
                ["k", "v"].map(|n| to(&load::<3, 4>(&file, &format!("{n}.{host}")), &device));
            // Only the owner's part, which holds the query's own keys, is causal.
            let regions = match host == "new" {
                true => Regions::causal(),
                false => Regions::full(),
            };
            attention(q.clone(), k, v, regions).expect("the part fits")
        });
        let merged = merge(parts).expect("parts");
        let out = largest_difference(merged.out, load::<3, 4>(&file, "out"));
        let lse = largest_difference(merged.lse, load::<2, 3>(&file, "lse"));
        report(&json!({ "vector": name, "out": out, "out_allowed": allowed, "lse": lse }));
        failures.check(out <= allowed && lse <= allowed, || {
            format!("{name}: merged out off by {out}, lse by {lse}")
        });
    }
    failures.finish();
}
