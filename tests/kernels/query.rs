//! Scores of the query, views of a cache, and the search for what is not finite, on every device.

use burn::tensor::{DType, Tensor};
use burn_apb::apb::compressor::{Compressor, QueryAware, ScoreInput};
use burn_apb::kernels::not_finite;
use burn_apb::model::{AttentionShape, KvCache, KvDType, Projections};
use proptest::prelude::*;

use crate::places::{Place, places};
use crate::properties::everywhere;
use crate::tensors::{noise, values};

/// Queries and keys as a layer gives them; what compressors do not read stands in for the rest.
fn projections(query: Tensor<4>, key: Tensor<4>) -> Projections {
    let flat = Tensor::<3>::zeros([1, 1, 1], &key.device());
    Projections {
        query_flat: flat.clone(),
        key_flat: flat.clone(),
        value_flat: flat,
        query,
        key: key.clone(),
        value: key,
    }
}

/// `mean over the group's heads and rows of q . k / sqrt(head_dim)`, in f64.
fn expected(query: &Tensor<4>, key: &Tensor<4>, rows: std::ops::Range<usize>) -> Vec<f64> {
    let [_, heads, seq, width] = query.dims();
    let [_, kv_heads, keys, _] = key.dims();
    let (q, k) = (values(query.clone()), values(key.clone()));
    let group = heads / kv_heads;
    let mut scores = Vec::new();
    for kv_head in 0..kv_heads {
        for at in 0..keys {
            let mut sum = 0.0;
            for head in kv_head * group..(kv_head + 1) * group {
                for row in rows.clone() {
                    for i in 0..width {
                        let a = f64::from(q[(head * seq + row) * width + i]);
                        sum += a * f64::from(k[(kv_head * keys + at) * width + i]);
                    }
                }
            }
            scores.push(sum / (group * rows.len()) as f64 / (width as f64).sqrt());
        }
    }
    scores
}

fn check_scores(
    place: &Place,
    [kv_heads, group, seq, keys, width]: [usize; 5],
    dtype: DType,
) -> Result<(), TestCaseError> {
    let query = noise([1, kv_heads * group, seq, width], 1).cast(dtype);
    // Rows of a longer tensor, as those of a rank are.
    let key = noise([1, kv_heads, keys + 3, width], 2).cast(dtype);
    let rows = seq / 3..seq;
    let wanted = expected(&query, &key.clone().narrow(2, 2, keys), rows.clone());
    let anchor = projections(place.take(query), place.take(key.clone()));
    let context = QueryAware.read_anchor(0, &anchor, rows).unwrap();
    let scored = projections(anchor.query.clone(), place.take(key).narrow(2, 2, keys));
    let got = QueryAware.score(ScoreInput {
        layer: 0,
        rank: 0,
        projections: &scored,
        anchor: Some(&context),
    });
    let got = values(got.unwrap());
    prop_assert_eq!(got.len(), wanted.len());
    for (got, wanted) in got.iter().zip(&wanted) {
        prop_assert!(
            (f64::from(*got) - wanted).abs() <= 1e-5 * wanted.abs().max(1.0),
            "{got}, expected {wanted}"
        );
    }
    Ok(())
}

#[test]
fn the_mean_query_scores_keys() {
    let sizes = [1..4usize, 1..4usize, 1..9usize, 1..70usize, 1..6usize];
    everywhere((sizes, 0..3usize), |place, (sizes, which)| {
        let dtype = place.dtypes[which % place.dtypes.len()];
        let [kv_heads, group, seq, keys, eighths] = sizes;
        check_scores(place, [kv_heads, group, seq, keys, 8 * eighths], dtype)
    });
}

#[test]
fn rows_of_a_cache_are_what_was_appended() {
    let problems = (3..40usize, 0..4usize, 0..40usize, 0..40usize);
    everywhere(problems, |place, (rows, spare, start, count)| {
        let shape = AttentionShape {
            layers: 1,
            heads: 2,
            kv_heads: 2,
            head_dim: 8,
        };
        let capacity = rows + spare;
        let cache = KvCache::new(shape, 1, capacity, KvDType::F32, &place.device);
        let mut cache = cache.unwrap();
        let (keys, found_values) = (noise([1, 2, rows, 8], 3), noise([1, 2, rows, 8], 4));
        let appended = cache.append(
            0,
            place.take(keys.clone()),
            place.take(found_values.clone()),
        );
        drop(appended.unwrap());
        let start = start % rows;
        let end = (start + count).min(rows);
        if start == end {
            return Ok(());
        }
        let held = cache.rows(0, start..end).unwrap();
        let (key, value) = held.floats(burn::tensor::FloatDType::F32).unwrap();
        let part = |tensor: Tensor<4>| values(tensor.narrow(2, start, end - start));
        prop_assert_eq!(values(key), part(keys));
        prop_assert_eq!(values(value), part(found_values));
        Ok(())
    });
}

#[test]
fn what_is_not_finite_is_found_wherever_it_is() {
    for place in places() {
        for dtype in &place.dtypes {
            for (rows, width) in [(1, 8), (37, 24), (300, 64), (5, 3)] {
                let clean = noise([1, 3, rows + 2, width], 5).cast(*dtype);
                // Of rows that begin and end within a tensor.
                let search = |tensor: Tensor<4>| {
                    let part = place.take(tensor).narrow(2, 1, rows);
                    let found = not_finite(part).unwrap().into_data();
                    found.iter::<i32>().collect::<Vec<_>>()
                };
                assert_eq!(search(clean.clone()), [0], "{} {dtype:?}", place.name);
                for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    for (head, row, column) in [(0, 1, 0), (2, rows, width - 1), (1, 1, width / 2)]
                    {
                        let one =
                            Tensor::<4>::full([1, 1, 1, 1], value, &clean.device()).cast(*dtype);
                        let at = [0..1, head..head + 1, row..row + 1, column..column + 1];
                        let broken = clean.clone().slice_assign(at, one);
                        let place = place.name;
                        assert_eq!(
                            search(broken),
                            [1],
                            "{place} {dtype:?} {value} at {row}, {column}"
                        );
                    }
                    // Outside of the part.
                    let one =
                        Tensor::<4>::full([1, 3, 1, width], value, &clean.device()).cast(*dtype);
                    let outside = clean
                        .clone()
                        .slice_assign([0..1, 0..3, 0..1, 0..width], one);
                    assert_eq!(search(outside), [0], "{} {dtype:?}", place.name);
                }
            }
        }
    }
}
