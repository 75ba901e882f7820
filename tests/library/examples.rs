//! The examples, on a small model.

#[allow(dead_code)]
#[path = "../../examples/constrained_output.rs"]
mod constrained_output;
#[allow(dead_code)]
#[path = "../../examples/lora.rs"]
mod lora;
#[allow(dead_code)]
#[path = "../../examples/several_questions.rs"]
mod several_questions;
#[allow(dead_code)]
#[path = "../../examples/stream_and_cancel.rs"]
mod stream_and_cancel;

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
