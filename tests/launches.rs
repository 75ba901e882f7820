//! Which kernels a WebGPU adapter is given: none for the rows of a cache, and none of Burn's reductions and products, which
//! CubeCL tunes anew for every shape in builds with `cuda`, for the operations that have kernels of this crate.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::{Device, DeviceKind, DeviceType, Tensor};
use burn_apb::apb::compressor::{Compressor, QueryAware, ScoreInput};
use burn_apb::kernels::{add_rms_norm, not_finite, rms_norm, silu_mul};
use burn_apb::model::{AttentionShape, KvCache, KvDType, Projections};
use cubecl::logging::{LaunchObservation, LaunchObserver};

/// An adapter that nothing else uses meanwhile.
struct Adapter {
    device: Device,
    _alone: MutexGuard<'static, ()>,
}

impl Adapter {
    /// `APB_REQUIRE_WGPU=1` makes its absence a failure.
    fn find() -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        let found = Device::enumerate(DeviceType::Wgpu).into_iter().next();
        if found.is_none() {
            let required = std::env::var_os("APB_REQUIRE_WGPU").is_some_and(|set| set == "1");
            assert!(!required, "APB_REQUIRE_WGPU=1, and no WebGPU adapter");
            eprintln!("no WebGPU adapter found: skipped");
            return None;
        }
        Some(Self {
            device: Device::wgpu(DeviceKind::DefaultDevice),
            _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }

    /// The names of the kernels that `work` launches.
    fn launches<T>(&self, work: impl FnOnce() -> T) -> Vec<String> {
        self.device.sync().unwrap();
        let heard = Arc::new(Heard::default());
        let observation = LaunchObservation::new(heard.clone());
        // Kept until it is computed: what is dropped before may never be.
        let results = work();
        self.device.sync().unwrap();
        drop(observation);
        drop(results);
        let names = heard.0.lock().unwrap();
        names.iter().map(|name| name.to_lowercase()).collect()
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<&'static str>>);

impl LaunchObserver for Heard {
    fn launched(&self, kernel: &'static str) {
        self.0.lock().unwrap().push(kernel);
    }
}

#[test]
fn rows_of_a_cache_are_views_whatever_its_capacity() {
    let Some(adapter) = Adapter::find() else {
        return;
    };
    // A row has 4 bytes, so that hardly any number of rows ends at an address that a buffer may end at.
    let shape = AttentionShape {
        layers: 1,
        heads: 2,
        kv_heads: 2,
        head_dim: 1,
    };
    let rows = Tensor::<4>::ones([1, 2, 101, 1], &adapter.device);
    for capacity in 101..105 {
        let cache = KvCache::new(shape, 1, capacity, KvDType::F32, &adapter.device);
        let mut cache = cache.unwrap();
        drop(cache.append(0, rows.clone(), rows.clone()).unwrap());
        for range in [0..1, 0..37, 0..101, 64..101] {
            let copies = adapter.launches(|| cache.rows(0, range.clone()).unwrap());
            assert!(copies.is_empty(), "{range:?} of {capacity}: {copies:?}");
        }
    }
    let copies = adapter.launches(|| rows.clone().add_scalar(1.0));
    assert!(!copies.is_empty(), "no launch is heard");
}

/// Scores of all keys against the mean of all queries.
fn scores(heads: &Tensor<4>) -> Tensor<3> {
    let flat = Tensor::<3>::zeros([1, 1, 1], &heads.device());
    let projections = Projections {
        query_flat: flat.clone(),
        key_flat: flat.clone(),
        value_flat: flat,
        query: heads.clone(),
        key: heads.clone(),
        value: heads.clone(),
    };
    let rows = 0..heads.dims()[2];
    let anchor = QueryAware.read_anchor(0, &projections, rows).unwrap();
    let scores = QueryAware.score(ScoreInput {
        layer: 0,
        rank: 0,
        projections: &projections,
        anchor: Some(&anchor),
    });
    scores.unwrap()
}

#[test]
fn norms_gate_scores_and_search_are_nothing_that_is_tuned() {
    let Some(adapter) = Adapter::find() else {
        return;
    };
    for [rows, width] in [[1, 64], [5, 64], [33, 128], [70, 96]] {
        let x = Tensor::<3>::ones([1, rows, width], &adapter.device);
        let gamma = Tensor::<1>::ones([width], &adapter.device);
        let heads = Tensor::<4>::ones([1, 2, rows, width], &adapter.device);

        let ours = adapter.launches(|| {
            let residual = add_rms_norm(x.clone(), x.clone(), gamma.clone(), 1e-5);
            (
                rms_norm(x.clone(), gamma.clone(), 1e-5).unwrap(),
                residual.unwrap(),
                silu_mul(x.clone(), x.clone()).unwrap(),
                not_finite(heads.clone()).unwrap(),
                scores(&heads),
            )
        });
        assert!(!ours.is_empty(), "no launch is heard");
        for tuned in ["reduce", "matmul"] {
            assert!(
                ours.iter().all(|name| !name.contains(tuned)),
                "{rows} rows of {width}: {ours:?}"
            );
        }
    }
    // Burn's have these names.
    let x = Tensor::<3>::ones([1, 70, 96], &adapter.device);
    let mean = adapter.launches(|| x.clone().mean_dim(2));
    assert!(mean.iter().any(|name| name.contains("reduce")), "{mean:?}");
    let product = adapter.launches(|| x.clone().matmul(x.clone().swap_dims(1, 2)));
    let named = product.iter().any(|name| name.contains("matmul"));
    assert!(named, "{product:?}");
}
