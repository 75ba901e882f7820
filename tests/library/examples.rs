//! The examples, on a small model.

#[allow(dead_code)]
#[path = "../../examples/classifier.rs"]
mod classifier;
#[allow(dead_code)]
#[path = "../../examples/constrained_output.rs"]
mod constrained_output;
#[allow(dead_code)]
#[path = "../../examples/embed.rs"]
mod embed;
#[allow(dead_code)]
#[path = "../../examples/lora.rs"]
mod lora;
#[allow(dead_code)]
#[path = "../../examples/multi_rank.rs"]
mod multi_rank;
#[allow(dead_code)]
#[path = "../../examples/perplexity.rs"]
mod perplexity;
#[allow(dead_code)]
#[path = "../../examples/several_questions.rs"]
mod several_questions;
#[allow(dead_code)]
#[path = "../../examples/stream_and_cancel.rs"]
mod stream_and_cancel;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_apb::LanguageModel;
use burn_apb::apb::CancelToken;

const MODEL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/fixtures/models/llama-gqa"
);
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/LICENSE-MIT");

#[test]
fn an_answer_is_streamed_until_it_is_cancelled() {
    let token = CancelToken::new();
    let mut whole = Vec::new();
    stream_and_cancel::stream(MODEL, FILE, "Who may use it?", &token, &mut whole).unwrap();
    assert!(whole.len() > 1, "{whole:?}");
    token.cancel();
    let stopped = stream_and_cancel::stream(MODEL, FILE, "Who?", &token, &mut Vec::new());
    let stopped = stopped.unwrap_err().to_string();
    assert!(stopped.contains("cancelled after 0 of"), "{stopped}");
}

#[test]
fn several_questions_are_answered_alike_by_forks_and_from_disk() {
    let questions = [
        "Who may use it?".to_string(),
        "What is forbidden?".to_string(),
    ];
    let answers = several_questions::answers(MODEL, FILE, &questions).unwrap();
    assert_eq!(answers.len(), 2);
    assert_ne!(answers[0], answers[1]);
}

#[test]
fn texts_are_compared_and_the_module_survives_a_record() {
    let texts = ["The sun rises.", "The sun sets.", "1 + 1 = 2"].map(String::from);
    let similarities = embed::compare(MODEL, &texts).unwrap();
    for (number, row) in similarities.iter().enumerate() {
        assert!((row[number] - 1.0).abs() < 1e-5, "{similarities:?}");
        assert_eq!(row.len(), 3);
    }
    assert!(similarities[0][2] < 0.999, "{similarities:?}");
}

#[test]
fn a_classifier_learns_on_a_frozen_decoder_in_bf16() {
    let texts = ["The sun rises.", "1 + 1 = 2"].map(String::from);
    let losses = classifier::train(MODEL, &texts, 20).unwrap();
    assert!(losses[19] < 0.5 * losses[0], "{losses:?}");
}

#[test]
fn a_process_alone_drives_all_ranks() {
    let world = burn_apb::ranks::World::single();
    let answer = multi_rank::answer(&world, MODEL, FILE, "Who may use it?").unwrap();
    assert!(!answer.is_empty());
}

#[test]
fn lora_lowers_the_loss() {
    let losses = lora::fine_tune(MODEL, FILE, 3).unwrap();
    assert!(losses[2] < losses[0], "{losses:?}");
}

#[test]
fn a_constrained_answer_is_one_of_the_choices() {
    let choices = ["everyone", "nobody"].map(String::from);
    let question = "Who may use it?";
    let chosen = constrained_output::choose(MODEL, FILE, question, &choices).unwrap();
    assert!(choices.contains(&chosen), "{chosen}");
    let other = ["no one at all".to_string()];
    let only = constrained_output::choose(MODEL, FILE, question, &other).unwrap();
    assert_eq!(only, other[0]);
}

#[test]
fn perplexity_is_that_of_one_pass_a_window_however_rows_are_passed() {
    let device = Device::flex();
    let decoder = LanguageModel::load(MODEL, &device).unwrap().into_decoder();
    let ids: Vec<u32> = (0..40).map(|place| place * place % 97).collect();
    // Two windows; the last eight tokens are no window.
    let mut losses = Vec::new();
    for window in ids[..32].chunks_exact(16) {
        let tokens = |ids: &[u32]| {
            let ids: Vec<i32> = ids.iter().map(|id| id.cast_signed()).collect();
            let shape = [1, ids.len()];
            Tensor::<2, Int>::from_data(TensorData::new(ids, shape), (&device, DType::I32))
        };
        let logits = decoder.forward(tokens(window)).unwrap().squeeze_dim::<2>(0);
        let loss = CrossEntropyLossConfig::new().init(&device);
        let targets = tokens(&window[9..]).reshape([7]);
        losses.push(
            loss.forward(logits.narrow(0, 8, 7), targets)
                .into_scalar::<f32>(),
        );
    }
    let expected = f64::from((losses[0] + losses[1]) / 2.0).exp();
    for rows in [1, 3, 16, 512] {
        let (scored, found) =
            perplexity::perplexity(&decoder, &ids, 16, rows, burn_apb::model::KvDType::F32)
                .unwrap();
        assert_eq!(scored, 14);
        assert!(
            (found / expected - 1.0).abs() < 1e-4,
            "{rows} rows: {found}, expected {expected}"
        );
    }
    for (ids, window, rows, expected) in [
        (&ids[..], 2, 8, "windows of 2"),
        (&ids, 16, 0, " 0 rows"),
        (&ids[..15], 16, 8, " 15 tokens"),
        (&[u32::MAX; 16], 16, 8, "token 4294967295"),
    ] {
        let refused =
            perplexity::perplexity(&decoder, ids, window, rows, burn_apb::model::KvDType::F32);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
    }
}
