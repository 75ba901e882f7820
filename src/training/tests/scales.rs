//! Labels and inputs of any scale.

use super::*;
use crate::apb::heads::{HeadsError, LabelScale, LabelScaleFault};
use crate::model::{Architecture, Decoder, Projection};
use crate::training::run_folder::{RoundReport, RunFolder};
use crate::training::scale::Scale;

/// Multiplies the weights and biases of a layer's queries and keys.
fn scale_up(projection: &mut Projection, weights: f32, biases: f32) {
    let linear = projection.float_mut().expect("a float layer");
    linear.weight = linear.weight.clone().map(|weight| weight * weights);
    linear.bias = linear
        .bias
        .take()
        .map(|bias| bias.map(|bias| bias * biases));
}

/// A decoder with random weights and biases whose attention logits grow with the square of `weights`.
fn random_backbone(weights: f32, biases: f32) -> (DecoderConfig, Backbone) {
    let device = Device::flex();
    device.seed(3);
    let config = DecoderConfig::new(Architecture::Qwen2, 64, 32, 48, 3, 4, 2, 8)
        .with_qkv_bias(true)
        .with_max_position_embeddings(256);
    let mut decoder: Decoder = config.init(&device);
    for block in &mut decoder.layers {
        scale_up(&mut block.self_attn.q_proj, weights, biases);
        scale_up(&mut block.self_attn.k_proj, weights, biases);
    }
    let backbone = Backbone::new(Arc::new(decoder), 256, 32);
    (config, backbone)
}

fn recipe(steps: usize) -> TrainHeadsConfig {
    TrainHeadsConfig::new()
        .with_width(32)
        .with_steps(steps)
        .with_round(steps)
}

/// The mean loss of the samples of a run's first steps, each before its update.
fn first_loss(backbone: &Backbone, recipe: TrainHeadsConfig) -> f64 {
    let recipe = recipe.with_alpha(0.0).with_learning_rate(1e-9);
    let trained = HeadsTrainer::new(backbone.clone())
        .config(recipe)
        .fit(random_samples(4, 80, 64));
    trained.expect("a run").rounds[0].loss
}

#[test]
fn labels_of_any_magnitude_begin_at_one_loss() {
    let (mut scaled, mut raw) = (Vec::new(), Vec::new());
    for (weights, biases) in [(0.1, 0.1), (1.0, 1.0), (30.0, 30.0), (3.0, 300.0)] {
        let (_, backbone) = random_backbone(weights, biases);
        scaled.push(first_loss(&backbone, recipe(4)));
        raw.push(first_loss(&backbone, recipe(4).with_scale_samples(0)));
    }
    let spread = |losses: &[f64]| {
        let all = losses.iter().copied();
        all.clone().fold(0.0, f64::max) / all.fold(f64::INFINITY, f64::min)
    };
    assert!(spread(&scaled) < 1.5, "{scaled:?}, unscaled {raw:?}");
    assert!(spread(&raw) > 1000.0, "{raw:?}");
    assert!(
        scaled.iter().all(|loss| (0.2..0.8).contains(loss)),
        "{scaled:?}"
    );
}

#[test]
fn random_weights_with_biases_are_learned_without_nan() {
    for (weights, biases) in [(1.0, 1.0), (1.0, 100.0), (0.0, 0.0), (0.0, 100.0)] {
        let (_, backbone) = random_backbone(weights, biases);
        let samples = random_samples(10, 80, 64);
        let (held_out, train) = samples.split_at(2);
        let trained = HeadsTrainer::new(backbone)
            .config(recipe(60).with_round(20).with_patience(None))
            .held_out(held_out.to_vec())
            .fit(train.to_vec())
            .expect("a run");
        assert_eq!(trained.rounds.len(), 3);
        let losses = trained.rounds.iter().map(|round| round.valid_loss);
        let losses: Vec<f64> = losses.map(|loss| loss.expect("a loss")).collect();
        assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
        assert!(weights_are_finite(&trained.heads));
        // Without queries all labels are equal, and nothing is left to learn after a while.
        if weights > 0.0 {
            assert!(losses[2] < losses[0], "{weights}, {biases}: {losses:?}");
        }
    }
}

fn weights_are_finite(heads: &RetainingHeads) -> bool {
    super::weights(heads)
        .iter()
        .all(|weight| weight.is_finite())
}

#[test]
fn the_order_of_labels_is_kept() {
    let (_, backbone) = random_backbone(1.0, 10.0);
    let samples = random_samples(3, 80, 64);
    let scale = Scale::measure(&backbone, None, &samples, None, || true).expect("a scale");
    for sample in &samples {
        let visit = |layer: usize, features: LayerFeatures| {
            let scaled = scale.labels(layer, features.labels.logits.clone());
            let quality = Quality::new(scaled.clone(), &features.labels, 0.1)?;
            assert_eq!(quality.recall, 1.0);
            let scaled = to_vec(scaled)?;
            let off_scale = scaled.iter().filter(|value| value.abs() > 6.0).count();
            assert!(off_scale * 50 < scaled.len(), "layer {layer}: {scaled:?}");
            Ok(())
        };
        backbone.features(sample, visit).expect("features");
    }
    let none = Scale::measure(&backbone, None, &samples, None, || false);
    assert!(matches!(none, Err(TrainError::Stopped)), "{none:?}");
}

#[test]
fn written_heads_score_as_they_learned_and_keep_their_scale() {
    let (config, backbone) = random_backbone(1.0, 30.0);
    let samples = random_samples(6, 80, 64);
    let (held_out, train) = samples.split_at(1);
    let trained = HeadsTrainer::new(backbone.clone())
        .config(recipe(30).with_round(30))
        .held_out(held_out.to_vec())
        .fit(train.to_vec())
        .expect("a run");
    let scale = trained.heads.label_scale.clone().expect("a scale");
    // What validation found with scaled inputs is what the heads do with inputs as they are.
    let found = step(&backbone, &trained.heads, &held_out[0]);
    let smoothing = found.loss - found.regression;
    assert!(smoothing.abs() < 1e-6, "without alpha");
    let recall = Quality::mean(&found.layers).recall;
    assert!(
        (recall - trained.rounds[0].recall).abs() < 0.02,
        "{recall}, {:?}",
        trained.rounds
    );
    let compared = evaluate(&backbone, &[&trained.heads], held_out, 0.1, |_, _| {
        ControlFlow::Continue(())
    });
    assert_eq!(compared.expect("an evaluation").len(), 1);

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("heads.safetensors");
    let save = |heads: &RetainingHeads| {
        save_heads(heads, &path, FloatDType::F32, &HeadsCard::default()).expect("written");
        HeadsFile::open(&path, &config)
    };
    let file = save(&trained.heads).expect("heads");
    assert_eq!(file.label_scale(), Some(&scale));
    let read = file.load(FloatDType::F32, &Device::flex()).expect("heads");
    assert_eq!(read.label_scale.as_ref(), Some(&scale));
    assert_eq!(super::weights(&read), super::weights(&trained.heads));

    #[cfg(feature = "pytorch")]
    {
        let again = folder.path().join("again.safetensors");
        crate::apb::heads::convert_heads(&path, &again, None).expect("converted");
        let again = HeadsFile::open(&again, &config).expect("heads");
        assert_eq!(again.label_scale(), Some(&scale));
    }

    // Trained further, they begin where they were, whatever other samples would measure.
    let further = |heads: RetainingHeads| {
        let trainer = HeadsTrainer::new(backbone.clone()).config(recipe(1).with_alpha(0.0));
        trainer.start_from(heads).fit([held_out[0].clone()])
    };
    let more = further(read.clone()).expect("a run");
    let (begun, expected) = (more.rounds[0].loss, found.loss);
    assert!(
        (begun - expected).abs() < 1e-4 * expected,
        "{begun}, {expected}"
    );
    assert_eq!(more.heads.label_scale.as_ref(), Some(&scale));

    // Heads without a scale, such as published ones, go on with the logits themselves.
    let mut published = read;
    published.label_scale = None;
    let file = save(&published).expect("heads");
    assert_eq!(file.label_scale(), None);
    assert!(!file.info().metadata.contains_key("label_scale"));
    let raw = further(published.clone()).expect("a run");
    let expected = step(&backbone, &published, &held_out[0]).loss;
    let begun = raw.rounds[0].loss;
    assert!(
        (begun - expected).abs() < 1e-4 * expected,
        "{begun}, {expected}"
    );
    assert_eq!(raw.heads.label_scale, None);

    // A scale of other heads.
    let other = LabelScale::new(vec![vec![0.0; 2]; 2], vec![vec![1.0; 2]; 2]).expect("a scale");
    published.label_scale = Some(other);
    match save(&published).expect_err("a scale of two layers") {
        HeadsError::LabelScale { fault, .. } => {
            assert!(matches!(fault, LabelScaleFault::Shape { .. }), "{fault}");
        }
        error => panic!("{error}"),
    }
    let error = further(published).expect_err("a scale of two layers");
    assert!(matches!(error, TrainError::StartScale(_)), "{error}");
}

#[test]
fn a_run_without_its_scale_is_not_resumed() {
    let (_, backbone) = random_backbone(1.0, 1.0);
    let samples = random_samples(4, 60, 64);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run");
    let recipe = recipe(6).with_round(3);
    let run = |resume| {
        let trainer = trainer(&backbone, &recipe, &path).resume(resume);
        trainer.fit(samples.clone())
    };
    let heads = run(false).expect("a run").heads;
    let again = run(true).expect("the heads").heads;
    assert_eq!(super::weights(&again), super::weights(&heads));
    assert_eq!(again.label_scale, heads.label_scale);

    let file = path.join("scale.json");
    let text = std::fs::read_to_string(&file).expect("a scale");
    let refused = |what: &str| match run(true) {
        Err(TrainError::Scale { path, found }) => {
            assert_eq!(path, file);
            found
        }
        other => panic!("{what}: {other:?}"),
    };
    for hostile in [
        String::new(),
        "null".into(),
        "{}".into(),
        text[..text.len() / 2].to_owned(),
        text.replacen("\"std\":[[", "\"std\":[[-", 1),
        text.replacen("\"std\":[[", "\"std\":[[1,", 1),
        text.replacen("\"inputs\":[[", "\"inputs\":[[0,", 1),
        text.replacen("\"inputs\":[", "\"inputs\":[[1],", 1),
        r#"{"labels":null,"inputs":[[1]]}"#.into(),
    ] {
        assert_ne!(hostile, text);
        std::fs::write(&file, &hostile).expect("written");
        refused(&hostile);
    }
    std::fs::remove_file(&file).expect("removed");
    assert_eq!(refused("lost"), "no file");
    std::fs::write(&file, text).expect("written");
    run(true).expect("the heads");
}

#[test]
fn the_best_round_has_the_highest_recall() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut run = RunFolder::temporary(folder.path()).expect("a folder");
    assert_eq!(run.best(), 0);
    let mut best = |recalls: &[(f64, f64)], held_out: bool| {
        let rounds = recalls.iter().enumerate();
        let rounds = rounds.map(|(index, (recall, loss))| RoundReport {
            step: index + 1,
            loss: *loss,
            valid_loss: held_out.then_some(*loss),
            recall: *recall,
            mass: 0.5,
        });
        run.rounds = rounds.collect();
        (
            run.best(),
            run.out_of_patience(Some(2)),
            run.out_of_patience(None),
        )
    };
    let rounds = [(0.3, 1.0), (0.5, 0.8), (0.4, 0.2), (0.5, 0.4)];
    assert_eq!(best(&rounds, true), (2, true, false));
    assert_eq!(best(&rounds[..3], true), (2, false, false));
    assert_eq!(best(&rounds, false), (3, false, false));
    let broken = [(f64::NAN, 1.0), (0.1, f64::NAN)];
    assert_eq!(best(&broken, true).0, 2);
    assert_eq!(best(&broken, false).0, 1);
}
