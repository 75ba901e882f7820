//! Attention on vectors that an independent program computed in float64.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_apb::kernels::{AttentionOutput, Regions, merge, reference};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use crate::TOLERANCE;
use crate::places::places;
use crate::tensors::{largest_difference, values};

type Attend = Box<dyn Fn(Tensor<4>, Tensor<4>, Tensor<4>, Regions) -> AttentionOutput>;

/// The reference, and every device that computes with `dtype`.
fn implementations(dtype: DType) -> Vec<(&'static str, Attend)> {
    let mut all: Vec<(_, Attend)> = vec![("reference", Box::new(reference::attention))];
    for place in places() {
        if place.dtypes.contains(&dtype) {
            let name = place.name;
            all.push((name, Box::new(move |q, k, v, r| place.attend(q, k, v, r))));
        }
    }
    all
}

/// The tolerance where scores are large.
const HOT_TOLERANCE: f32 = 5e-4;

fn fixtures(prefix: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/attention");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| name(path).starts_with(prefix))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no fixtures {prefix}*");
    files
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn load<const D: usize>(file: &SafeTensors, name: &str) -> Tensor<D> {
    let view = file.tensor(name).unwrap();
    let dtype = match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => panic!("{name} holds {other:?}"),
    };
    let data = TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype);
    Tensor::from_data(data, (&Device::flex(), dtype))
}

/// `[rows, heads, head_dim]` as stored to `[1, heads, rows, head_dim]`.
fn heads_first(stored: Tensor<3>) -> Tensor<4> {
    stored.swap_dims(0, 1).unsqueeze()
}

/// `[rows, heads]` as stored to `[1, heads, rows]`.
fn lse_heads_first(stored: Tensor<2>) -> Tensor<3> {
    stored.swap_dims(0, 1).unsqueeze()
}

fn tolerance(path: &Path) -> f32 {
    match name(path).contains("_hot") {
        true => HOT_TOLERANCE,
        false => TOLERANCE,
    }
}

/// The largest error that rounding the expected values to `dtype` makes.
fn rounding_error(expected: &Tensor<4>, dtype: DType) -> f32 {
    largest_difference(expected.clone().cast(dtype), expected.clone())
}

#[test]
fn prefill_vectors() {
    for path in fixtures("prefill_") {
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let dims: Vec<i64> = bytemuck::pod_collect_to_vec(file.tensor("dims").unwrap().data());
        let regions = Regions {
            passing: dims[0] as usize,
            anchor: dims[1] as usize,
            causal: true,
        };
        let [q, k, v] = ["q", "k", "v"].map(|name| heads_first(load(&file, name)));
        let expected_out = heads_first(load(&file, "out"));
        let expected_lse = lse_heads_first(load(&file, "lse"));
        let allowed = match q.dtype() {
            DType::F32 => tolerance(&path),
            dtype => 2.0 * rounding_error(&expected_out, dtype),
        };
        for (which, attend) in implementations(q.dtype()) {
            let got = attend(q.clone(), k.clone(), v.clone(), regions);
            assert_eq!(got.out.dtype(), q.dtype());
            assert_eq!(got.lse.dtype(), DType::F32);
            let out = largest_difference(got.out, expected_out.clone());
            let lse = largest_difference(got.lse, expected_lse.clone());
            assert!(out <= allowed, "{which} {}: out off by {out}", name(&path));
            assert!(
                lse <= tolerance(&path),
                "{which} {}: lse off by {lse}",
                name(&path)
            );
        }
    }
}

#[test]
fn query_vectors_by_parts_and_merge() {
    for path in fixtures("query_") {
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let hosts: usize = metadata.metadata().as_ref().unwrap()["hosts"]
            .parse()
            .unwrap();
        let q = heads_first(load(&file, "q"));
        let allowed = tolerance(&path);
        for (which, attend) in implementations(q.dtype()) {
            let mut parts = Vec::new();
            for host in (0..hosts)
                .map(|host| host.to_string())
                .chain(["new".into()])
            {
                let [k, v] = ["k", "v"].map(|n| heads_first(load(&file, &format!("{n}.{host}"))));
                // Only the owner's part, which holds the query's own keys, is causal.
                let regions = match host == "new" {
                    true => Regions::causal(),
                    false => Regions::full(),
                };
                let part = attend(q.clone(), k, v, regions);
                let out = heads_first(load(&file, &format!("out.{host}")));
                let lse = lse_heads_first(load(&file, &format!("lse.{host}")));
                let label = format!("{which} {} part {host}", name(&path));
                assert!(
                    largest_difference(part.out.clone(), out) <= allowed,
                    "{label}: out"
                );
                assert!(
                    largest_difference(part.lse.clone(), lse) <= allowed,
                    "{label}: lse"
                );
                parts.push(part);
            }
            let merged = merge(parts).unwrap();
            let out = largest_difference(merged.out, heads_first(load(&file, "out")));
            let lse = largest_difference(merged.lse, lse_heads_first(load(&file, "lse")));
            assert!(
                out <= allowed && lse <= allowed,
                "{which} {}: merged out off by {out}, lse by {lse}",
                name(&path)
            );
        }
    }
}

#[test]
fn half_types_round_trip_in_fixtures() {
    // Guards the fixtures' loader: a half read as another type would still have plausible shapes.
    let bits = [f16::from_f32(1.5).to_bits(), bf16::from_f32(1.5).to_bits()];
    for (dtype, bits) in [(DType::F16, bits[0]), (DType::BF16, bits[1])] {
        let data = TensorData::from_bytes_vec(bits.to_le_bytes().to_vec(), [1], dtype);
        let tensor: Tensor<1> = Tensor::from_data(data, (&Device::flex(), dtype));
        assert_eq!(values(tensor), [1.5]);
    }
}
