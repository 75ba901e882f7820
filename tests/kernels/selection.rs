//! What a compressor's scores lead to, against the references, on every device.

use burn::tensor::{DType, Int, Tensor, TensorData};
use burn_apb::kernels::{RowChoice, gather_rows, reference, select_rows, silu_scores};
use proptest::prelude::*;

use crate::places::Place;
use crate::properties::everywhere;
use crate::tensors::{largest_difference, noise, values};

fn indices(rows: Tensor<3, Int>) -> Vec<i32> {
    rows.into_data().try_to_vec().unwrap()
}

/// Scores with many ties, of both signs of zero, that are no numbers, and of any size.
fn any_score() -> impl Strategy<Value = f32> {
    prop_oneof![
        (-3i8..3).prop_map(f32::from),
        Just(-0.0),
        Just(f32::NAN),
        Just(f32::INFINITY),
        Just(f32::NEG_INFINITY),
        -1e3f32..1e3,
    ]
}

fn check_selection(
    place: &Place,
    scores: Tensor<3>,
    before: Tensor<3>,
    choice: RowChoice,
) -> Result<(), TestCaseError> {
    let expected = reference::select_rows(scores.clone(), before.clone(), choice.clone());
    // A tensor without elements does not travel.
    let before = (before.dims()[2] > 0).then(|| place.take(before));
    let got = select_rows(place.take(scores), before, choice).unwrap();
    prop_assert_eq!(got.dims(), expected.dims());
    prop_assert_eq!(got.dtype(), DType::I32);
    prop_assert_eq!(indices(got), indices(expected));
    Ok(())
}

#[test]
fn selected_rows_are_those_of_a_stable_sort() {
    let problems = (
        prop::collection::vec(any_score(), 4..160),
        0..4usize,
        (0..40usize, 0..90usize, 0..4usize),
    );
    everywhere(problems, |place, (scores, context, choice)| {
        let (start, count, reach) = choice;
        let rows = scores.len() / 2;
        let tensor = |values: &[f32], rows| {
            let data = TensorData::new(values[..2 * rows].to_vec(), [1, 2, rows]);
            Tensor::<3>::from_data(data, &burn::tensor::Device::flex())
        };
        let choice = RowChoice {
            selectable: start.min(rows)..rows,
            count,
            window: 2 * reach + 1,
        };
        let before = tensor(&scores.repeat(2), context);
        check_selection(place, tensor(&scores, rows), before, choice)
    });
}

#[test]
fn long_heads_are_selected_from() {
    let problems = (1000..6000usize, 1..1500usize, any::<bool>(), any::<u64>());
    everywhere(problems, |place, (rows, count, coarse, seed)| {
        let scores = noise([2, 2, rows], seed);
        let scores = match coarse {
            true => scores.mul_scalar(4.0).round(),
            false => scores,
        };
        let choice = RowChoice {
            selectable: 7..rows,
            count,
            window: 5,
        };
        check_selection(place, scores, noise([2, 2, 2], seed ^ 1), choice)
    });
}

#[test]
fn gathered_rows_equal_their_reference() {
    let problems = (
        (1..3usize, 1..4usize, 1..40usize, 1..70usize),
        0..30usize,
        0..3usize,
        any::<bool>(),
        any::<u64>(),
    );
    everywhere(problems, |place, (sizes, count, which, swapped, seed)| {
        let (batch, kv_heads, seq_kv, head_dim) = sizes;
        let dtype = place.dtypes[which % place.dtypes.len()];
        // Views: of a longer cache, or with the last dimension not the fastest.
        let cache = |seed| match swapped {
            true => noise([batch, kv_heads, head_dim, seq_kv + 3], seed).cast(dtype),
            false => noise([batch, kv_heads, seq_kv + 3, head_dim], seed).cast(dtype),
        };
        let view = |cache: Tensor<4>| match swapped {
            true => cache.swap_dims(2, 3).narrow(2, 2, seq_kv),
            false => cache.narrow(2, 2, seq_kv),
        };
        let (keys, vals) = (cache(seed), cache(seed ^ 1));
        // Some lie outside.
        let rows = noise([batch, kv_heads, count.max(1)], seed ^ 2).mul_scalar(seq_kv as f32 + 2.0);
        let rows = rows.int().cast(DType::I32).narrow(2, 0, count.max(1));
        let expected = reference::gather_rows(view(keys.clone()), view(vals.clone()), rows.clone());
        let got = gather_rows(
            view(place.take(keys)),
            view(place.take(vals)),
            rows.to_device(&place.device),
        );
        let got = got.unwrap();
        prop_assert_eq!(got.dtype(), dtype);
        prop_assert_eq!(got.dims(), expected.dims());
        prop_assert_eq!(values(got), values(expected));
        Ok(())
    });
}

#[test]
fn scores_equal_their_reference() {
    let problems = (
        (1..3usize, 1..70usize, 1..300usize),
        prop_oneof![Just(1usize), Just(3), Just(8), Just(40)],
        (0..3usize, 0..3usize),
        any::<bool>(),
        any::<u64>(),
    );
    everywhere(problems, |place, (sizes, outputs, which, stored, seed)| {
        let (batch, rows, width) = sizes;
        let dtypes = [which.0, which.1].map(|i| place.dtypes[i % place.dtypes.len()]);
        let hidden = noise([batch, rows, width], seed)
            .mul_scalar(4.0)
            .cast(dtypes[0]);
        let shape = match stored {
            true => [outputs, width],
            false => [width, outputs],
        };
        let weight = noise(shape, seed ^ 1).cast(dtypes[1]);
        let turned = |weight: Tensor<2>| match stored {
            true => weight.transpose(),
            false => weight,
        };
        let expected = reference::silu_scores(hidden.clone(), turned(weight.clone()));
        let got = silu_scores(place.take(hidden), turned(place.take(weight))).unwrap();
        prop_assert_eq!(got.dtype(), DType::F32);
        let largest = values(expected.clone())
            .into_iter()
            .fold(1.0f32, |m, x| m.max(x.abs()));
        let error = largest_difference(got, expected);
        prop_assert!(error <= 3e-6 * largest, "off by {} of {}", error, largest);
        Ok(())
    });
}
