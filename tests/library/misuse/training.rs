//! Samples, recipes and files that cannot be trained on.

use std::ops::ControlFlow;
use std::sync::Arc;

use burn::tensor::{DType, Device, FloatDType};
use burn_apb::apb::compressor::{Compressor, Random};
use burn_apb::apb::heads::RetainingHeadsConfig;
use burn_apb::model::{Architecture, AttentionShape, DecoderConfig};
use burn_apb::tasks::{SynthesisConfig, TextSample};
use burn_apb::training::data::SampleFile;
use burn_apb::training::{
    Backbone, Collector, FeatureCache, HeadsCard, HeadsTrainer, LayerLoss, Sample,
    TrainHeadsConfig, evaluate, save_heads,
};

use super::{Calls, small, zeros};

fn sample(ids: &[u32], ranges: [std::ops::Range<usize>; 3]) -> Sample {
    let [query, scored, answer] = ranges;
    Sample {
        ids: ids.to_vec(),
        query,
        scored,
        answer,
    }
}

#[test]
fn training() {
    let mut calls = Calls::default();
    let device = Device::flex();
    let model = small();
    let backbone = || Backbone::new(model.decoder.clone(), 64, 8);
    let good = || sample(&[1, 2, 3, 4, 5, 6, 7, 8], [0..2, 2..6, 6..8]);
    #[expect(clippy::reversed_empty_ranges, reason = "wrong arguments")]
    let wrong = [
        sample(&[], [0..0, 0..0, 0..0]),
        sample(&[1, 2, 3], [0..0, 0..9, 2..3]),
        sample(&[1, 2, 3], [0..0, 2..1, 2..3]),
        sample(&[1, 2, 3], [0..usize::MAX, 0..2, 2..3]),
        sample(&[1, 2, 3], [0..0, 0..2, 3..3]),
        sample(&[1, u32::MAX, 3], [0..0, 0..2, 2..3]),
        sample(&[1; 65], [0..0, 0..60, 60..65]),
    ];
    let recipe = || TrainHeadsConfig::new().with_width(8).with_steps(1);
    for wrong in wrong {
        calls.refused("training::Backbone::features", || {
            backbone().features(&wrong, |_, _| Ok(()))
        });
        calls.refused("training::HeadsTrainer::fit", || {
            HeadsTrainer::new(backbone())
                .config(recipe())
                .fit([wrong.clone()])
        });
        calls.refused("training::HeadsTrainer::held_out", || {
            let trainer = HeadsTrainer::new(backbone()).config(recipe());
            trainer.held_out([wrong.clone()]).fit([good()])
        });
        calls.refused("training::evaluate", || {
            let random = Random::new(1);
            let compressors: [&dyn Compressor; 1] = [&random];
            let go_on = |_, _| ControlFlow::Continue(());
            evaluate(&backbone(), &compressors, &[Arc::new(wrong)], 0.5, go_on)
        });
    }
    for keep in [f64::NAN, -1.0, 2.0, 0.0] {
        calls.call("training::evaluate", || {
            let go_on = |_, _| ControlFlow::Continue(());
            evaluate(&backbone(), &[], &[Arc::new(good())], keep, go_on)
        });
    }
    calls.refused("training::HeadsTrainer::fit", || {
        HeadsTrainer::new(backbone())
            .config(recipe())
            .fit(Vec::<Sample>::new())
    });
    for (context, chunk) in [(0, 8), (64, 0), (usize::MAX, usize::MAX)] {
        calls.call("training::Backbone::new", || {
            let backbone = Backbone::new(model.decoder.clone(), context, chunk);
            backbone.features(&good(), |_, _| Ok(()))
        });
    }
    let odd = [f64::NAN, -1.0, f64::INFINITY];
    let recipes = odd.iter().flat_map(|&value| {
        [
            recipe().with_alpha(value),
            recipe().with_learning_rate(value),
            recipe().with_keep(value),
            recipe().with_clip(value),
            recipe().with_weight_decay(value),
        ]
    });
    let counts = [
        recipe().with_width(0),
        recipe().with_steps(0),
        recipe().with_batch(0),
        recipe().with_round(0),
        recipe().with_patience(Some(0)),
    ];
    for recipe in recipes.chain(counts) {
        calls.refused("training::HeadsTrainer::config", || {
            HeadsTrainer::new(backbone())
                .config(recipe.clone())
                .fit([good()])
        });
    }
    calls.call("training::TrainHeadsConfig::with_seed", || {
        let recipe = recipe()
            .with_seed(u64::MAX)
            .with_warm_up(Some(usize::MAX))
            .with_scale_samples(usize::MAX);
        HeadsTrainer::new(backbone())
            .config(recipe)
            .fit([good()])
            .map(|_| ())
    });
    for name in [
        "alpha",
        "learning_rate",
        "keep",
        "clip",
        "weight_decay",
        "width",
        "steps",
        "batch",
        "round",
        "warm_up",
        "scale_samples",
        "patience",
    ] {
        let name = format!("training::TrainHeadsConfig::with_{name}");
        calls.tried.insert(String::leak(name));
    }
    calls.refused("training::HeadsTrainer::start_from", || {
        let shape = AttentionShape {
            layers: 1,
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
        };
        let heads = RetainingHeadsConfig::new().init(shape, &device);
        let trainer = HeadsTrainer::new(backbone()).config(recipe());
        trainer.start_from(heads).fit([good()])
    });
    calls.refused("training::HeadsTrainer::also", || {
        let other = DecoderConfig::new(Architecture::Llama, 512, 32, 48, 1, 4, 2, 8);
        let other = Backbone::new(Arc::new(other.init(&device)), 64, 8);
        let trainer = HeadsTrainer::new(backbone()).also(other);
        trainer.config(recipe()).fit([good()])
    });
    for folder in ["", "/proc/nowhere", "\u{0}", "/dev/null/x"] {
        calls.refused("training::HeadsTrainer::folder", || {
            let trainer = HeadsTrainer::new(backbone()).config(recipe());
            trainer.folder(folder, "").fit([good()])
        });
        calls.refused("training::FeatureCache::open", || {
            FeatureCache::open(folder.as_ref(), 1, "", DType::I64)
        });
        calls.refused("training::save_heads", || {
            let heads = RetainingHeadsConfig::new().init(&model.text.config, &device);
            save_heads(
                &heads,
                folder.as_ref(),
                FloatDType::F32,
                &HeadsCard::default(),
            )
        });
    }
    let folder = tempfile::tempdir().expect("a folder");
    calls.refused("training::save_heads", || {
        let heads = RetainingHeadsConfig::new().init(&model.text.config, &device);
        let out = folder.path().join("heads.safetensors");
        save_heads(&heads, &out, FloatDType::F64, &HeadsCard::default())
    });
    calls.call("training::HeadsTrainer::cache", || {
        let cache = FeatureCache::open(folder.path(), 0, "", DType::F32)?;
        let trainer = HeadsTrainer::new(backbone()).config(recipe()).cache(cache);
        Ok::<_, std::io::Error>(trainer.fit([good()]).map(|_| ()))
    });
    calls.call("training::HeadsTrainer::resume", || {
        let trainer = HeadsTrainer::new(backbone()).config(recipe()).resume(true);
        trainer.fit([good()]).map(|_| ())
    });
    calls.refused("training::HeadsTrainer::resume", || {
        // A state that is no state.
        let run = folder.path().join("run");
        let trainer = || HeadsTrainer::new(backbone()).config(recipe().with_steps(2));
        trainer().folder(&run, "model").fit([good()])?;
        for entry in walk(&run) {
            std::fs::write(entry, [0u8; 16]).expect("written");
        }
        trainer().folder(&run, "model").resume(true).fit([good()])
    });
    calls.call("training::HeadsTrainer::progress", || {
        let trainer = HeadsTrainer::new(backbone()).config(recipe());
        trainer
            .progress(|_| ControlFlow::Break(()))
            .fit([good()])
            .map(|_| ())
    });
    calls.call("training::HeadsTrainer::renderer", || {
        HeadsTrainer::new(backbone()).interrupter()
    });
    calls.tried.insert("training::HeadsTrainer::new");
    calls.refused("training::LayerLoss::new", || {
        LayerLoss::new(zeros([1, 2, 3]), zeros([1, 2, 4]))
    });
    for (layers, alpha) in [(0, f64::NAN), (usize::MAX, -1.0)] {
        calls.call("training::LayerLoss::total", || {
            let loss = LayerLoss::new(zeros([1, 2, 1]), zeros([1, 2, 1])).expect("a loss");
            loss.total(layers, alpha)
        });
    }

    // Texts.
    let text = |document: &str, question: &str, answer: &str| TextSample {
        document: document.into(),
        question: question.into(),
        answer: answer.into(),
    };
    for text in [
        text("", "", ""),
        text("a", "b", ""),
        text("\u{0}", "\u{0}", "\u{0}"),
    ] {
        for limit in [0, 1] {
            calls.refused("training::Sample::new", || {
                Sample::new(&model.text, &text, true, limit)
            });
        }
    }
    let mut go_on = |_: usize, _: usize| ControlFlow::Continue(());
    for path in ["", "/", "/nowhere", "\u{0}", "Cargo.toml"] {
        calls.refused("training::data::SampleFile::open", || {
            SampleFile::open(path, true).map(|_| ())
        });
        calls.refused("training::Collector::add_file", || {
            let mut collector = Collector::new(&model.text, 0, true, true);
            collector.add_file(path.as_ref(), 0, &mut go_on)
        });
    }
    calls.refused("training::Collector::finish", || {
        Collector::new(&model.text, 64, true, true).finish(1, 0)
    });
    calls.tried.insert("training::Collector::new");
    let lines = folder.path().join("lines.jsonl");
    let line = "{\"document\": \"d\", \"question\": \"q\", \"answer\": \"a\"}\n";
    std::fs::write(&lines, line).expect("written");
    let file = SampleFile::open(&lines, false).expect("one line");
    for index in [1, usize::MAX] {
        calls.refused("training::data::SampleFile::get", || file.get(index));
        calls.call("training::data::SampleFile::line", || file.line(index));
    }
    #[expect(clippy::reversed_empty_ranges, reason = "wrong arguments")]
    for tokens in [0..=0, 9..=2, 0..=usize::MAX] {
        for samples in [0, 1, usize::MAX] {
            let config = || SynthesisConfig::new(samples, tokens.clone()).with_seed(u64::MAX);
            calls.refused("training::Collector::add_synthesis", || {
                let mut collector = Collector::new(&model.text, 64, true, true);
                collector.add_synthesis("", config(), &mut go_on)
            });
        }
    }
    calls.finish(&["training"], &[]);
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => files.extend(walk(&path)),
            false => files.push(path),
        }
    }
    files
}
