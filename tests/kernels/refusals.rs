//! What does not fit is refused by name.

use burn::tensor::DType;
use burn_apb::kernels::{
    KernelError, Regions, add_rms_norm, attention, first_rows, linear, rms_norm, rotate, silu_mul,
};

use crate::tensors::noise;

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
        Err(KernelError::DType { argument: "v", .. })
    ));
    let regions = Regions {
        passing: 3,
        anchor: 1,
        causal: true,
    };
    let refused = attention(q, k.clone(), k, regions);
    assert!(matches!(refused, Err(KernelError::Regions { .. })));

    shape(first_rows(noise([1, 2, 5, 8], 1), 6).map(drop), "x");

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
    let norm = |residual, gamma| add_rms_norm(noise([2, 8], 1), residual, gamma, 1e-5);
    shape(norm(noise([2, 7], 1), noise([8], 1)).map(drop), "residual");
    shape(norm(noise([2, 8], 1), noise([7], 1)).map(drop), "gamma");
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
