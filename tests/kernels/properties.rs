//! Every operation against its reference in plain tensors, on every device.

use burn::tensor::{DType, Tensor};
use burn_apb::kernels::{
    Regions, add_rms_norm, attention, linear, reference, rms_norm, rotate, silu_mul,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};

use crate::TOLERANCE;
use crate::places::{Place, give, places};
use crate::tensors::{Memory, laid_out, largest_difference, noise, values};

/// Runs a property on every device with as many cases as that one deserves.
pub fn everywhere<S: Strategy>(strategy: S, property: impl Fn(&Place, S::Value) -> TestCaseResult) {
    on_cases(|place| place.cases, strategy, property);
}

fn on_cases<S: Strategy>(
    cases: impl Fn(&Place) -> u32,
    strategy: S,
    property: impl Fn(&Place, S::Value) -> TestCaseResult,
) {
    for place in places() {
        let mut runner = TestRunner::new(Config {
            cases: cases(&place),
            source_file: Some(file!()),
            ..Config::default()
        });
        if let Err(failure) = runner.run(&strategy, |value| property(&place, value)) {
            panic!("{}: {failure}", place.name);
        }
    }
}

/// One of the element types that a device computes with; f32 more often than the others.
fn one_of(dtypes: &[DType], which: usize) -> DType {
    dtypes[which.saturating_sub(1) % dtypes.len()]
}

fn any_memory() -> impl Strategy<Value = Memory> {
    prop_oneof![
        Just(Memory::Plain),
        Just(Memory::SeqFirst),
        Just(Memory::Cache),
        Just(Memory::Begun),
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

#[test]
fn attention_equals_reference() {
    let problems = (
        any_regions(),
        (1..3usize, 1..4usize, 1..8usize),
        prop_oneof![
            Just(64usize),
            Just(80),
            Just(96),
            Just(128),
            Just(256),
            1..70usize
        ],
        0..4usize,
        (any_memory(), any_memory(), any_memory()),
        any::<u64>(),
    );
    everywhere(
        problems,
        |place, (regions, sizes, head_dim, which, memory, seed)| {
            let (passing, anchor, local, rows, causal) = regions;
            let (batch, kv_heads, group) = sizes;
            let dtype = one_of(&place.dtypes, which);
            let keys = passing + anchor + local;
            let regions = Regions {
                passing,
                anchor,
                causal,
            };
            let q = noise([batch, kv_heads * group, rows, head_dim], seed)
                .mul_scalar(3.0)
                .cast(dtype);
            let k = noise([batch, kv_heads, keys, head_dim], seed ^ 1).cast(dtype);
            let v = noise([batch, kv_heads, keys, head_dim], seed ^ 2).cast(dtype);
            let expected = reference::attention(q.clone(), k.clone(), v.clone(), regions);
            let got = attention(
                laid_out(place.take(q), memory.0),
                laid_out(place.take(k), memory.1),
                laid_out(place.take(v), memory.2),
                regions,
            );
            let got = give(got.unwrap());
            let unit = match dtype {
                DType::F32 => 0.0,
                DType::F16 => 1e-3,
                _ => 8e-3,
            };
            let out = largest_difference(got.out, expected.out);
            let lse = largest_difference(got.lse, expected.lse);
            prop_assert!(out <= TOLERANCE + unit, "out off by {}", out);
            prop_assert!(lse <= TOLERANCE, "lse off by {}", lse);
            Ok(())
        },
    );
}

#[test]
fn linear_equals_reference() {
    let problems = (
        prop_oneof![1..9usize, 1..80usize],
        prop_oneof![1..70usize, Just(256usize), 500..700usize],
        prop_oneof![1..120usize, 300..420usize],
        (0..3usize, 0..3usize),
        (any::<bool>(), any::<bool>()),
        any::<u64>(),
    );
    on_cases(
        |place| place.products,
        problems,
        |place, (rows, d_input, d_output, which, kinds, seed)| {
            let (biased, stored_as_used) = kinds;
            let dtypes = [which.0, which.1].map(|i| place.dtypes[i % place.dtypes.len()]);
            let x = noise([2, rows, d_input], seed).cast(dtypes[0]);
            let (stored, turn): (Tensor<2>, fn(Tensor<2>) -> Tensor<2>) = match stored_as_used {
                true => (noise([d_input, d_output], seed ^ 1), |weight| weight),
                false => (noise([d_output, d_input], seed ^ 1), |weight| {
                    weight.transpose()
                }),
            };
            let stored = stored.cast(dtypes[1]);
            let bias = biased.then(|| noise([d_output], seed ^ 2));
            let expected = reference::linear(x.clone(), turn(stored.clone()), bias.clone());
            let bias = bias.map(|bias| place.take(bias));
            let got = linear(place.take(x), turn(place.take(stored)), bias).unwrap();
            prop_assert_eq!(got.dtype(), dtypes[0]);
            let largest = values(expected.clone())
                .into_iter()
                .fold(1.0f32, |m, x| m.max(x.abs()));
            let unit = match dtypes[0] {
                DType::F32 => 2e-6,
                DType::F16 => 1e-3,
                _ => 8e-3,
            };
            let error = largest_difference(got, expected);
            prop_assert!(error <= unit * largest, "off by {} of {}", error, largest);
            Ok(())
        },
    );
}

#[test]
fn small_operations_equal_their_references() {
    let problems = (
        (1..3usize, 1..40usize, 1..5usize, 1..40usize),
        0..3usize,
        prop_oneof![Just(1.0f32), Just(60.0), Just(1e-4)],
        any::<u64>(),
    );
    everywhere(problems, |place, (sizes, which, scale, seed)| {
        let (batch, seq, heads, half) = sizes;
        let which = which % place.dtypes.len();
        let dtype = place.dtypes[which];
        let width = 2 * half * heads;
        let x = noise([batch, seq, width], seed)
            .mul_scalar(scale)
            .cast(dtype);
        let y = noise([batch, seq, width], seed ^ 1).cast(dtype);
        let (x_there, y_there) = (place.take(x.clone()), place.take(y.clone()));
        let (unit, least) = match dtype {
            DType::F32 => (3e-6, 0.0),
            // The spacing of the smallest f16, which is larger than their relative precision.
            DType::F16 => (1e-3, 6e-8),
            _ => (8e-3, 0.0),
        };
        let close = |got: Vec<f32>, expected: Vec<f32>| {
            got.iter()
                .zip(&expected)
                .all(|(a, b)| (a - b).abs() <= least + unit * (b.abs() + 1e-3 * scale))
        };

        let gamma = noise([width], seed ^ 2);
        let got = rms_norm(x_there.clone(), place.take(gamma.clone()), 1e-5).unwrap();
        prop_assert_eq!(got.dtype(), dtype);
        prop_assert!(
            close(
                values(got),
                values(reference::rms_norm(x.clone(), gamma, 1e-5))
            ),
            "norm"
        );

        let gamma = noise([width], seed ^ 3);
        let there = (x_there.clone(), y_there.clone(), place.take(gamma.clone()));
        let (sum, normed) = add_rms_norm(there.0, there.1, there.2, 1e-5).unwrap();
        prop_assert_eq!((sum.dtype(), normed.dtype()), (dtype, dtype));
        let sum = values(sum);
        let expected = x.clone() + y.clone();
        prop_assert!(close(sum.clone(), values(expected)), "sum");
        // The norm is that of the sum as it was rounded.
        let sum = Tensor::<1>::from_floats(&sum[..], &x.device()).reshape(x.dims());
        let normed_sum = reference::rms_norm(sum.cast(dtype), gamma, 1e-5);
        prop_assert!(close(values(normed), values(normed_sum)), "norm of the sum");

        let got = silu_mul(x_there.clone(), y_there).unwrap();
        prop_assert_eq!(got.dtype(), dtype);
        prop_assert!(
            close(values(got), values(reference::silu_mul(x.clone(), y))),
            "gate"
        );

        let angle = noise([seq, half], seed ^ 3).mul_scalar(7.0);
        let (cos, sin) = (angle.clone().cos(), angle.sin());
        let got = rotate(
            x_there,
            place.take(cos.clone()),
            place.take(sin.clone()),
            heads,
        )
        .unwrap();
        prop_assert_eq!(got.dtype(), dtype);
        prop_assert_eq!(got.dims(), [batch, heads, seq, 2 * half]);
        let expected = reference::rotate(x, cos, sin, heads);
        prop_assert!(
            largest_difference(got, expected) <= 2.0 * unit * scale,
            "rotation"
        );
        Ok(())
    });
}
