use super::*;
use crate::tasks::CountError;
use proptest::prelude::*;
use std::collections::HashSet;

/// A token for every four bytes of a word, roughly what tokenizers do.
fn count(text: &str) -> Result<usize, CountError> {
    Ok(text
        .split_whitespace()
        .map(|word| word.len().div_ceil(4))
        .sum())
}

/// Prose of different sentences.
fn prose(sentences: usize) -> String {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
    let mut text = String::new();
    for number in 0..sentences {
        let words = random.random_range(4..30);
        let words: Vec<String> = (0..words)
            .map(|_| words::key(random.random(), &mut random))
            .collect();
        text.push_str(&format!("Sentence {}", words.join(" ")));
        text.push_str(if number % 9 == 8 { ".\n\n" } else { ". " });
    }
    text
}

fn samples(text: &str, config: SynthesisConfig) -> Vec<(TextSample, TaskKind)> {
    let synthesizer = Synthesizer::new(text, config, &count).unwrap();
    (0..synthesizer.len())
        .map(|index| synthesizer.sample(index).unwrap())
        .collect()
}

/// What of an answer must stand in the document: its words with digits or capitals, but the first.
fn facts(answer: &str) -> Vec<&str> {
    let words = answer
        .split_whitespace()
        .map(|word| word.trim_end_matches(['.', ',', ':']));
    words
        .filter(|word| word.len() > 4 && word.chars().any(|c| c.is_ascii_digit()))
        .collect()
}

#[test]
fn samples_answer_their_documents() {
    let text = prose(4000);
    let config = SynthesisConfig::new(240, 1000..=3000).with_seed(5);
    let samples = samples(&text, config);
    let mut kinds = HashSet::new();
    let mut magic = 0;
    for (index, (sample, kind)) in samples.iter().enumerate() {
        assert_eq!(*kind, TaskKind::ROTATION[index % 12], "{index}");
        kinds.insert(*kind);
        let TextSample {
            document,
            question,
            answer,
        } = sample;
        let tokens = count(document).unwrap();
        assert!((950..=3000).contains(&tokens), "{kind:?}: {tokens}");
        assert!(
            !question.contains(['{', '}']) && !answer.contains(['{', '}']),
            "{question} {answer}"
        );
        if *kind == TaskKind::Quote {
            assert_eq!(document.matches(answer.as_str()).count(), 1);
            let given = question.split('"').nth(1).unwrap();
            assert!(
                answer.starts_with(given) && answer.len() > given.len(),
                "{question} {answer}"
            );
        } else {
            for fact in facts(answer) {
                assert_eq!(
                    document.matches(fact).count(),
                    1,
                    "{kind:?}: {fact} of {answer}"
                );
            }
        }
        if *kind != TaskKind::KeyValue {
            assert!(
                document.starts_with("Sentence") || !text.contains(&document[..20]),
                "{document}"
            );
        }
        if *kind == TaskKind::SingleNeedle {
            magic += usize::from(question.contains("magic"));
        }
    }
    assert_eq!(kinds.len(), 6);
    assert!((10..=35).contains(&magic), "{magic} of 60");
}

#[test]
fn sentences_are_inserted_at_any_depth() {
    let text = prose(4000);
    let config = SynthesisConfig::new(600, 2000..=2000);
    let mut tenths = [0; 10];
    for (sample, kind) in samples(&text, config) {
        if kind == TaskKind::SingleNeedle {
            // Where the document departs from the text.
            let mut same = 0;
            let start = &sample.document[..sample.document.char_indices().nth(60).unwrap().0];
            if let Some(at) = text.find(start) {
                let pairs = text[at..].bytes().zip(sample.document.bytes());
                same = pairs.take_while(|(a, b)| a == b).count();
            }
            tenths[(same * 10 / sample.document.len()).min(9)] += 1;
        }
    }
    assert!(tenths.iter().all(|&count| count >= 5), "{tenths:?}");
}

#[test]
fn a_sample_depends_on_its_seed_and_index_only() {
    let text = prose(1000);
    let config = SynthesisConfig::new(24, 500..=1500);
    let first = samples(&text, config.clone());
    assert_eq!(first, samples(&text, config.clone()));
    let synthesizer = Synthesizer::new(&text, config.clone(), &count).unwrap();
    assert_eq!(synthesizer.sample(17).unwrap(), first[17]);
    let other = samples(&text, config.with_seed(1));
    assert!(first.iter().zip(&other).all(|(a, b)| a.0 != b.0));
    let documents: HashSet<&str> = first
        .iter()
        .map(|(sample, _)| sample.document.as_str())
        .collect();
    assert_eq!(documents.len(), 24);
}

#[test]
fn impossible_lengths_are_refused() {
    let text = prose(100);
    let new =
        |text, range| Synthesizer::new(text, SynthesisConfig::new(3, range), &count).map(|_| ());
    for range in [0..=1000, 255..=300, RangeInclusive::new(2000, 1000)] {
        assert!(matches!(new(&text, range), Err(TaskError::Lengths { .. })));
    }
    let tokens = count(&text).unwrap();
    assert!(new(&text, 256..=tokens - 10).is_ok());
    match new(&text, 256..=tokens + 10) {
        Err(TaskError::TextTooShort {
            tokens: found,
            needed,
        }) => {
            assert_eq!((found, needed), (tokens, tokens + 10));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        new("", 256..=300),
        Err(TaskError::TextTooShort { tokens: 0, .. })
    ));
    let synthesizer = Synthesizer::new(&text, SynthesisConfig::new(3, 256..=300), &count).unwrap();
    let error = synthesizer.sample(3).unwrap_err();
    assert!(
        matches!(
            error,
            TaskError::NoSuchSample {
                task: "synthesis",
                index: 3,
                samples: 3
            }
        ),
        "{error}"
    );

    let fails = |_: &str| Err("no tokenizer".into());
    let error = Synthesizer::new(&text, SynthesisConfig::new(3, 256..=300), &fails).map(|_| ());
    assert!(matches!(error, Err(TaskError::Count(_))));
}

#[test]
fn a_text_that_is_hardly_long_enough_is_used_whole() {
    let text = prose(100);
    let tokens = count(&text).unwrap();
    for (sample, kind) in samples(&text, SynthesisConfig::new(24, tokens..=tokens)) {
        let found = count(&sample.document).unwrap();
        assert!(
            found <= tokens && found >= tokens * 9 / 10,
            "{kind:?}: {found} of {tokens}"
        );
    }
}

#[test]
fn texts_of_other_forms() {
    let by_chars = |text: &str| Ok(text.chars().count());
    let words = "word ".repeat(2000);
    let line = "\u{e9}".repeat(9000);
    let chinese = "\u{4f60}\u{597d}\u{4e16}\u{754c}\u{3002}".repeat(2000);
    let accents = "\u{c9}t\u{e9}\u{a0}\u{1f600} na\u{ef}ve. ".repeat(1000);
    for text in [&words, &line, &chinese, &accents] {
        let config = SynthesisConfig::new(24, 2000..=4000);
        let synthesizer = Synthesizer::new(text, config, &by_chars).unwrap();
        for index in 0..24 {
            let (sample, kind) = synthesizer.sample(index).unwrap();
            let tokens = sample.document.chars().count();
            assert!((1900..=4000).contains(&tokens), "{kind:?}: {tokens}");
            assert_ne!(kind, TaskKind::Quote);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_gives_samples_or_an_error(
        text in "([a-zA-Z\u{e9}\u{4f60}\u{3002}.!?\" \n]{0,40}){0,60}",
        seed: u64,
    ) {
        let by_chars = |text: &str| Ok(text.chars().count());
        let config = SynthesisConfig::new(6, 256..=700).with_seed(seed);
        match Synthesizer::new(&text, config, &by_chars) {
            Ok(synthesizer) => for index in 0..6 {
                if let Ok((sample, _)) = synthesizer.sample(index) {
                    prop_assert!(sample.document.chars().count() <= 700);
                }
            },
            Err(error) => {
                let too_short = matches!(error, TaskError::TextTooShort { .. });
                prop_assert!(too_short, "{}", error);
            }
        }
    }
}
