//! Documents that are prefilled once and asked in text.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use burn::tensor::Device;
use burn_apb::LanguageModel;
use burn_apb::apb::{
    AnswerError, AnswerOptions, CancelToken, CompressorConfig, DocumentSession, Method,
    PrefillConfig, SessionError, StopReason, answer_with,
};
use burn_apb::text::sampler::{BanTokens, Sampler, SamplerConfig};

const TEXT: &str = "It was a bright cold day in April, and the clocks were striking thirteen. \
    Winston Smith, his chin nuzzled into his breast in an effort to escape the vile wind, slipped \
    quickly through the glass doors of the mansions, though not quickly enough.";

fn model() -> LanguageModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama-gqa");
    LanguageModel::load(folder, &Device::flex()).expect("the small model loads")
}

/// Every method, over as many ranks as the model's heads allow.
fn methods() -> Vec<PrefillConfig> {
    let config = |method| match method {
        Method::Full => PrefillConfig::default(),
        Method::Ulysses => PrefillConfig::new(method, 2),
        _ => {
            let random = CompressorConfig::Random { seed: 1 };
            PrefillConfig::new(method, 3).with_compressor(random)
        }
    };
    Method::ALL.map(config).into()
}

fn text(document: &mut DocumentSession, question: &str) -> String {
    let reply = document.ask(question).max_tokens(12).run();
    reply.expect("an answer").text
}

#[test]
fn a_document_is_asked_often_and_answers_as_one_question_would() {
    let model = model();
    for config in methods() {
        let mut document = model.prefill(TEXT).method(config.clone()).run().unwrap();
        let first = text(&mut document, "When was it?");
        assert_ne!(first, text(&mut document, "Who was it?"), "{config:?}");
        assert_eq!(first, text(&mut document, "When was it?"), "{config:?}");
        if config.method != Method::Apb {
            let options = AnswerOptions {
                max_tokens: 12,
                prefill: config,
                ..AnswerOptions::default()
            };
            let once = answer_with(&model, TEXT, "When was it?", &options, &mut ()).unwrap();
            assert_eq!(once.text, first);
        }
    }
}

#[test]
fn a_document_sits_in_another_thread() {
    let mut document = model().prefill(TEXT).run().unwrap();
    let here = text(&mut document, "When?");
    let there = std::thread::spawn(move || text(&mut document, "When?"));
    assert_eq!(there.join().unwrap(), here);
}

#[test]
fn questions_longer_than_the_room_at_first_make_it_grow() {
    let model = model();
    let long = "Who was it? ".repeat(120);
    let mut document = model.prefill(TEXT).run().unwrap();
    let short = text(&mut document, "When?");
    let grown = text(&mut document, &long);
    let mut fresh = model.prefill(TEXT).run().unwrap();
    assert_eq!(text(&mut fresh, &long), grown);
    assert_eq!(text(&mut document, "When?"), short);
}

#[test]
fn a_stated_limit_refuses_before_it_is_reached() {
    let model = model();
    let tokens = model.prefill(TEXT).run().unwrap().tokens().len();
    let mut document = model.prefill(TEXT).limit(tokens + 40).run().unwrap();
    let fits = document.ask("When?").max_tokens(8).run().unwrap();
    assert_eq!(fits.completion.tokens.len(), 8);
    let long = document.ask("When?").max_tokens(80).run();
    assert!(matches!(
        long,
        Err(AnswerError::Session(SessionError::Full(_)) | AnswerError::TooLong { .. })
    ));
}

#[test]
fn forks_share_the_document_and_nothing_else() {
    let model = model();
    for config in methods() {
        let mut document = model.prefill(TEXT).method(config).run().unwrap();
        let questions = ["When was it?", "Who was it?"];
        let alone = questions.map(|question| text(&mut document, question));
        let mut fork = document.fork().unwrap();
        let mut second = fork.fork().unwrap();
        for (question, expected) in questions.iter().zip(&alone) {
            for session in [&mut document, &mut fork, &mut second] {
                assert_eq!(&text(session, question), expected);
            }
        }
        // The streams of two forks take turns.
        let mut one = document.ask(questions[0]).max_tokens(12).stream().unwrap();
        let mut other = fork.ask(questions[1]).max_tokens(12).stream().unwrap();
        let mut found = [String::new(), String::new()];
        loop {
            let pieces = [one.next(), other.next()];
            if pieces.iter().all(Option::is_none) {
                break;
            }
            for (found, piece) in found.iter_mut().zip(pieces) {
                found.extend(piece.map(|piece| piece.unwrap()));
            }
        }
        assert_eq!(found, alone);
    }
}

#[test]
fn a_stream_gives_the_answer_in_pieces_and_may_be_dropped() {
    let model = model();
    let mut document = model.prefill(TEXT).run().unwrap();
    let whole = document.ask("When?").max_tokens(12).run().unwrap();
    let mut stream = document.ask("When?").max_tokens(12).stream().unwrap();
    assert!(stream.reply().is_none());
    let pieces: Result<Vec<_>, _> = stream.by_ref().collect();
    let pieces = pieces.unwrap();
    assert!(pieces.len() > 1, "{pieces:?}");
    assert_eq!(pieces.concat(), whole.text);
    let reply = stream.reply().expect("the answer has ended");
    assert_eq!(reply.completion.tokens, whole.completion.tokens);
    drop(stream);

    let mut dropped = document.ask("Who?").max_tokens(500).stream().unwrap();
    dropped.next();
    drop(dropped);
    let again = document.ask("When?").max_tokens(12).run().unwrap();
    assert_eq!(again.text, whole.text);
}

#[test]
fn a_cancelled_prefill_ends_in_every_method() {
    let model = model();
    for config in methods() {
        // Before it begins, and from its own progress.
        let token = CancelToken::new();
        token.cancel();
        let builder = model.prefill(TEXT).method(config.clone());
        let none = builder.cancel(&token).run().unwrap_err();
        assert!(
            matches!(
                none,
                AnswerError::Session(SessionError::Cancelled { done: 0, .. })
            ),
            "{none:?}"
        );
        token.reset();
        let mut calls = 0;
        let builder = model.prefill(TEXT).method(config.clone()).cancel(&token);
        let stopped = builder.progress(|progress| {
            calls += 1;
            assert!(progress.done <= progress.total);
            token.cancel();
        });
        let stopped = stopped.run().unwrap_err();
        assert!(
            matches!(
                stopped,
                AnswerError::Session(SessionError::Cancelled { done, total }) if done > 0 && done < total
            ),
            "{config:?}: {stopped:?}"
        );
        assert_eq!(calls, 1, "the layer after the first is not computed");
    }
}

#[test]
fn questions_and_answers_are_cancelled_from_another_thread() {
    let mut document = model().prefill(TEXT).run().unwrap();
    let token = CancelToken::new();
    token.cancel();
    let none = document.ask("When?").cancel(&token).run();
    assert!(matches!(
        none,
        Err(AnswerError::Session(SessionError::Cancelled { .. }))
    ));

    token.reset();
    let (begun, wait) = mpsc::channel();
    let canceller = {
        let token = token.clone();
        std::thread::spawn(move || {
            wait.recv_timeout(Duration::from_secs(60)).expect("a piece");
            token.cancel();
        })
    };
    let question = document.ask("When?").max_tokens(3000).cancel(&token);
    let mut stream = question.stream().unwrap();
    let mut pieces = 0;
    for piece in stream.by_ref() {
        piece.unwrap();
        pieces += 1;
        let _ = begun.send(());
    }
    canceller.join().unwrap();
    let reply = stream.reply().expect("what there was");
    assert_eq!(reply.completion.stop_reason, StopReason::Cancelled);
    assert!(pieces < 3000, "{pieces}");
}

#[test]
fn a_saved_document_answers_as_before() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let mut document = model.prefill(TEXT).run().unwrap();
    let answer = text(&mut document, "When?");
    let mut fork = document.fork().unwrap();
    assert_eq!(text(&mut fork, "When?"), answer);
    fork.save(folder.path()).unwrap();
    let refused = document.save(folder.path());
    assert!(matches!(refused, Err(AnswerError::Saved(_))), "{refused:?}");
    document.save_over(folder.path()).unwrap();
    let mut opened = model.open_session(folder.path()).unwrap();
    assert_eq!(opened.tokens(), document.tokens());
    assert_eq!(text(&mut opened, "When?"), answer);
    let long = "Who was it? ".repeat(120);
    assert_eq!(text(&mut opened, &long), text(&mut document, &long));

    // Another model of the same shapes.
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama-gqa");
    let other = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(fixture).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), other.path().join(file.file_name())).unwrap();
    }
    let config = other.path().join("config.json");
    let json = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, json.replace("10000.0", "20000.0")).unwrap();
    let other = LanguageModel::load(other.path(), &Device::flex()).unwrap();
    let refused = other.open_session(folder.path());
    assert!(matches!(refused, Err(AnswerError::Saved(_))), "{refused:?}");
}

#[test]
fn logits_and_hidden_rows_are_those_that_the_answer_is_chosen_from() {
    let mut document = model().prefill(TEXT).run().unwrap();
    let logits = document.ask("When?").logits().unwrap();
    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
    let reply = document
        .ask("When?")
        .max_tokens(1)
        .logprobs(1)
        .run()
        .unwrap();
    assert_eq!(reply.completion.tokens, [best.unwrap() as u32]);
    assert_eq!(reply.completion.logprobs.len(), 1);
    let rows = document.ask("When?").hidden().unwrap();
    assert_eq!(rows.dims()[2], 64);
    let decoder = &document.model().decoder;
    let [_, seq, width] = rows.dims();
    let last = rows.slice([0..1, seq - 1..seq, 0..width]);
    let again = burn_apb::model::CausalLm::logits(decoder.as_ref(), last).unwrap();
    let again: Vec<f32> = again.into_data().try_to_vec().unwrap();
    assert_eq!(again, logits);
}

#[test]
fn heads_of_another_model_are_refused_when_a_document_is_prefilled() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let heads = crate::heads_for("0123", folder.path());
    let retaining = CompressorConfig::Retaining { heads };
    let config = PrefillConfig::new(Method::Apb, 3).with_compressor(retaining);
    let refused = model.prefill(TEXT).method(config.clone()).run();
    assert!(
        matches!(refused, Err(AnswerError::Compressor(_))),
        "{refused:?}"
    );
    let options = AnswerOptions {
        prefill: config,
        ..AnswerOptions::default()
    };
    let refused = answer_with(&model, TEXT, "When?", &options, &mut ());
    assert!(
        matches!(refused, Err(AnswerError::Compressor(_))),
        "{refused:?}"
    );
}

#[test]
fn an_answer_without_a_bound_allocates_what_it_needs() {
    let model = model();
    let options = AnswerOptions {
        max_tokens: usize::MAX,
        allow_long: true,
        stop_texts: vec!["e".into(), "a".into(), " ".into(), "o".into(), "i".into()],
        ..AnswerOptions::default()
    };
    let answer = answer_with(&model, TEXT, "When?", &options, &mut ()).unwrap();
    assert_ne!(answer.completion.stop_reason, StopReason::Length);
    let mut document = model.prefill(TEXT).limit(usize::MAX).run().unwrap();
    let ask = document.ask("When?").max_tokens(usize::MAX);
    let reply = ask
        .stop_text("e")
        .stop_text("a")
        .stop_text(" ")
        .stop_text("o")
        .run();
    assert_ne!(reply.unwrap().completion.stop_reason, StopReason::Length);
}

#[test]
fn every_way_in_is_checked_against_the_context() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let mut document = model.prefill(TEXT).run().unwrap();
    let long = "Who was it? ".repeat(2000);
    let too_long = |error: AnswerError| matches!(error, AnswerError::TooLong { context: 4096, .. });
    assert!(too_long(document.ask(&long).run().unwrap_err()));
    assert!(too_long(document.ask(&long).stream().unwrap_err()));
    assert!(too_long(document.ask(&long).logits().unwrap_err()));
    assert!(too_long(document.ask(&long).hidden().unwrap_err()));
    assert!(too_long(
        document.ask("Who?").max_tokens(5000).run().unwrap_err()
    ));

    // A limit of one's own, also where the document comes from disk.
    document.save(folder.path()).unwrap();
    let mut opened = model.open_session(folder.path()).unwrap();
    assert!(too_long(
        opened.ask("Who?").max_tokens(5000).run().unwrap_err()
    ));
    opened.set_limit(6000);
    let stream = opened.ask("Who?").max_tokens(5000).stream();
    assert!(stream.is_ok(), "{stream:?}");
}

#[test]
fn a_sampler_of_ones_own_takes_the_place_of_the_configuration() {
    let mut document = model().prefill(TEXT).run().unwrap();
    let drawn = SamplerConfig {
        temperature: 2.0,
        seed: 5,
        ..SamplerConfig::default()
    };
    let by_config = document.ask("When?").sampling(drawn.clone()).max_tokens(12);
    let by_config = by_config.run().unwrap();
    let sampler = Sampler::new(drawn).unwrap();
    let by_sampler = document.ask("When?").sampler(sampler).max_tokens(12);
    assert_eq!(by_sampler.run().unwrap().text, by_config.text);
    assert_ne!(by_config.text, text(&mut document, "When?"));
    let first = by_config.completion.tokens[0];
    let ask = document.ask("When?").max_tokens(1);
    let banned = ask.processor(BanTokens::new([first])).run().unwrap();
    assert_ne!(banned.completion.tokens, [first]);
}

#[test]
fn progress_says_what_how_much_and_how_long() {
    let mut lines = Vec::new();
    for config in methods() {
        let method = config.method;
        lines.clear();
        let prefill = model().prefill(TEXT).method(config).progress(|progress| {
            assert_eq!(progress.method, method);
            assert!(progress.done <= progress.total);
            lines.push(progress.to_string());
        });
        let tokens = prefill.run().unwrap().tokens().len();
        let last = lines.last().expect("a call a layer");
        let whole = format!("{method} prefill: {tokens} of {tokens} tokens, 0.0 s left");
        assert_eq!(*last, whole);
    }
}
