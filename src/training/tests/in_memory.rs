//! Training in memory, and of existing heads further.

use std::process::Command;

use super::*;
use crate::LanguageModel;
use crate::apb::heads::HeadsShape;
use crate::model::AttentionShape;

fn recipe(steps: usize) -> TrainHeadsConfig {
    TrainHeadsConfig::new()
        .with_width(8)
        .with_steps(steps)
        .with_warm_up(Some(2))
        .with_round(2)
        .with_learning_rate(4e-3)
}

#[test]
fn a_run_in_memory_equals_one_in_a_folder() {
    let (config, backbone) = backbone("llama-gqa");
    let samples = random_samples(6, 60, config.vocab_size as u32);
    let (held_out, train) = samples.split_at(2);
    let folder = tempfile::tempdir().expect("a folder");
    let fit = |trainer: HeadsTrainer| {
        let trained = trainer.held_out(held_out.to_vec()).fit(train.to_vec());
        trained.expect("a run")
    };
    let start = fit(HeadsTrainer::new(backbone.clone()).config(recipe(4))).heads;
    for start in [None, Some(start)] {
        let from = |trainer: HeadsTrainer| match &start {
            Some(heads) => trainer.start_from(heads.clone()),
            None => trainer,
        };
        let name = format!("run-{}", start.is_some());
        let in_folder = trainer(&backbone, &recipe(6), &folder.path().join(name));
        let in_folder = fit(from(in_folder));
        let in_memory = fit(from(HeadsTrainer::new(backbone.clone()).config(recipe(6))));
        assert_eq!(in_memory.rounds, in_folder.rounds);
        assert_eq!(in_memory.best, in_folder.best);
        assert_eq!(weights(&in_memory.heads), weights(&in_folder.heads));
    }
}

/// In a process of its own, whose temporary files are in a folder of its own.
#[test]
fn a_run_in_memory_leaves_nothing_on_disk() {
    const FOLDER: &str = "APB_TEST_TEMPORARY";
    if std::env::var_os(FOLDER).is_some() {
        let (config, backbone) = backbone("llama-gqa");
        let samples = random_samples(2, 50, config.vocab_size as u32);
        let during = Arc::new(Mutex::new(0));
        let counted = during.clone();
        let trainer = HeadsTrainer::new(backbone)
            .config(recipe(4))
            .progress(move |_| {
                let files = std::fs::read_dir(std::env::temp_dir()).expect("a folder");
                *counted.lock().expect("a number") = files.count();
                ControlFlow::Continue(())
            });
        let trained = trainer.fit(samples).expect("a run");
        assert_eq!(*during.lock().expect("a number"), 1);
        assert!(
            weights(&trained.heads)
                .iter()
                .all(|value| value.is_finite())
        );
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let name = "training::tests::in_memory::a_run_in_memory_leaves_nothing_on_disk";
    let status = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", name, "--nocapture"])
        .env(FOLDER, "1")
        .envs(["TMPDIR", "TMP", "TEMP"].map(|key| (key, folder.path())))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("it starts");
    assert!(status.success());
    let left = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 0);
}

#[test]
fn training_further_begins_at_the_loss_of_the_heads() {
    let (_, backbone) = backbone("llama-gqa");
    let sample = Arc::new(Vectors::open("llama-gqa").sample());
    let fit = |trainer: HeadsTrainer| trainer.fit([sample.clone()]).expect("a run");
    let new = |recipe| HeadsTrainer::new(backbone.clone()).config(recipe);
    let trained = fit(new(recipe(100).with_round(100).with_alpha(0.0)));
    let loss_of = |heads: &RetainingHeads| step(&backbone, heads, &sample).loss;
    // A step's loss is computed before its update: that of the first is the loss of the given heads. Their
    // width, and not the configuration's, is that of the result.
    let one = recipe(1).with_width(16).with_alpha(0.0);
    let further = fit(new(one.clone()).start_from(trained.heads.clone()));
    let (expected, found) = (loss_of(&trained.heads), further.rounds[0].loss);
    assert!(
        (found - expected).abs() < 1e-5 * expected,
        "{found}, {expected}"
    );
    let fresh = fit(new(one)).rounds[0].loss;
    assert!(found < 0.5 * fresh, "{found}, new heads {fresh}");
    assert_eq!(further.heads.layers[0].fc1.weight.dims()[1], 8);

    // The same heads in another dtype, on a device with gradients.
    let device = Device::flex().autodiff();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("heads.safetensors");
    save_heads(
        &trained.heads,
        &path,
        FloatDType::BF16,
        &HeadsCard::default(),
    )
    .expect("written");
    let shape = backbone.shape();
    let rounded = RetainingHeads::load(&path, shape, FloatDType::BF16, &device).expect("heads");
    let again = fit(new(recipe(1).with_alpha(0.0)).start_from(rounded));
    assert!((again.rounds[0].loss - expected).abs() < 0.05 * expected);
}

#[test]
fn heads_of_other_shapes_are_refused() {
    let (config, backbone) = backbone("llama-gqa");
    let samples = random_samples(1, 50, config.vocab_size as u32);
    let heads = |shape: AttentionShape| {
        let config = RetainingHeadsConfig::new().with_width(4);
        config.init(shape, &Device::flex())
    };
    let refusal = |heads| {
        let trainer = HeadsTrainer::new(backbone.clone()).config(recipe(1));
        let error = trainer.start_from(heads).fit(samples.clone());
        error.expect_err("heads of another model")
    };
    let shape = backbone.shape();
    let (mut layers, mut columns, mut kv_heads) = (shape, shape, shape);
    layers.layers += 1;
    columns.head_dim += 2;
    kv_heads.kv_heads += 1;
    let mut wider = heads(shape);
    wider.layers[1] = RetainingHeadsConfig::new()
        .with_width(5)
        .init(shape, &Device::flex())
        .layers
        .remove(0);
    let none = RetainingHeads {
        layers: Vec::new(),
        label_scale: None,
    };
    for (what, other) in [
        ("layers", heads(layers)),
        ("columns", heads(columns)),
        ("key/value heads", heads(kv_heads)),
        ("width", wider),
        ("layers", none),
    ] {
        match refusal(other) {
            TrainError::StartShape { expected, found } => {
                assert_ne!(expected, found);
                let columns = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
                let of_model = HeadsShape {
                    width: expected.width,
                    layers: shape.layers,
                    projections: columns,
                    kv_heads: shape.kv_heads,
                };
                assert_eq!(expected, of_model, "{what}");
            }
            other => panic!("{what}: {other}"),
        }
    }
    let mut biased = heads(shape);
    let bias = Tensor::zeros([4], &Device::flex());
    biased.layers[0].fc1.bias = Some(burn::module::Param::from_tensor(bias));
    let text = refusal(biased).to_string();
    assert!(text.contains("biases"), "{text}");
}

#[test]
fn samples_that_cannot_be_used_are_refused() {
    let folder = fixture("models/llama-gqa");
    let model = LanguageModel::load(folder, &Device::flex()).expect("a model");
    let config = &model.text.config;
    let good = random_samples(1, 50, config.vocab_size as u32).remove(0);
    let refusal = |samples: Vec<Sample>, held_out: Vec<Sample>| {
        let trainer = HeadsTrainer::new(&model).config(recipe(1));
        let error = trainer.held_out(held_out).fit(samples);
        error.expect_err("a sample that cannot be used")
    };
    let error = refusal(Vec::new(), Vec::new());
    assert!(matches!(error, TrainError::NoSamples), "{error}");

    let edited = |edit: &dyn Fn(&mut Sample)| {
        let mut sample = Sample::clone(&good);
        edit(&mut sample);
        sample
    };
    let context = config.context();
    let long = edited(&|sample| {
        sample.ids.resize(context + 1, 1);
        sample.answer = context - 5..context + 1;
    });
    let unlabelled = edited(&|sample| sample.answer = 50..50);
    let empty = edited(&|sample| {
        sample.ids.clear();
        (sample.query, sample.scored, sample.answer) = (0..0, 0..0, 0..0);
    });
    let unscored = edited(&|sample| sample.scored = 5..5);
    let beyond = edited(&|sample| sample.ids[7] = u32::MAX);
    let outside = edited(&|sample| sample.answer.end = 51);
    let overlapping = edited(&|sample| sample.scored.end = 47);
    #[allow(clippy::reversed_empty_ranges)]
    let reversed = edited(&|sample| sample.query = 4..1);
    for (what, sample) in [
        ("expected at most", long),
        ("the answer has no tokens", unlabelled),
        ("the answer has no tokens", empty),
        ("no tokens to score", unscored),
        ("4294967295", beyond),
        ("found 1..5, 5..40 and 44..51", outside),
        ("found 1..5, 5..47 and 44..50", overlapping),
        ("found 4..1, 5..40 and 44..50", reversed),
    ] {
        let good = Sample::clone(&good);
        let error = refusal(vec![good.clone(), sample.clone()], Vec::new());
        assert!(
            matches!(
                error,
                TrainError::Sample {
                    set: "sample",
                    index: 1,
                    ..
                }
            ),
            "{what}: {error}"
        );
        assert!(error.to_string().contains(what), "{what}: {error}");
        let error = refusal(vec![good], vec![sample.clone()]).to_string();
        assert!(error.starts_with("held-out sample 0: "), "{error}");
        // The same for those who run a backbone themselves.
        let backbone = Backbone::from(&model);
        let error = backbone.features(&sample, |_, _| Ok(()));
        let error = error.expect_err("features of no sample").to_string();
        assert!(error.contains(what), "{error}");
        let sample = [Arc::new(sample)];
        let random = Random::new(1);
        let compared = evaluate(&backbone, &[&random], &sample, 0.5, |_, _| {
            ControlFlow::Continue(())
        });
        let error = compared
            .expect_err("an evaluation of no sample")
            .to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a_stopped_run_returns_the_best_of_its_rounds() {
    let (config, backbone) = backbone("llama-gqa");
    let samples = random_samples(3, 50, config.vocab_size as u32);
    let stop_after = |samples_done: usize| {
        let trainer = HeadsTrainer::new(backbone.clone()).config(recipe(20));
        trainer
            .progress(move |progress| match progress {
                TrainProgress::Sample { done, .. } if done >= samples_done => {
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            })
            .fit(samples.clone())
    };
    let error = stop_after(1).expect_err("nothing has been learned");
    assert!(matches!(error, TrainError::Stopped), "{error}");
    let stopped = stop_after(5).expect("the rounds before");
    assert!(stopped.interrupted);
    assert_eq!(stopped.rounds.len(), 2, "of two steps each");
    let whole = HeadsTrainer::new(backbone.clone())
        .config(recipe(20))
        .fit(samples.clone())
        .expect("a run");
    assert_eq!(stopped.rounds[..], whole.rounds[..2]);

    let trainer = HeadsTrainer::new(backbone).config(recipe(20));
    trainer.interrupter().stop(None);
    let error = trainer.fit(samples).expect_err("stopped from outside");
    assert!(matches!(error, TrainError::Stopped), "{error}");
}

#[test]
fn runs_of_new_and_of_existing_heads_are_resumed_in_their_middle() {
    let (config, backbone) = backbone("llama-gqa");
    let samples = random_samples(5, 50, config.vocab_size as u32);
    let folder = tempfile::tempdir().expect("a folder");
    let first = HeadsTrainer::new(backbone.clone()).config(recipe(4));
    let start = first.fit(samples.clone()).expect("a run").heads;
    for start in [None, Some(start)] {
        let of = |name: &str| {
            let path = folder.path().join(format!("{name}-{}", start.is_some()));
            let run = trainer(&backbone, &recipe(8).with_patience(None), &path);
            match &start {
                Some(heads) => run.start_from(heads.clone()),
                None => run,
            }
        };
        let whole = of("whole").fit(samples.clone()).expect("a run");
        let stop = |progress: TrainProgress| match progress {
            TrainProgress::Round(_) => ControlFlow::Break(()),
            TrainProgress::Sample { .. } => ControlFlow::Continue(()),
        };
        let part = of("part").progress(stop).fit(samples.clone());
        let part = part.expect("a part of a run");
        assert!(part.interrupted && part.rounds.len() < whole.rounds.len());
        let resumed = of("part").resume(true).fit(samples.clone());
        let resumed = resumed.expect("the rest");
        assert_eq!(resumed.rounds, whole.rounds);
        assert_eq!(weights(&resumed.heads), weights(&whole.heads));
    }
}
