//! Sessions in tokens, and answers with an observer: asked again, stopped, refused.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{Device, FloatDType};
use burn_apb::LanguageModel;
use burn_apb::apb::{
    AnswerError, AnswerOptions, Observer, Session, SessionConfig, SessionError, StopReason,
    answer_with,
};
use burn_apb::text::sampler::{Sampler, SamplerConfig};

const DOCUMENT: [u32; 12] = [5, 99, 17, 430, 8, 77, 250, 3, 61, 12, 500, 44];
const QUESTION: [u32; 3] = [9, 101, 7];

fn model() -> LanguageModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama-gqa");
    LanguageModel::load(folder, &Device::flex()).expect("the small model loads")
}

fn session(model: &LanguageModel, config: SessionConfig) -> Session {
    Session::new(model.decoder.clone(), config)
}

fn ask(session: &mut Session, question: &[u32], tokens: usize) -> Vec<u32> {
    let mut greedy = Sampler::new(SamplerConfig::default()).expect("greedy");
    session
        .ask(question, &mut greedy, &[], tokens, |_| {
            ControlFlow::Continue(())
        })
        .expect("an answer")
        .tokens
}

#[test]
fn questions_leave_the_session_as_it_was() {
    let model = model();
    let mut once = session(&model, SessionConfig::new(64));
    once.prefill(&DOCUMENT, |_, _| ControlFlow::Continue(()))
        .expect("prefilled");
    let first = ask(&mut once, &QUESTION, 8);
    let other = ask(&mut once, &[300, 301], 8);
    assert_eq!(ask(&mut once, &QUESTION, 8), first);
    assert_ne!(first, other, "the question matters");

    let mut fresh = session(&model, SessionConfig::new(64).with_chunk(5));
    fresh
        .prefill(&DOCUMENT, |_, _| ControlFlow::Continue(()))
        .expect("prefilled");
    assert_eq!(
        ask(&mut fresh, &QUESTION, 8),
        first,
        "passes of 5 rows change nothing"
    );
}

/// Each answer begins without tokens and grows by one.
#[test]
fn processors_receive_each_answer_from_its_start() {
    let model = model();
    let mut session = session(&model, SessionConfig::new(64));
    session
        .prefill(&DOCUMENT, |_, _| ControlFlow::Continue(()))
        .expect("prefilled");
    let (sender, seen) = std::sync::mpsc::channel();
    let mut sampler = Sampler::new(SamplerConfig::default())
        .expect("greedy")
        .with_processor(move |so_far: &[u32], logits: &mut [f32]| {
            logits[so_far.len()] = 1e6;
            sender.send(so_far.to_vec()).expect("received");
        });
    for _ in 0..2 {
        let go_on = |_| ControlFlow::Continue(());
        let answer = session.ask(&QUESTION, &mut sampler, &[], 3, go_on);
        assert_eq!(answer.expect("an answer").tokens, [0, 1, 2]);
        for expected in [&[][..], &[0], &[0, 1]] {
            assert_eq!(seen.try_recv().expect("a call"), expected);
        }
        assert!(seen.try_recv().is_err());
    }
}

#[test]
fn stop_tokens_end_an_answer_even_as_its_first() {
    let model = model();
    let mut session = session(&model, SessionConfig::new(64));
    session
        .prefill(&DOCUMENT, |_, _| ControlFlow::Continue(()))
        .expect("prefilled");
    let tokens = ask(&mut session, &QUESTION, 4);
    let mut greedy = Sampler::new(SamplerConfig::default()).expect("greedy");
    for (kept, stop) in tokens.iter().enumerate() {
        let expected = tokens.iter().position(|t| t == stop).expect("it is there");
        let answer = session
            .ask(&QUESTION, &mut greedy, &[*stop], 4, |_| {
                ControlFlow::Continue(())
            })
            .expect("an answer");
        assert_eq!(answer.stop_reason, StopReason::StopToken, "{kept}");
        assert_eq!(answer.tokens, tokens[..expected]);
    }
}

#[test]
fn a_session_refuses_what_it_cannot_hold() {
    let model = model();
    let mut session = session(&model, SessionConfig::new(16));
    let go_on = |_, _| ControlFlow::Continue(());
    let mut greedy = Sampler::new(SamplerConfig::default()).expect("greedy");
    let none = session.ask(
        &QUESTION,
        &mut greedy,
        &[],
        1,
        |_| ControlFlow::Continue(()),
    );
    assert!(matches!(none, Err(SessionError::NoDocument)), "{none:?}");
    let empty = session.prefill(&[], go_on);
    assert!(
        matches!(empty, Err(SessionError::Empty { .. })),
        "{empty:?}"
    );
    let beyond = session.prefill(&[1, 512], go_on);
    assert!(
        matches!(
            beyond,
            Err(SessionError::TokenOutOfRange {
                id: 512,
                position: 1,
                ..
            })
        ),
        "{beyond:?}"
    );
    let long = session.prefill(&[1; 17], go_on);
    assert!(matches!(long, Err(SessionError::Full(_))), "{long:?}");

    session.prefill(&DOCUMENT, go_on).expect("prefilled");
    let long = session.ask(
        &QUESTION,
        &mut greedy,
        &[],
        3,
        |_| ControlFlow::Continue(()),
    );
    assert!(matches!(long, Err(SessionError::Full(_))), "{long:?}");
    assert_eq!(
        ask(&mut session, &QUESTION, 2).len(),
        2,
        "exactly full is not too full"
    );
}

/// Stops after so many calls.
struct Stops {
    prefill: usize,
    text: usize,
}

impl Observer for Stops {
    fn progress(&mut self, _: usize, _: usize) -> ControlFlow<()> {
        count_down(&mut self.prefill)
    }

    fn text(&mut self, _: &str) -> ControlFlow<()> {
        count_down(&mut self.text)
    }
}

fn count_down(left: &mut usize) -> ControlFlow<()> {
    *left = left.saturating_sub(1);
    match *left {
        0 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    }
}

#[test]
fn an_observer_stops_the_prefill_and_the_answer() {
    let model = model();
    let document = "It was a bright cold day in April, and the clocks were striking thirteen.";
    let options = AnswerOptions {
        chunk: Some(16),
        max_tokens: 400,
        ..AnswerOptions::default()
    };
    let mut stops = Stops {
        prefill: 2,
        text: 1,
    };
    let stopped = answer_with(&model, document, "When?", &options, &mut stops);
    assert!(
        matches!(
            stopped,
            Err(AnswerError::Session(SessionError::Cancelled {
                // Two of three layers of the first 16 rows.
                done: 10,
                ..
            }))
        ),
        "{stopped:?}"
    );

    let mut stops = Stops {
        prefill: usize::MAX,
        text: 2,
    };
    let answer = answer_with(&model, document, "When?", &options, &mut stops).expect("an answer");
    assert_eq!(answer.completion.stop_reason, StopReason::Cancelled);
    assert!(answer.completion.tokens.len() < 400, "{answer:?}");
}

/// The cache has the dtype of the weights, whatever they are.
#[test]
fn a_session_has_the_dtype_of_its_model() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama-gqa");
    for dtype in [FloatDType::BF16, FloatDType::F16] {
        let model = LanguageModel::load_with(&folder, dtype, &Device::flex(), &mut |_| ());
        let model = model.expect("the small model loads");
        let mut session = session(&model, SessionConfig::new(64));
        session
            .prefill(&DOCUMENT, |_, _| ControlFlow::Continue(()))
            .expect("prefilled");
        assert_eq!(ask(&mut session, &QUESTION, 4).len(), 4);
        let answer = answer_with(&model, "A text.", "What?", &options(4), &mut ());
        assert_eq!(
            answer.expect("an answer").completion.tokens.len(),
            4,
            "{dtype:?}"
        );
    }
}

fn options(max_tokens: usize) -> AnswerOptions {
    AnswerOptions {
        max_tokens,
        ..AnswerOptions::default()
    }
}
