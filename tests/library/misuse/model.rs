//! Configurations, rows and caches that do not belong together.

use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn_apb::kernels::{BlockFormat, Regions};
use burn_apb::model::{
    Architecture, Attention, AttentionShape, Block, CausalLm, DecoderConfig, HiddenRows, KvCache,
    KvDType, LayerAttention, Mlp, Projections, QuantizedLinear, QuantizedLinearConfig, Rope,
    RopeConfig, RopeScaling, forward_layers, join_heads,
};

use super::{Calls, halves, ids, zeros};

fn config() -> DecoderConfig {
    DecoderConfig::new(Architecture::Llama, 64, 32, 48, 2, 4, 2, 8)
}

/// Attends to nothing and refuses nothing.
struct Nothing;

impl LayerAttention for Nothing {
    type Error = burn_apb::kernels::KernelError;

    fn push(&mut self, _: usize, _: usize, _: Projections) -> Result<(), Self::Error> {
        Ok(())
    }

    fn attend(&mut self, _: usize) -> Result<Option<Vec<Tensor<3>>>, Self::Error> {
        Ok(Some(Vec::new()))
    }
}

/// Configurations of which no model can be made, or only a strange one.
fn odd_configs() -> Vec<DecoderConfig> {
    let edit = |change: &dyn Fn(&mut DecoderConfig)| {
        let mut config = config();
        change(&mut config);
        config
    };
    vec![
        DecoderConfig::new(Architecture::Qwen3, 0, 0, 0, 0, 0, 0, 0),
        edit(&|c| c.vocab_size = 0),
        edit(&|c| c.hidden_size = 0),
        edit(&|c| c.intermediate_size = 0),
        edit(&|c| c.num_hidden_layers = 0),
        edit(&|c| c.num_attention_heads = 0),
        edit(&|c| c.num_key_value_heads = 0),
        edit(&|c| c.num_key_value_heads = 3),
        edit(&|c| c.head_dim = 0),
        edit(&|c| c.head_dim = 7),
        edit(&|c| c.head_dim = 6),
        config().with_rms_norm_eps(f64::NAN).with_qk_norm(true),
        config().with_rms_norm_eps(-1.0),
        config().with_rope(RopeConfig::new().with_theta(0.0)),
        config().with_rope(RopeConfig::new().with_theta(f64::NAN)),
        config().with_max_position_embeddings(0),
        config().with_attention_window(Some(0)),
        config().with_scaled_context(Some(0)),
        config().with_mlp_bias(true).with_output_bias(true),
        config().with_qkv_bias(true).with_tie_word_embeddings(true),
    ]
}

fn configurations() -> Calls {
    let mut calls = Calls::default();
    let device = Device::flex();
    for config in odd_configs() {
        let decoder = calls.call("model::DecoderConfig::init", || config.init(&device));
        if let Some(decoder) = decoder {
            calls.call("model::Decoder::forward", || {
                decoder.forward(ids([1, 3], 0))
            });
        }
        calls.call("model::DecoderConfig::init_random", || {
            config.init_random(FloatDType::BF16, &device)
        });
        calls.call("model::Attention::new", || Attention::new(&config, &device));
        calls.call("model::Block::new", || Block::new(&config, &device));
        calls.call("model::Mlp::new", || Mlp::new(&config, &device));
        for context in [0, 1, usize::MAX] {
            calls.call("model::DecoderConfig::rope", || config.rope(context));
        }
    }
    let name = "model::DecoderConfig::from_json";
    for text in [
        "",
        "{}",
        "[]",
        "null",
        "{\"model_type\": \"llama\"}",
        "\u{feff}{",
    ] {
        calls.refused(name, || DecoderConfig::from_json(text));
        calls.refused("model::DecoderConfig::read", || DecoderConfig::read(text));
    }
    let name = "model::DecoderConfig::from_json_file";
    for path in ["/nowhere/config.json", "", "/", "\u{0}"] {
        calls.refused(name, || DecoderConfig::from_json_file(path.as_ref()));
    }

    let scalings = [0.0, -1.0, f64::NAN, f64::INFINITY].map(|factor| {
        [
            RopeScaling::Linear { factor },
            RopeScaling::Dynamic {
                factor,
                original_context: 0,
            },
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: factor,
                high_freq_factor: factor,
                original_context: 0,
            },
            RopeScaling::Yarn {
                factor,
                original_context: 0,
                beta_fast: factor,
                beta_slow: factor,
                truncate: true,
                attention_factor: factor,
            },
        ]
    });
    for scaling in scalings.into_iter().flatten() {
        let rope = RopeConfig::new().with_theta(1.0).with_scaling(scaling);
        for head_dim in [0, 1, 2, 7, 8] {
            let rope = calls.call("model::RopeConfig::init", || rope.init(head_dim, 0));
            let Some(rope) = rope else { continue };
            for positions in [vec![], vec![0], vec![usize::MAX]] {
                calls.call("model::Rope::tables", || rope.tables(positions, &device));
            }
        }
    }
    for factor in [0.0, -1.0, f64::NAN] {
        calls.call("model::RopeScaling::yarn_attention_factor", || {
            RopeScaling::yarn_attention_factor(factor, Some((0.0, 0.0)))
        });
    }
    // Called by `odd_configs` and above, for what is made of them.
    calls.tried.extend([
        "model::DecoderConfig::new",
        "model::DecoderConfig::with_attention_window",
        "model::DecoderConfig::with_max_position_embeddings",
        "model::DecoderConfig::with_mlp_bias",
        "model::DecoderConfig::with_output_bias",
        "model::DecoderConfig::with_qk_norm",
        "model::DecoderConfig::with_qkv_bias",
        "model::DecoderConfig::with_rms_norm_eps",
        "model::DecoderConfig::with_rope",
        "model::DecoderConfig::with_scaled_context",
        "model::DecoderConfig::with_tie_word_embeddings",
        "model::RopeConfig::with_scaling",
        "model::RopeConfig::with_theta",
    ]);
    calls
}

fn rows_and_caches() -> Calls {
    let mut calls = Calls::default();
    let device = Device::flex();
    let config = config();
    let decoder = config.init(&device);
    let rope = config.rope(16);
    let tables = rope.tables(0..3, &device);
    let rows = || zeros([1, 3, 32]);

    for id in [-1, 64, i64::from(i32::MAX), i64::from(i32::MIN)] {
        calls.refused("model::Decoder::forward", || {
            decoder.forward(ids([1, 3], id))
        });
        let mut cache = KvCache::new(&config, 1, 8, KvDType::F32, &device).unwrap();
        calls.refused("model::Decoder::forward_cached", || {
            decoder.forward_cached(ids([1, 3], id), &rope, &mut cache)
        });
    }
    let autodiff = config.init(&device.clone().autodiff());
    calls.refused("model::Decoder::forward", || {
        autodiff.forward(Tensor::full([1, 3], 64, &device.clone().autodiff()))
    });
    calls.call("model::Decoder::forward", || {
        decoder.forward(ids([1, 0], 0))
    });
    calls.call("model::Decoder::forward", || {
        decoder.forward(ids([0, 3], 0))
    });
    let name = "model::Decoder::forward_embedded";
    calls.refused(name, || decoder.forward_embedded(zeros([1, 3, 31])));
    calls.call(name, || decoder.forward_embedded(halves([1, 3, 32])));
    calls.call(name, || decoder.forward_embedded(zeros([1, 0, 32])));

    let name = "model::Decoder::forward_cached";
    let other = AttentionShape {
        layers: 2,
        heads: 4,
        kv_heads: 4,
        head_dim: 8,
    };
    let few = AttentionShape { layers: 1, ..other };
    for shape in [other, few] {
        let mut cache = KvCache::new(shape, 1, 8, KvDType::F32, &device).unwrap();
        calls.refused(name, || {
            decoder.forward_cached(ids([1, 3], 0), &rope, &mut cache)
        });
    }
    let mut cache = KvCache::new(&config, 1, 2, KvDType::F32, &device).unwrap();
    calls.refused(name, || {
        decoder.forward_cached(ids([1, 3], 0), &rope, &mut cache)
    });
    let mut cache = KvCache::new(&config, 1, 8, KvDType::F16, &device).unwrap();
    calls.call(name, || {
        decoder.forward_cached(ids([1, 3], 0), &rope, &mut cache)
    });
    let mut cache = KvCache::new(&config, 2, 8, KvDType::F32, &device).unwrap();
    calls.refused(name, || {
        decoder.forward_cached(ids([1, 3], 0), &rope, &mut cache)
    });
    let mut cache = KvCache::new(&config, 1, 8, KvDType::F32, &device).unwrap();
    let wrong = Rope {
        inverse_frequencies: Vec::new(),
        attention_factor: f64::NAN,
    };
    calls.refused(name, || {
        decoder.forward_cached(ids([1, 3], 0), &wrong, &mut cache)
    });

    let block = &decoder.layers[0];
    let attention = &block.self_attn;
    for hidden in [zeros([1, 3, 31]), zeros([1, 2, 32])] {
        calls.refused("model::Attention::forward", || {
            attention.forward(hidden.clone(), &tables)
        });
        calls.refused("model::Attention::project", || {
            attention.project(hidden.clone(), &tables)
        });
        calls.refused("model::Block::project", || {
            block.project(hidden.clone(), &tables)
        });
    }
    calls.refused("model::Attention::output", || {
        attention.output(zeros([1, 3, 31]))
    });
    calls.refused("model::Block::finish", || {
        block.finish(rows(), zeros([1, 3, 31]))
    });
    calls.refused("model::Block::finish", || {
        block.finish(rows(), zeros([1, 2, 32]))
    });
    calls.refused("model::Block::finish", || {
        block.finish(zeros([1, 3, 31]), rows())
    });
    calls.refused("model::Mlp::forward", || {
        block.mlp.forward(zeros([1, 3, 31]))
    });
    calls.call("model::Mlp::forward", || {
        block.mlp.forward(halves([1, 3, 32]))
    });
    calls.refused("CausalLm::logits", || {
        CausalLm::logits(&decoder, zeros([1, 3, 31]))
    });

    calls.refused("model::Projection::forward", || {
        attention.q_proj.forward(zeros([1, 3, 31]))
    });
    for d_input in [0, 1, 255, 256, usize::MAX] {
        let config = QuantizedLinearConfig::new(d_input, 3, BlockFormat::Q4K).with_bias(true);
        let layer = calls.call("model::QuantizedLinearConfig::init", || {
            config.init(&device)
        });
        if let (Some(Ok(layer)), true) = (layer, d_input <= 256) {
            calls.refused("model::QuantizedLinear::forward", || {
                layer.forward(zeros([1, 3, 255]))
            });
            calls.refused("model::QuantizedLinear::dequantize", || {
                layer.dequantize(FloatDType::F64)
            });
        }
    }
    calls.tried.extend([
        "model::QuantizedLinearConfig::new",
        "model::QuantizedLinearConfig::with_bias",
        "model::QuantizedLinearConfig::with_order",
    ]);
    let name = "model::QuantizedLinear::from_blocks";
    let blocks = |bytes| Tensor::zeros([3, bytes], (&device, DType::U8));
    calls.refused(name, || {
        QuantizedLinear::from_blocks(blocks(143), None, BlockFormat::Q4K)
    });
    calls.refused(name, || {
        QuantizedLinear::from_blocks(blocks(144), Some(zeros([4])), BlockFormat::Q4K)
    });

    let name = "model::QuantizedLinear::with_order";
    let layer = || QuantizedLinear::from_blocks(blocks(144), None, BlockFormat::Q4K).unwrap();
    for (count, id) in [
        (256, 0),
        (255, 1),
        (256, -1),
        (0, 0),
        (256, i64::from(i32::MAX)),
    ] {
        calls.refused(name, || layer().with_order(ids([count], id)));
    }
    let order = Tensor::arange(0..256, (&device, DType::I32));
    let ordered = layer().with_order(order.flip([0])).unwrap();
    calls.refused("model::QuantizedLinear::forward", || {
        ordered.forward(zeros([1, 3, 255]))
    });
    for rows in [0, 3] {
        calls.call("model::QuantizedLinear::forward", || {
            ordered.forward(zeros([1, rows, 256]))
        });
    }
    let empty = Tensor::zeros([3, 0], (&device, DType::U8));
    let empty = QuantizedLinear::from_blocks(empty, None, BlockFormat::Q4K).unwrap();
    let empty = empty.with_order(ids([0], 0)).unwrap();
    calls.call("model::QuantizedLinear::forward", || {
        empty.forward(zeros([1, 3, 0]))
    });

    let projections = attention.project(rows(), &tables).unwrap();
    #[expect(clippy::reversed_empty_ranges, reason = "a wrong argument")]
    for range in [0..4, 5..6, 2..1, 0..usize::MAX] {
        calls.refused("model::Projections::rows", || {
            projections.rows(range.clone())
        });
    }

    let name = "model::forward_layers";
    let mut some = [HiddenRows {
        hidden: rows(),
        rope: tables.clone(),
    }];
    calls.refused(name, || {
        forward_layers(&decoder, &mut some, &mut Nothing, |_, _, _| Ok(()))
    });
    let mut wide = [HiddenRows {
        hidden: zeros([1, 3, 31]),
        rope: tables.clone(),
    }];
    calls.refused(name, || {
        forward_layers(&decoder, &mut wide, &mut Nothing, |_, _, _| Ok(()))
    });
    calls.call(name, || {
        forward_layers(&decoder, &mut [], &mut Nothing, |_, _, _| Ok(()))
    });
    calls.call("model::join_heads", || join_heads(zeros([0, 2, 3, 8])));
    calls.call("model::Rope::tables", || rope.tables([usize::MAX], &device));

    let name = "model::KvCache::new";
    for capacity in [usize::MAX, usize::MAX / 2, 1 << 58] {
        calls.refused(name, || {
            KvCache::new(&config, 1, capacity, KvDType::F32, &device)
        });
        calls.refused(name, || {
            KvCache::new(&config, capacity, 8, KvDType::F32, &device)
        });
        calls.call("model::KvCache::bytes", || {
            KvCache::bytes(&config, capacity, capacity, KvDType::F32)
        });
    }
    calls.call(name, || KvCache::new(&config, 0, 0, KvDType::F32, &device));
    let wide = AttentionShape {
        layers: 1,
        heads: 4,
        kv_heads: 2,
        head_dim: 32,
    };
    for head_dim in [0, 8, 31, usize::MAX] {
        calls.call("model::KvDType::check", || {
            KvDType::F16.check(head_dim, &device)
        });
    }
    calls.refused("model::KvDType::check", || KvDType::Q8_0.check(48, &device));
    calls.call("model::KvDType::of", || KvDType::of(FloatDType::F64));
    // Heads of 8 elements are no whole blocks.
    calls.refused(name, || KvCache::new(&config, 1, 8, KvDType::Q8_0, &device));
    let mut rows = KvCache::new(&config, 1, 8, KvDType::F16, &device).unwrap();
    let rows = rows
        .append(0, zeros([1, 2, 3, 8]), zeros([1, 2, 3, 8]))
        .unwrap();
    for query in [
        zeros([1, 3, 3, 8]),
        zeros([1, 2, 3, 9]),
        zeros([2, 2, 3, 8]),
    ] {
        calls.refused("model::CachedRows::attend", || {
            rows.clone().attend(query, Regions::causal())
        });
    }
    let mut blocks = KvCache::new(wide, 1, 8, KvDType::Q8_0, &device).unwrap();
    let blocks = blocks.append(0, zeros([1, 2, 3, 32]), zeros([1, 2, 3, 32]));
    let blocks = blocks.unwrap();
    calls.refused("model::CachedRows::floats", || {
        blocks.clone().floats(FloatDType::F64)
    });
    for query in [
        zeros([1, 3, 3, 32]),
        zeros([1, 2, 3, 33]),
        zeros([2, 2, 3, 32]),
    ] {
        calls.refused("model::CachedRows::attend", || {
            blocks.clone().attend(query, Regions::causal())
        });
    }
    let name = "model::KvCache::reserve";
    let mut cache = KvCache::new(&config, 1, 4, KvDType::F32, &device).unwrap();
    calls.refused(name, || cache.reserve(usize::MAX));
    calls.refused(name, || cache.reserve(1 << 58));
    let name = "model::KvCache::append";
    let row = |batch, heads, seq, dim| zeros([batch, heads, seq, dim]);
    let mut append = |layer, key: Tensor<4>, value: Tensor<4>| {
        calls.refused(name, || cache.append(layer, key, value));
    };
    append(2, row(1, 2, 1, 8), row(1, 2, 1, 8));
    append(usize::MAX, row(1, 2, 1, 8), row(1, 2, 1, 8));
    append(0, row(1, 2, 5, 8), row(1, 2, 5, 8));
    append(0, row(1, 3, 1, 8), row(1, 3, 1, 8));
    append(0, row(1, 2, 1, 9), row(1, 2, 1, 8));
    append(0, row(1, 2, 1, 8), row(1, 2, 2, 8));
    assert_eq!(cache.len(), 0);
    #[expect(clippy::reversed_empty_ranges, reason = "a wrong argument")]
    for (layer, range) in [(0, 0..1), (9, 0..0), (0, 1..0), (0, 0..usize::MAX)] {
        calls.refused("model::KvCache::rows", || cache.rows(layer, range));
    }
    calls.call("model::KvCache::truncate", || cache.truncate(usize::MAX));
    calls.tried.remove("CausalLm::logits");
    calls
}

#[test]
fn model() {
    Calls::of(&[configurations, rows_and_caches]).finish(&["model"], &[]);
}
