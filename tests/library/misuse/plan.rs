//! Plans, devices and sizes that nothing can be predicted of.

use std::sync::Arc;

use burn::tensor::FloatDType;
use burn_apb::apb::{
    CancelToken, CompressorConfig, DocumentLengths, Method, PrefillConfig, SessionConfig,
};
use burn_apb::model::{Architecture, CausalLm, DecoderConfig, KvDType};
use burn_apb::plan::{
    Hardware, MemoryConfig, MemoryParts, PartSeconds, Planner, Program, Rates, Work, measure,
};

use super::Calls;

fn config() -> DecoderConfig {
    DecoderConfig::new(Architecture::Llama, 64, 32, 48, 2, 4, 2, 8)
}

fn settings(method: Method, ranks: usize) -> PrefillConfig {
    PrefillConfig::new(method, ranks).with_compressor(CompressorConfig::Random { seed: 0 })
}

#[test]
fn plan() {
    let mut calls = Calls::default();
    for name in ["", "A-100", "measured"] {
        calls.refused("plan::Hardware::known", || Hardware::known(name));
    }
    let mut hardware = Hardware::known("h100").expect("known");
    for usable in [f64::NAN, -1.0, f64::INFINITY] {
        hardware.usable = usable;
        calls.call("plan::Hardware::usable_bytes", || hardware.usable_bytes());
    }
    let nothing = Rates {
        projections: 0.0,
        attention: f64::NAN,
        row_seconds: f64::INFINITY,
        ..hardware.rates
    };
    calls.call("plan::Rates::seconds", || {
        nothing.seconds(&Work::default(), usize::MAX)
    });
    calls.call("plan::PartSeconds::total", || {
        PartSeconds::default().total()
    });
    calls.call("plan::PartSeconds::named", || {
        PartSeconds::default().named()
    });
    let most = MemoryParts {
        weights: u64::MAX,
        cache: u64::MAX,
        ..MemoryParts::default()
    };
    calls.call("plan::MemoryParts::total", || most.total());

    let wild = MemoryConfig {
        weights: u64::MAX,
        dtype: FloatDType::F32,
        kv_dtype: KvDType::Q8_0,
        chunk: 0,
        following: usize::MAX,
        program: u64::MAX,
        threads: usize::MAX,
    };
    let mut shapes = vec![config()];
    shapes.push(DecoderConfig {
        num_key_value_heads: 0,
        num_attention_heads: 0,
        num_hidden_layers: 0,
        head_dim: 0,
        ..config()
    });
    shapes.push(DecoderConfig {
        hidden_size: 1 << 20,
        intermediate_size: 1 << 20,
        num_hidden_layers: 1 << 12,
        num_attention_heads: 1 << 12,
        num_key_value_heads: 1 << 12,
        head_dim: 1 << 10,
        ..config()
    });
    for shape in shapes {
        let planner = calls.call("plan::Planner::new", || {
            Planner::new(shape.clone(), Hardware::known("h100").expect("known"))
        });
        let planner = planner.expect("a planner");
        let wild = calls.call("plan::Planner::with_memory", || {
            planner.clone().with_memory(wild)
        });
        for planner in [planner, wild.expect("a planner")] {
            predictions(&mut calls, &planner);
        }
    }

    let device = burn::tensor::Device::flex();
    let model: Arc<dyn CausalLm> = Arc::new(config().init(&device));
    calls.refused("plan::measure", || {
        let cancel = CancelToken::new();
        cancel.cancel();
        measure(&model, &config(), SessionConfig::new(0), &cancel)
    });
    calls.finish(&["plan"], &[]);
}

/// Every prediction of a planner, for documents and ranks of all sizes.
fn predictions(calls: &mut Calls, planner: &Planner) {
    for method in Method::ALL {
        for (ranks, tokens) in [(0, 1), (3, 0), (usize::MAX, 100), (4, 1 << 30), (2, 40)] {
            let settings = settings(method, ranks);
            let document = DocumentLengths::new(tokens).with_anchor_query(2);
            calls.call("plan::Planner::predict", || {
                planner.predict(&settings, &document)
            });
            calls.call("plan::Planner::max_tokens", || {
                planner.max_tokens(&settings, &document)
            });
            calls.call("plan::Planner::compare", || {
                planner.compare(&settings, &document)
            });
            calls.call("plan::Planner::recommend", || {
                planner.recommend(&settings, &document)
            });
        }
        let document = DocumentLengths::new(40).with_anchor_query(2);
        let Ok(mut plan) = settings(method, 2).plan_lengths(&document, &planner.config) else {
            continue;
        };
        for (ranks, passing, anchor) in [(2, 1, 1), (0, 0, 0), (3, usize::MAX, usize::MAX)] {
            (plan.ranks, plan.passing, plan.anchor) = (ranks, passing, anchor);
            calls.call("plan::Planner::predict_plan", || {
                planner.predict_plan(&plan)
            });
            for rank in [0, 2, usize::MAX] {
                calls.call("plan::Planner::predict_ranks", || {
                    planner.predict_ranks(&plan, rank..rank)
                });
                calls.call("plan::Planner::memory_of", || {
                    planner.memory_of(&plan, rank..rank)
                });
                calls.call("plan::Work::of", || {
                    Work::of(&plan, &planner.config, rank, f64::NAN, Program::Published)
                });
                calls.call("plan::MemoryConfig::predict", || {
                    let (memory, config) = (planner.memory, &planner.config);
                    memory.predict(&plan, config, rank..rank, Program::ThisCrate)
                });
            }
        }
    }
}
