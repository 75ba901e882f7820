//! The trainer beside vectors that an independent float64 program computed, and whole runs of a small
//! model.

mod in_memory;
mod scales;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn::train::{InferenceStep, Interrupter, TrainStep};
use safetensors::SafeTensors;

use super::loader::TrainItem;
use super::module::{HeadsModule, StepOutput, TrainingContext};
use super::progress::Reporter;
use super::quality::to_vec;
use super::scale::Scale;
use super::*;
use crate::apb::compressor::{QueryAware, Random};
use crate::apb::heads::{HeadsFile, RetainingHeads, RetainingHeadsConfig};
use crate::checkpoint::ModelSource;
use crate::load_decoder;
use crate::model::DecoderConfig;

const MODELS: [&str; 3] = ["llama-gqa", "qwen2-bias", "qwen3-qknorm"];

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(path)
}

fn backbone(name: &str) -> (DecoderConfig, Backbone) {
    let device = Device::flex();
    let source = ModelSource::open(fixture("models").join(name)).expect("a model");
    let config = DecoderConfig::from_json(source.config()).expect("a config");
    let decoder = load_decoder(&source, &config, FloatDType::F32, &device, &mut |_| {});
    // Tiles smaller than a sample, so that they are put together again.
    let backbone = Backbone::new(
        Arc::new(decoder.expect("weights").0),
        config.max_position_embeddings,
        32,
    );
    (config, backbone)
}

/// A file of vectors: values by name, and what its metadata say.
struct Vectors {
    bytes: Vec<u8>,
}

impl Vectors {
    fn open(name: &str) -> Self {
        let path = fixture("training").join(format!("{name}.safetensors"));
        Self {
            bytes: std::fs::read(path).expect("vectors"),
        }
    }

    fn number(&self, key: &str) -> f64 {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).expect("a header");
        let metadata = metadata.metadata().as_ref().expect("metadata");
        metadata[key].parse().expect("a number")
    }

    fn tensor(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("tensors");
        let tensor = tensors.tensor(name).expect(name);
        assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
        let (chunks, _) = tensor.data().as_chunks::<4>();
        chunks.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn sample(&self) -> Sample {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("tensors");
        let ids = tensors.tensor("ids").expect("ids");
        let width = ids.data().len() / ids.shape()[0];
        let ids: Vec<u32> = ids
            .data()
            .chunks(width)
            .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        let (prompt, answer) = (
            self.number("prompt") as usize,
            self.number("answer") as usize,
        );
        assert_eq!(ids.len(), prompt + answer);
        Sample {
            ids,
            query: 0..0,
            scored: 0..prompt,
            answer: prompt..prompt + answer,
        }
    }
}

/// Maximal difference over the root mean square of what is expected.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square: f64 = expected.iter().map(|e| f64::from(*e).powi(2)).sum();
    let rms = (square / expected.len() as f64).sqrt();
    let differences = found.iter().zip(expected);
    let worst = differences.map(|(f, e)| f64::from((f - e).abs()));
    worst.fold(0.0, f64::max) / rms
}

fn context(backbone: Backbone, alpha: f64, cache: Option<FeatureCache>) -> Arc<TrainingContext> {
    Arc::new(TrainingContext {
        backbones: vec![backbone],
        scale: Scale::of_labels(None),
        alpha,
        batch: 1,
        keep: 0.1,
        cache,
        interrupter: Interrupter::new(),
        reporter: Reporter::new(None, Interrupter::new(), 0, 1),
        error: Mutex::new(None),
    })
}

#[test]
fn labels_scores_loss_and_gradients_are_the_reference_s() {
    for name in MODELS {
        let vectors = Vectors::open(name);
        let (config, backbone) = backbone(name);
        let sample = vectors.sample();
        let path = fixture("models").join(name).join("heads.safetensors");
        let device = Device::flex().autodiff();
        let heads = RetainingHeads::load(&path, &config, FloatDType::F32, &device).expect("heads");
        let (mut labels, mut scores) = (Vec::new(), Vec::new());
        backbone
            .features(&sample, |layer, features| {
                let head = &heads.layers[layer];
                let found = head.forward(Tensor::from_inner(features.projections))?;
                scores.extend(to_vec(found.inner())?);
                labels.extend(to_vec(features.labels.logits)?);
                let mass = to_vec(features.labels.mass.sum_dim(2))?;
                // The rest goes to the answer's own rows.
                assert!(mass.iter().all(|all| *all > 0.0 && *all <= 1.0 + 1e-5));
                Ok(())
            })
            .expect("features");
        for (what, found) in [("labels", labels), ("scores", scores)] {
            let off = distance(&found, &vectors.tensor(what));
            assert!(off < 1e-4, "{name}, {what}: {off}");
        }
        let alpha = vectors.number("alpha");
        let trainer = HeadsModule {
            heads,
            context: context(backbone, alpha, None),
        };
        let item = TrainItem {
            index: 0,
            sample: Arc::new(sample),
        };
        let valid = InferenceStep::step(&burn::module::Module::valid(&trainer), item.clone());
        let mut learned = TrainStep::step(&trainer, item);
        for (what, found) in [
            ("loss", learned.item.loss),
            ("loss", valid.loss),
            ("loss_regression", learned.item.regression),
        ] {
            let expected = vectors.tensor(what);
            let off = distance(&[found as f32], &expected);
            assert!(off < 1e-4, "{name}, {what}: {found}, expected {expected:?}");
        }
        for (layer, head) in trainer.heads.layers.iter().enumerate() {
            for (matrix, id) in [("fc1", head.fc1.weight.id), ("fc2", head.fc2.weight.id)] {
                let found: Tensor<2> = learned.grads.remove(id).expect("a gradient");
                let found = to_vec(found.swap_dims(0, 1)).expect("values");
                let expected = vectors.tensor(&format!("grad.{layer}.{matrix}"));
                let off = distance(&found, &expected);
                assert!(off < 1e-4, "{name}, layer {layer}, {matrix}: {off}");
            }
        }
        assert!(learned.grads.is_empty());
    }
}

/// A trainer in a folder, for a model of this name.
fn trainer(backbone: &Backbone, recipe: &TrainHeadsConfig, folder: &Path) -> HeadsTrainer {
    HeadsTrainer::new(backbone.clone())
        .config(recipe.clone())
        .folder(folder, "a model")
}

fn weights(heads: &RetainingHeads) -> Vec<f32> {
    let layers = heads.layers.iter();
    let matrices = layers.flat_map(|head| [head.fc1.weight.val(), head.fc2.weight.val()]);
    matrices.flat_map(|m| to_vec(m).expect("values")).collect()
}

/// Samples of random tokens, with a question in front.
fn random_samples(count: usize, rows: usize, vocab: u32) -> Vec<Arc<Sample>> {
    use rand::{RngExt, SeedableRng};
    let mut random = rand::rngs::Xoshiro256PlusPlus::seed_from_u64(5);
    (0..count)
        .map(|_| {
            let ids = (0..rows).map(|_| random.random_range(0..vocab)).collect();
            Arc::new(Sample {
                ids,
                query: 1..5,
                scored: 5..rows - 10,
                answer: rows - 6..rows,
            })
        })
        .collect()
}

/// The losses of one sample under the given heads, without a smoothing loss, on the scale of their labels.
fn step(backbone: &Backbone, heads: &RetainingHeads, sample: &Arc<Sample>) -> StepOutput {
    let mut context = context(backbone.clone(), 0.0, None);
    let shared = Arc::get_mut(&mut context).expect("one owner");
    shared.scale = Scale::of_labels(heads.label_scale.clone());
    let module = HeadsModule {
        heads: heads.clone(),
        context,
    };
    let item = TrainItem {
        index: 0,
        sample: sample.clone(),
    };
    InferenceStep::step(&module, item)
}

#[test]
fn one_sample_is_overfitted() {
    let (config, backbone) = backbone("llama-gqa");
    let sample = Arc::new(Vectors::open("llama-gqa").sample());
    let recipe = TrainHeadsConfig::new()
        .with_width(128)
        .with_steps(600)
        .with_warm_up(Some(20))
        .with_round(200)
        .with_alpha(0.0)
        .with_learning_rate(5e-3);
    let folder = tempfile::tempdir().expect("a folder");
    let trained = trainer(&backbone, &recipe, &folder.path().join("run"))
        .fit([sample.clone()])
        .expect("a run");
    assert_eq!(trained.rounds.len(), 3);
    assert_eq!(trained.best, 3);
    let regression = |heads: &RetainingHeads| step(&backbone, heads, &sample).regression;
    let device = Device::flex();
    device.seed(recipe.seed);
    let mut fresh = RetainingHeadsConfig::new()
        .with_width(128)
        .init(&config, &device);
    fresh.label_scale.clone_from(&trained.heads.label_scale);
    let (before, after) = (regression(&fresh), regression(&trained.heads));
    assert!(after < 0.01 * before, "{before} became {after}");
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let (config, backbone) = backbone("qwen3-qknorm");
    let samples = random_samples(9, 60, config.vocab_size as u32);
    let (held_out, train) = samples.split_at(2);
    let recipe = TrainHeadsConfig::new()
        .with_width(8)
        .with_steps(20)
        .with_warm_up(Some(5))
        .with_batch(2)
        .with_round(3)
        .with_patience(None);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("parts");
    let run = |trainer: HeadsTrainer| trainer.held_out(held_out.to_vec()).fit(train.to_vec());
    let whole = trainer(&backbone, &recipe, &folder.path().join("whole"));
    let whole = run(whole).expect("a run");
    assert_eq!(whole.rounds.len(), 7);
    assert_eq!(whole.rounds[6].step, 20);
    assert!(!whole.interrupted);

    let stopped = trainer(&backbone, &recipe, &path).progress(|progress| match progress {
        TrainProgress::Round(_) => ControlFlow::Break(()),
        TrainProgress::Sample { .. } => ControlFlow::Continue(()),
    });
    let parts = run(stopped).expect("a run");
    assert!(parts.rounds.len() < 7, "stopped too late to show anything");
    assert!(parts.interrupted);

    // As after a kill: a last checkpoint of which a part is missing.
    let last = parts.rounds.len();
    std::fs::remove_file(path.join(format!("checkpoint/optimizer-{last}.bpk"))).expect("a part");
    let resume = || trainer(&backbone, &recipe, &path).resume(true);
    let resumed = run(resume()).expect("the rest");
    assert_eq!(resumed.rounds, whole.rounds);
    assert_eq!(resumed.best, whole.best);
    assert_eq!(weights(&resumed.heads), weights(&whole.heads));

    // A finished run is only read.
    let again = run(resume()).expect("the heads");
    assert_eq!(weights(&again.heads), weights(&whole.heads));

    let refused = run(trainer(&backbone, &recipe, &path))
        .expect_err("a run is there")
        .to_string();
    assert!(refused.contains("--resume"), "{refused}");
    let refused = run(resume().config(recipe.clone().with_alpha(0.5)))
        .expect_err("another run")
        .to_string();
    assert!(refused.contains("alpha was 0.00025"), "{refused}");
    let refused = run(resume().start_from(whole.heads))
        .expect_err("another start")
        .to_string();
    assert!(refused.contains("heads to start from"), "{refused}");
}

/// Nor does it panic: Burn's learner reads checkpoints without a way to say what is wrong with them.
#[test]
fn a_checkpoint_that_is_cut_is_not_resumed_from() {
    let (config, backbone) = backbone("llama-gqa");
    let samples = random_samples(3, 50, config.vocab_size as u32);
    let recipe = TrainHeadsConfig::new()
        .with_width(4)
        .with_steps(6)
        .with_warm_up(Some(2))
        .with_round(2)
        .with_patience(None);
    let folder = tempfile::tempdir().expect("a folder");
    let whole = trainer(&backbone, &recipe, &folder.path().join("whole"));
    let whole = whole.fit(samples.clone()).expect("a run");
    for part in ["model", "optimizer", "scheduler"] {
        let path = folder.path().join(part);
        let stopped = trainer(&backbone, &recipe, &path).progress(|progress| match progress {
            TrainProgress::Round(_) => ControlFlow::Break(()),
            TrainProgress::Sample { .. } => ControlFlow::Continue(()),
        });
        let parts = stopped.fit(samples.clone()).expect("a round");
        assert!(parts.interrupted);
        let file = path.join(format!("checkpoint/{part}-{}.bpk", parts.rounds.len()));
        let bytes = std::fs::read(&file).expect("a part");
        std::fs::write(&file, &bytes[..bytes.len() / 2]).expect("cut");
        let resumed = trainer(&backbone, &recipe, &path).resume(true);
        let resumed = resumed.fit(samples.clone()).expect("the rest");
        assert_eq!(resumed.rounds, whole.rounds, "{part}");
    }
}

/// Where Burn's loggers panic, and its checkpoints name no file.
#[test]
fn a_folder_that_cannot_be_written_stops_the_run() {
    let (config, backbone) = backbone("llama-gqa");
    let samples = random_samples(2, 50, config.vocab_size as u32);
    let recipe = TrainHeadsConfig::new()
        .with_width(4)
        .with_steps(6)
        .with_round(2);
    let folder = tempfile::tempdir().expect("a folder");
    type Spoil = fn(&Path);
    let spoils: [(&str, Spoil); 3] = [
        ("logs", |path: &Path| {
            std::fs::write(path.join("train"), "a file").expect("written");
        }),
        ("checkpoints", |path: &Path| {
            std::fs::remove_dir(path.join("checkpoint")).expect("removed");
        }),
        ("all", |path: &Path| {
            std::fs::remove_dir_all(path).expect("removed");
        }),
    ];
    for (name, spoil) in spoils {
        let path = folder.path().join(name);
        let (spoiled, mut is_whole) = (path.clone(), true);
        let trainer = trainer(&backbone, &recipe, &path).progress(move |progress| {
            let learns = matches!(progress, TrainProgress::Sample { done: 1.., .. });
            if learns && std::mem::take(&mut is_whole) {
                spoil(&spoiled);
            }
            ControlFlow::Continue(())
        });
        match trainer.fit(samples.clone()).expect_err("no place") {
            TrainError::File(error) => assert!(error.path.starts_with(&path), "{name}: {error}"),
            other => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn a_run_of_another_model_is_not_resumed() {
    let (config, backbone) = backbone("llama-gqa");
    let samples = random_samples(2, 50, config.vocab_size as u32);
    let recipe = TrainHeadsConfig::new().with_width(4).with_steps(2);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run");
    trainer(&backbone, &recipe, &path)
        .fit(samples.clone())
        .expect("a run");
    let resume = |fingerprint: &str| {
        trainer(&backbone, &recipe, &path)
            .folder(&path, fingerprint)
            .resume(true)
            .fit(samples.clone())
    };
    match resume("another model").expect_err("a run of another model") {
        TrainError::OtherModel {
            folder,
            expected,
            found,
        } => assert_eq!(
            (folder, expected.as_str(), found.as_str()),
            (path.clone(), "a model", "another model")
        ),
        other => panic!("{other}"),
    }
    resume("a model").expect("the heads");

    // As an earlier version wrote it.
    let file = path.join("settings.json");
    let text = std::fs::read_to_string(&file).expect("settings");
    let mut settings: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    settings.as_object_mut().expect("fields").remove("model");
    std::fs::write(&file, settings.to_string()).expect("written");
    let error = resume("a model").expect_err("a run of an unknown model");
    assert!(matches!(error, TrainError::UnknownModel { .. }), "{error}");
    let advice = r#"add "model": "a model" to the file"#;
    assert!(error.to_string().contains(advice), "{error}");
    settings["model"] = "a model".into();
    std::fs::write(&file, settings.to_string()).expect("written");
    let heads = resume("a model").expect("the heads").heads;
    // They need the folder no longer.
    drop(folder);
    assert!(weights(&heads).iter().all(|value| value.is_finite()));
}

#[test]
fn cached_features_equal_computed_ones() {
    let (config, backbone) = backbone("qwen2-bias");
    let samples = random_samples(4, 50, config.vocab_size as u32);
    let recipe = TrainHeadsConfig::new()
        .with_width(8)
        .with_steps(8)
        .with_warm_up(Some(2))
        .with_round(4);
    let folder = tempfile::tempdir().expect("a folder");
    let run = |name: &str, limit: Option<u64>| {
        let mut trainer = trainer(&backbone, &recipe, &folder.path().join(name));
        if let Some(limit) = limit {
            let path = folder.path().join(format!("{name}-features"));
            let cache = FeatureCache::open(&path, limit, "a model", DType::F32);
            trainer = trainer.cache(cache.expect("a cache"));
        }
        weights(&trainer.fit(samples.clone()).expect("a run").heads)
    };
    let computed = run("computed", None);
    assert_eq!(computed, run("kept", Some(u64::MAX)));
    let files = |name: &str| {
        let path = folder.path().join(format!("{name}-features"));
        let files = std::fs::read_dir(path).expect("a folder");
        files
            .map(|file| file.expect("a file").metadata().expect("its size").len())
            .collect::<Vec<u64>>()
    };
    assert_eq!(files("kept").len(), 4);
    // Room for two of four.
    let limit = files("kept")[0] * 5 / 2;
    assert_eq!(computed, run("short", Some(limit)));
    assert_eq!(files("short").len(), 2);
}

#[test]
fn devices_share_the_samples_of_a_step() {
    let (config, backbone) = backbone("llama-gqa");
    let samples = random_samples(5, 50, config.vocab_size as u32);
    let recipe = TrainHeadsConfig::new()
        .with_width(8)
        .with_steps(6)
        .with_warm_up(Some(2))
        .with_batch(2)
        .with_round(1)
        .with_patience(None);
    let run = |devices: usize| {
        let mut trainer = HeadsTrainer::new(backbone.clone()).config(recipe.clone());
        for _ in 1..devices {
            trainer = trainer.also(backbone.clone());
        }
        let trained = trainer.fit(samples.clone());
        trained.map(|done| weights(&done.heads))
    };
    let (one, two) = (run(1).expect("a run"), run(2).expect("a run"));
    let off = distance(&two, &one);
    assert!(off < 1e-5, "{off}");
    let error = run(3).expect_err("two samples for three devices");
    assert!(
        error.to_string().contains("multiple of the 3 devices"),
        "{error}"
    );
}

#[test]
fn a_broken_cache_file_is_replaced() {
    let (config, backbone) = backbone("qwen2-bias");
    let sample = random_samples(1, 40, config.vocab_size as u32).remove(0);
    let folder = tempfile::tempdir().expect("a folder");
    let heads = RetainingHeadsConfig::new()
        .with_width(4)
        .init(&config, &Device::flex());
    let loss = || {
        let cache = FeatureCache::open(folder.path(), u64::MAX, "a model", DType::F32);
        let trainer = HeadsModule {
            heads: heads.clone(),
            context: context(backbone.clone(), 0.1, Some(cache.expect("a cache"))),
        };
        let item = TrainItem {
            index: 0,
            sample: sample.clone(),
        };
        InferenceStep::step(&trainer, item).loss
    };
    let first = loss();
    let file = std::fs::read_dir(folder.path()).expect("a folder").next();
    let file = file.expect("one").expect("a file").path();
    let bytes = std::fs::read(&file).expect("bytes");
    std::fs::write(&file, &bytes[..bytes.len() / 2]).expect("cut");
    assert_eq!(loss(), first);
    assert_eq!(std::fs::read(&file).expect("bytes"), bytes, "written again");
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run() {
    let (config, backbone) = backbone("llama-gqa");
    let recipe = TrainHeadsConfig::new()
        .with_width(4)
        .with_steps(50)
        .with_round(10)
        .with_alpha(f64::MAX);
    let error = HeadsTrainer::new(backbone)
        .config(recipe)
        .fit(random_samples(2, 40, config.vocab_size as u32))
        .expect_err("no number");
    assert!(
        matches!(error, TrainError::NotFinite { sample: 0, .. }),
        "{error}"
    );
}

#[test]
fn compressors_are_evaluated_on_held_out_samples() {
    let (config, backbone) = backbone("llama-gqa");
    let samples = random_samples(3, 80, config.vocab_size as u32);
    let path = fixture("models/llama-gqa/heads.safetensors");
    let heads = RetainingHeads::load(&path, &config, FloatDType::F32, &Device::flex());
    let (heads, random) = (heads.expect("heads"), Random::new(1));
    let mut reported = Vec::new();
    let found = evaluate(
        &backbone,
        &[&heads, &QueryAware, &random],
        &samples,
        0.5,
        |done, all| {
            reported.push((done, all));
            ControlFlow::Continue(())
        },
    )
    .expect("evaluations");
    assert_eq!(reported, [(1, 3), (2, 3), (3, 3)]);
    assert_eq!(found.len(), 3);
    for evaluation in &found {
        assert_eq!(evaluation.layers.len(), config.num_hidden_layers);
        assert!((0.0..=1.0).contains(&evaluation.all.recall));
    }
    // Half of the rows at random: about half of the best, and of the attention.
    let floor = found[2].all;
    assert!((floor.recall - 0.5).abs() < 0.15, "{floor:?}");
    assert!((floor.mass - 0.5).abs() < 0.15, "{floor:?}");
    // The same as the trainer's own validation.
    let trainer = HeadsModule {
        heads: heads.clone(),
        context: context(backbone, 0.0, None),
    };
    let item = TrainItem {
        index: 0,
        sample: samples[0].clone(),
    };
    let own = InferenceStep::step(&trainer, item);
    assert_eq!(own.layers.len(), config.num_hidden_layers);
}

#[test]
fn saved_heads_load_unchanged() {
    let (config, _) = backbone("qwen2-bias");
    let heads = RetainingHeadsConfig::new()
        .with_width(6)
        .init(&config, &Device::flex());
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("heads.safetensors");
    let card = HeadsCard {
        base_model: Some("a model".into()),
        more: [("steps".to_owned(), "3".to_owned())].into(),
        ..HeadsCard::default()
    };
    save_heads(&heads, &path, FloatDType::F32, &card).expect("written");
    let info = HeadsFile::open(&path, &config)
        .expect("a file of heads")
        .info()
        .clone();
    assert_eq!(info.width, 6);
    assert_eq!(info.base_model.as_deref(), Some("a model"));
    assert_eq!(info.metadata["steps"], "3");
    let read = RetainingHeads::load(&path, &config, FloatDType::F32, &Device::flex());
    assert_eq!(weights(&read.expect("heads")), weights(&heads));
    save_heads(&heads, &path, FloatDType::BF16, &card).expect("written");
    let info = HeadsFile::open(&path, &config)
        .expect("a file of heads")
        .info()
        .clone();
    assert_eq!(info.dtypes, [FloatDType::BF16]);

    let absent = folder.path().join("no/such/folder/heads.safetensors");
    let error = save_heads(&heads, &absent, FloatDType::F32, &card).expect_err("no folder");
    assert!(error.to_string().contains("no/such/folder"), "{error}");
}
