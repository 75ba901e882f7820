//! Gradients under autodiff, against those that Burn computes of the definition in plain tensors.

use burn::tensor::{DType, Device, Tensor, TensorData, activation};
use burn_apb::kernels::{AttentionOutput, Regions, attention, linear, merge};

use crate::TOLERANCE;
use crate::tensors::{largest_difference, noise, values};

/// Attention as its definition reads: all scores, keys repeated for the heads of a group. Every row sees a
/// key.
fn naive(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, regions: Regions) -> AttentionOutput {
    let [batch, heads, seq_q, head_dim] = q.dims();
    let [_, kv_heads, seq_kv, _] = k.dims();
    let repeat = |x: Tensor<4>| -> Tensor<4> {
        x.unsqueeze_dim::<5>(2)
            .repeat_dim(2, heads / kv_heads)
            .reshape([batch, heads, seq_kv, head_dim])
    };
    let mut mask = vec![f32::NEG_INFINITY; seq_q * seq_kv];
    for row in 0..seq_q {
        for key in regions.visible_keys(row, seq_q, seq_kv) {
            mask[row * seq_kv + key] = 0.0;
        }
    }
    let mask = Tensor::<4>::from_data(TensorData::new(mask, [1, 1, seq_q, seq_kv]), &q.device());
    let scores = q.matmul(repeat(k).swap_dims(2, 3)) / (head_dim as f64).sqrt() + mask;
    let top = scores.clone().detach().max_dim(3);
    let lse = (scores.clone() - top.clone()).exp().sum_dim(3).log() + top;
    AttentionOutput {
        out: activation::softmax(scores, 3).matmul(repeat(v)),
        lse: lse.squeeze_dim(3),
    }
}

/// The gradients of q, k and v of a loss in which every output counts, the normalisers where `lse` says.
fn gradients(
    shapes: [[usize; 4]; 2],
    lse: bool,
    attend: impl Fn(Tensor<4>, Tensor<4>, Tensor<4>) -> AttentionOutput,
) -> [Tensor<4>; 3] {
    let device = Device::flex().autodiff();
    let leaf = |shape, seed| {
        let values = noise(shape, seed).into_data();
        Tensor::<4>::from_data(values, &device).require_grad()
    };
    let inputs = [leaf(shapes[0], 1), leaf(shapes[1], 2), leaf(shapes[1], 3)];
    let [q, k, v] = inputs.clone();
    let got = attend(q, k, v);
    let weights = |seed| Tensor::<4>::from_data(noise(shapes[0], seed).into_data(), &device);
    let mut loss = (got.out * weights(4)).sum();
    if lse {
        let [batch, heads, seq_q, _] = shapes[0];
        let weights = weights(5).narrow(3, 0, 1).reshape([batch, heads, seq_q]);
        loss = loss + (got.lse * weights).sum();
    }
    let gradients = loss.backward();
    inputs.map(|input| input.grad(&gradients).expect("a leaf"))
}

#[test]
fn attention_gradients_equal_those_of_the_definition() {
    let regions = |passing, anchor, causal| Regions {
        passing,
        anchor,
        causal,
    };
    for (rows, keys, regions) in [
        (1, 9, regions(0, 0, true)),
        (40, 40, regions(0, 0, true)),
        (30, 70, regions(25, 10, true)),
        (45, 70, regions(25, 20, true)),
        (45, 70, regions(25, 20, false)),
        (20, 33, regions(0, 0, false)),
        // Several tiles of rows and of keys, none of them whole.
        (300, 300, regions(0, 0, true)),
        (290, 600, regions(310, 200, true)),
    ] {
        for (heads, kv_heads, head_dim) in [(4, 4, 16), (6, 2, 24)] {
            for lse in [false, true] {
                let shapes = [[2, heads, rows, head_dim], [2, kv_heads, keys, head_dim]];
                let expected = gradients(shapes, lse, |q, k, v| naive(q, k, v, regions));
                let got = gradients(shapes, lse, |q, k, v| attention(q, k, v, regions).unwrap());
                for (name, (got, expected)) in
                    ["q", "k", "v"].iter().zip(got.into_iter().zip(expected))
                {
                    let error = largest_difference(got, expected);
                    assert!(
                        error <= TOLERANCE,
                        "d{name} of {rows} rows, {keys} keys, {heads} heads of {kv_heads}, {regions:?}: off by {error}"
                    );
                }
            }
        }
    }
}

#[test]
fn gradients_pass_through_a_merge_of_parts() {
    let shapes = [[1, 4, 50, 16], [1, 2, 50, 16]];
    let whole = gradients(shapes, false, |q, k, v| naive(q, k, v, Regions::causal()));
    let parts = gradients(shapes, false, |q, k, v| {
        // The first ten keys are seen by all of the last forty rows, which come next.
        let rows = |x: &Tensor<4>, first, count| x.clone().narrow(2, first, count);
        let head = attention(
            rows(&q, 0, 10),
            rows(&k, 0, 10),
            rows(&v, 0, 10),
            Regions::causal(),
        );
        let q = rows(&q, 10, 40);
        let near = attention(
            q.clone(),
            rows(&k, 10, 40),
            rows(&v, 10, 40),
            Regions::causal(),
        );
        let far = attention(q, rows(&k, 0, 10), rows(&v, 0, 10), Regions::full());
        let merged = merge([near.unwrap(), far.unwrap()]).unwrap();
        let head = head.unwrap();
        AttentionOutput {
            out: Tensor::cat(vec![head.out, merged.out], 2),
            lse: Tensor::cat(vec![head.lse, merged.lse], 2),
        }
    });
    for (got, expected) in parts.into_iter().zip(whole) {
        assert!(largest_difference(got, expected) <= TOLERANCE);
    }
}

#[test]
fn rows_without_keys_have_no_gradient() {
    let shapes = [[1, 2, 9, 8], [1, 1, 4, 8]];
    let [dq, dk, dv] = gradients(shapes, false, |q, k, v| {
        attention(q, k, v, Regions::causal()).unwrap()
    });
    let blind = values(dq.narrow(2, 0, 5));
    assert!(blind.iter().all(|x| *x == 0.0), "{blind:?}");
    assert!(values(dk).iter().chain(&values(dv)).all(|x| x.is_finite()));
}

/// 1 + 1 + .. in bf16 ends at 256, since 257 is not one of its numbers.
#[test]
fn products_of_half_types_are_summed_in_f32() {
    for device in [Device::flex(), Device::flex().autodiff()] {
        for (rows, stored) in [(1, true), (1, false), (20, true), (20, false)] {
            let ones = |shape: [usize; 2]| Tensor::<2>::ones(shape, (&device, DType::BF16));
            let weight = match stored {
                true => ones([3, 1024]).transpose(),
                false => ones([1024, 3]),
            };
            let got = linear(ones([rows, 1024]), weight, None).unwrap();
            assert_eq!(got.dtype(), DType::BF16);
            assert!(values(got).iter().all(|x| *x == 1024.0));
        }
    }
}
