//! Hidden keys, rows without keys, many keys.

use burn::tensor::Tensor;
use burn_apb::kernels::{AttentionOutput, Regions, reference};

use crate::TOLERANCE;
use crate::places::{Place, places};
use crate::tensors::{largest_difference, noise, values};

/// Attention with NaN in key and value `poisoned`, and the same with that key clean.
fn poison(
    place: &Place,
    rows: usize,
    keys: usize,
    poisoned: usize,
    regions: Regions,
) -> [AttentionOutput; 2] {
    let q = noise([1, 6, rows, 64], 7);
    let [k, v] = [8, 9].map(|seed| noise([1, 2, keys, 64], seed));
    let spoil = |x: Tensor<4>| x.slice_fill([0..1, 0..2, poisoned..poisoned + 1, 0..64], f32::NAN);
    [
        place.attend(q.clone(), spoil(k.clone()), spoil(v.clone()), regions),
        place.attend(q, k, v, regions),
    ]
}

#[test]
fn garbage_in_hidden_keys_never_shows_and_in_seen_keys_does() {
    for place in places() {
        garbage(&place);
    }
}

fn garbage(place: &Place) {
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
            let [spoiled, clean] = poison(place, rows, keys, poisoned, regions);
            for row in 0..rows {
                let seen = regions.visible_keys(row, rows, keys).contains(&poisoned);
                let out = |o: &AttentionOutput| values(o.out.clone().narrow(2, row, 1));
                let lse = |o: &AttentionOutput| values(o.lse.clone().narrow(2, row, 1));
                let label = format!(
                    "{}: {rows} rows, {keys} keys, {regions:?}: key {poisoned}, row {row}",
                    place.name
                );
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
    for place in places() {
        for (rows, keys) in [(5, 2), (90, 30), (1, 0), (70, 0)] {
            let q = noise([1, 3, rows, 64], 1);
            let k = noise([1, 1, keys, 64], 2);
            let got = place.attend(q, k.clone(), k, Regions::causal());
            let blind = rows - keys;
            let out = values(got.out.narrow(2, 0, blind));
            assert!(out.iter().all(|x| *x == 0.0), "{}", place.name);
            let lse = values(got.lse.narrow(2, 0, blind));
            assert!(
                lse.iter().all(|x| *x == f32::NEG_INFINITY),
                "{}",
                place.name
            );
        }
    }
}

#[test]
fn many_keys_for_few_rows() {
    // Long enough to be split over threads, or blocks.
    for (rows, keys) in [(1, 5000), (4, 3000), (20, 4100)] {
        let q = noise([1, 6, rows, 64], 1).mul_scalar(4.0);
        let [k, v] = [2, 3].map(|seed| noise([1, 2, keys, 64], seed));
        let expected = reference::attention(q.clone(), k.clone(), v.clone(), Regions::causal());
        for place in places() {
            let got = place.attend(q.clone(), k.clone(), v.clone(), Regions::causal());
            let out = largest_difference(got.out, expected.out.clone());
            let lse = largest_difference(got.lse, expected.lse.clone());
            assert!(out <= TOLERANCE, "{}: out off by {out}", place.name);
            assert!(lse <= TOLERANCE, "{}: lse off by {lse}", place.name);
        }
    }
}
