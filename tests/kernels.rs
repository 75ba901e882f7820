//! Kernels against vectors computed in float64, and against their references in plain tensors.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_apb::kernels::{
    AttentionOutput, KernelError, Regions, attention, linear, linear_reference, merge, reference,
    rms_norm, rms_norm_reference, rotate, rotate_reference, silu_mul, silu_mul_reference,
};
use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors};

/// Absolute tolerance of f32 results against float64, and the wider one where scores are large.
const TOLERANCE: f32 = 1e-5;
const HOT_TOLERANCE: f32 = 5e-4;

type Attend = fn(Tensor<4>, Tensor<4>, Tensor<4>, Regions) -> AttentionOutput;

fn fast(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, regions: Regions) -> AttentionOutput {
    attention(q, k, v, regions).unwrap()
}

const IMPLEMENTATIONS: [(&str, Attend); 2] = [("reference", reference::attention), ("flex", fast)];

// ------------------------------------------------------------------------------------- fixtures

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

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.cast(DType::F32).into_data().try_to_vec().unwrap()
}

fn largest_difference<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
    assert_eq!(a.dims(), b.dims());
    values(a)
        .into_iter()
        .zip(values(b))
        .map(|(a, b)| match a == b {
            // Covers infinities, whose difference is not a number.
            true => 0.0,
            false => (a - b).abs(),
        })
        .fold(0.0, |largest, x| if x <= largest { largest } else { x })
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
        for (which, attend) in IMPLEMENTATIONS {
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
        for (which, attend) in IMPLEMENTATIONS {
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

// ----------------------------------------------------------------------------------- properties

/// Deterministic values in -1..1.
fn noise<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// How a `[batch, heads, seq, head_dim]` tensor lies in memory.
#[derive(Debug, Clone, Copy)]
enum Memory {
    /// In the order of its dimensions.
    Plain,
    /// As a projection leaves it: `[batch, seq, heads, head_dim]`.
    SeqFirst,
    /// A slice of a larger cache whose other rows hold NaN.
    Cache,
    /// `head_dim` is not the fastest dimension.
    Transposed,
    /// Last row first.
    Reversed,
}

fn laid_out(tensor: Tensor<4>, memory: Memory) -> Tensor<4> {
    let [batch, heads, seq, head_dim] = tensor.dims();
    let device = tensor.device();
    let dtype = tensor.dtype();
    let nan = |rows| Tensor::full([batch, heads, rows, head_dim], f32::NAN, (&device, dtype));
    match memory {
        Memory::Plain => tensor,
        Memory::SeqFirst => compact(tensor.swap_dims(1, 2)).swap_dims(1, 2),
        Memory::Transposed => compact(tensor.swap_dims(2, 3)).swap_dims(2, 3),
        Memory::Cache => Tensor::cat(vec![nan(3), tensor, nan(5)], 2).narrow(2, 3, seq),
        Memory::Reversed => compact(tensor.flip([2])).flip([2]),
    }
}

fn compact(tensor: Tensor<4>) -> Tensor<4> {
    let dtype = tensor.dtype();
    let device = tensor.device();
    Tensor::from_data(tensor.into_data(), (&device, dtype))
}

fn any_memory() -> impl Strategy<Value = Memory> {
    prop_oneof![
        Just(Memory::Plain),
        Just(Memory::SeqFirst),
        Just(Memory::Cache),
        Just(Memory::Transposed),
        Just(Memory::Reversed),
    ]
}

/// `(passing, anchor, local, rows, causal)`, with rows at most the keys they can stand at.
fn any_regions() -> impl Strategy<Value = (usize, usize, usize, usize, bool)> {
    (
        0..90usize,
        0..40usize,
        1..90usize,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_flat_map(|(passing, anchor, local, causal, plain)| {
            let (passing, anchor) = if plain { (0, 0) } else { (passing, anchor) };
            // Rows beyond the keys are allowed where nothing but the causal limit is asked for.
            let most = if plain { local + 20 } else { anchor + local };
            let rows = prop_oneof![Just(1), 1..=8.min(most), 1..=most];
            (Just(passing), Just(anchor), Just(local), rows, Just(causal))
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn attention_equals_reference(
        (passing, anchor, local, rows, causal) in any_regions(),
        (batch, kv_heads, group) in (1..3usize, 1..4usize, 1..8usize),
        head_dim in prop_oneof![Just(64usize), Just(80), Just(128), 1..70usize],
        dtype in prop_oneof![Just(DType::F32), Just(DType::F32), Just(DType::F16), Just(DType::BF16)],
        memory in (any_memory(), any_memory(), any_memory()),
        seed in any::<u64>(),
    ) {
        let keys = passing + anchor + local;
        let regions = Regions { passing, anchor, causal };
        let q = noise([batch, kv_heads * group, rows, head_dim], seed).mul_scalar(3.0).cast(dtype);
        let k = noise([batch, kv_heads, keys, head_dim], seed ^ 1).cast(dtype);
        let v = noise([batch, kv_heads, keys, head_dim], seed ^ 2).cast(dtype);
        let expected = reference::attention(q.clone(), k.clone(), v.clone(), regions);
        let got = attention(
            laid_out(q, memory.0),
            laid_out(k, memory.1),
            laid_out(v, memory.2),
            regions,
        )
        .unwrap();
        let unit = match dtype { DType::F32 => 0.0, DType::F16 => 1e-3, _ => 8e-3 };
        let out = largest_difference(got.out, expected.out);
        let lse = largest_difference(got.lse, expected.lse);
        prop_assert!(out <= TOLERANCE + unit, "out off by {}", out);
        prop_assert!(lse <= TOLERANCE, "lse off by {}", lse);
    }

    #[test]
    fn linear_equals_reference(
        rows in prop_oneof![1..9usize, 1..80usize],
        d_input in prop_oneof![1..70usize, Just(256usize), 500..700usize],
        d_output in prop_oneof![1..120usize, 300..420usize],
        dtypes in (0..3usize, 0..3usize),
        (biased, stored_as_used) in (any::<bool>(), any::<bool>()),
        seed in any::<u64>(),
    ) {
        let dtypes = [dtypes.0, dtypes.1].map(|i| [DType::F32, DType::F16, DType::BF16][i]);
        let x = noise([2, rows, d_input], seed).cast(dtypes[0]);
        let weight = match stored_as_used {
            true => noise([d_input, d_output], seed ^ 1).cast(dtypes[1]),
            false => noise([d_output, d_input], seed ^ 1).cast(dtypes[1]).transpose(),
        };
        let bias = biased.then(|| noise([d_output], seed ^ 2));
        let expected = linear_reference(x.clone(), weight.clone(), bias.clone());
        let got = linear(x, weight, bias).unwrap();
        prop_assert_eq!(got.dtype(), dtypes[0]);
        let largest = values(expected.clone()).into_iter().fold(1.0f32, |m, x| m.max(x.abs()));
        let unit = match dtypes[0] { DType::F32 => 2e-6, DType::F16 => 1e-3, _ => 8e-3 };
        let error = largest_difference(got, expected);
        prop_assert!(error <= unit * largest, "off by {} of {}", error, largest);
    }

    #[test]
    fn small_operations_equal_their_references(
        (batch, seq, heads, half) in (1..3usize, 1..40usize, 1..5usize, 1..40usize),
        which in 0..3usize,
        scale in prop_oneof![Just(1.0f32), Just(60.0), Just(1e-4)],
        seed in any::<u64>(),
    ) {
        let dtype = [DType::F32, DType::F16, DType::BF16][which];
        let width = 2 * half * heads;
        let x = noise([batch, seq, width], seed).mul_scalar(scale).cast(dtype);
        let y = noise([batch, seq, width], seed ^ 1).cast(dtype);
        let unit = [3e-6, 1e-3, 8e-3][which];
        // The distance of the smallest f16, which lie further apart than their size says.
        let least = [0.0, 6e-8, 0.0][which];
        let close = |got: Vec<f32>, expected: Vec<f32>| {
            got.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= least + unit * (b.abs() + 1e-3 * scale))
        };

        let gamma = noise([width], seed ^ 2);
        let got = rms_norm(x.clone(), gamma.clone(), 1e-5).unwrap();
        prop_assert_eq!(got.dtype(), dtype);
        prop_assert!(close(values(got), values(rms_norm_reference(x.clone(), gamma, 1e-5))), "norm");

        let got = silu_mul(x.clone(), y.clone()).unwrap();
        prop_assert_eq!(got.dtype(), dtype);
        prop_assert!(close(values(got), values(silu_mul_reference(x.clone(), y))), "gate");

        let angle = noise([seq, half], seed ^ 3).mul_scalar(7.0);
        let (cos, sin) = (angle.clone().cos(), angle.sin());
        let got = rotate(x.clone(), cos.clone(), sin.clone(), heads).unwrap();
        prop_assert_eq!(got.dtype(), dtype);
        prop_assert_eq!(got.dims(), [batch, heads, seq, 2 * half]);
        let expected = rotate_reference(x, cos, sin, heads);
        prop_assert!(largest_difference(got, expected) <= 2.0 * unit * scale, "rotation");
    }
}

// --------------------------------------------------------------------------------- poisoned keys

/// Attention with NaN in key and value `poisoned`, and the same with that key clean.
fn poison(rows: usize, keys: usize, poisoned: usize, regions: Regions) -> [AttentionOutput; 2] {
    let q = noise([1, 6, rows, 64], 7);
    let [k, v] = [8, 9].map(|seed| noise([1, 2, keys, 64], seed));
    let spoil = |x: Tensor<4>| x.slice_fill([0..1, 0..2, poisoned..poisoned + 1, 0..64], f32::NAN);
    [
        attention(q.clone(), spoil(k.clone()), spoil(v.clone()), regions).unwrap(),
        attention(q, k, v, regions).unwrap(),
    ]
}

#[test]
fn garbage_in_hidden_keys_never_shows_and_in_seen_keys_does() {
    let regions = |passing, anchor, causal| Regions {
        passing,
        anchor,
        causal,
    };
    for (rows, keys, regions) in [
        (1, 40, regions(0, 0, true)),
        (2, 200, regions(0, 0, true)),
        (3, 40, regions(0, 0, true)),
        (6, 40, regions(20, 10, true)),
        (40, 40, regions(0, 0, true)),
        (90, 130, regions(40, 30, true)),
        (300, 300, regions(0, 0, true)),
        (90, 130, regions(40, 30, false)),
    ] {
        for poisoned in [0, keys / 3, keys / 2, keys - 2, keys - 1] {
            let [spoiled, clean] = poison(rows, keys, poisoned, regions);
            for row in 0..rows {
                let seen = regions.visible_keys(row, rows, keys).contains(&poisoned);
                let out = |o: &AttentionOutput| values(o.out.clone().narrow(2, row, 1));
                let lse = |o: &AttentionOutput| values(o.lse.clone().narrow(2, row, 1));
                let label =
                    format!("{rows} rows, {keys} keys, {regions:?}: key {poisoned}, row {row}");
                if seen {
                    assert!(out(&spoiled).iter().all(|x| x.is_nan()), "{label}");
                    assert!(lse(&spoiled).iter().all(|x| x.is_nan()), "{label}");
                } else {
                    assert_eq!(out(&spoiled), out(&clean), "{label}");
                    assert_eq!(lse(&spoiled), lse(&clean), "{label}");
                }
            }
        }
    }
}

#[test]
fn rows_without_keys_are_zero_with_minus_infinity() {
    for (rows, keys) in [(5, 2), (90, 30), (1, 0), (70, 0)] {
        let q = noise([1, 3, rows, 64], 1);
        let k = noise([1, 1, keys, 64], 2);
        let got = attention(q, k.clone(), k, Regions::causal()).unwrap();
        let blind = rows - keys;
        assert!(
            values(got.out.narrow(2, 0, blind))
                .iter()
                .all(|x| *x == 0.0)
        );
        let lse = values(got.lse.narrow(2, 0, blind));
        assert!(lse.iter().all(|x| *x == f32::NEG_INFINITY));
    }
}

#[test]
fn many_keys_for_few_rows() {
    // Long enough to be split over threads.
    for (rows, keys) in [(1, 5000), (4, 3000), (20, 4100)] {
        let q = noise([1, 6, rows, 64], 1).mul_scalar(4.0);
        let [k, v] = [2, 3].map(|seed| noise([1, 2, keys, 64], seed));
        let got = attention(q.clone(), k.clone(), v.clone(), Regions::causal()).unwrap();
        let expected = reference::attention(q, k, v, Regions::causal());
        assert!(largest_difference(got.out, expected.out) <= TOLERANCE);
        assert!(largest_difference(got.lse, expected.lse) <= TOLERANCE);
    }
}

// --------------------------------------------------------------------------------------- refusals

#[test]
fn arguments_that_do_not_fit_are_refused_by_name() {
    let q = noise([1, 4, 3, 8], 1);
    let k = noise([1, 2, 5, 8], 2);
    let shape = |result: Result<_, KernelError>, wrong: &str| match result {
        Err(KernelError::Shape { argument, .. }) => assert_eq!(argument, wrong),
        other => panic!("{other:?}"),
    };
    let causal = Regions::causal();
    shape(
        attention(q.clone(), k.clone(), noise([1, 2, 6, 8], 3), causal).map(drop),
        "v",
    );
    shape(
        attention(q.clone(), noise([1, 2, 5, 4], 3), k.clone(), causal).map(drop),
        "k",
    );
    assert!(matches!(
        attention(noise([1, 3, 3, 8], 1), k.clone(), k.clone(), causal),
        Err(KernelError::Heads {
            heads: 3,
            kv_heads: 2
        })
    ));
    assert!(matches!(
        attention(q.clone(), k.clone().cast(DType::F16), k.clone(), causal),
        Err(KernelError::DType { argument: "k", .. })
    ));
    let regions = Regions {
        passing: 3,
        anchor: 1,
        causal: true,
    };
    let refused = attention(q, k.clone(), k, regions);
    assert!(matches!(refused, Err(KernelError::Regions { .. })));

    let weight = noise([8, 5], 1);
    shape(
        linear(noise([2, 7], 1), weight.clone(), None).map(drop),
        "x",
    );
    shape(
        linear(noise([2, 8], 1), weight, Some(noise([4], 1))).map(drop),
        "bias",
    );
    shape(
        rms_norm(noise([2, 8], 1), noise([7], 1), 1e-5).map(drop),
        "gamma",
    );
    shape(silu_mul(noise([2, 8], 1), noise([2, 7], 1)).map(drop), "up");
    let table = noise([3, 4], 1);
    shape(
        rotate(noise([1, 3, 24], 1), table.clone(), noise([3, 3], 1), 3).map(drop),
        "sin",
    );
    shape(
        rotate(noise([1, 3, 25], 1), table.clone(), table, 3).map(drop),
        "x",
    );
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
