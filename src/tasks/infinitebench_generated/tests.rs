use super::*;
use crate::tasks::testing::count;
use proptest::prelude::*;

fn generated(task: GeneratedTask, length: PromptLength, seed: u64) -> Generated<'static> {
    Generated::new(GeneratedConfig { task, length, seed }, &count).unwrap()
}

#[test]
fn prompts_use_their_tokens() {
    for task in GeneratedTask::ALL {
        for tokens in [1000, 2000, 8000] {
            let generated = generated(task, PromptLength::Tokens(tokens), 3);
            for index in 0..20 {
                let sample = generated.sample(index).unwrap();
                let counted = count(&sample.prompt()).unwrap() + task.tokens_to_generate();
                assert_eq!(counted, sample.tokens, "{task}");
                assert!(sample.tokens <= tokens, "{task} {tokens} {}", sample.tokens);
                assert!(
                    sample.tokens * 100 >= tokens * 97,
                    "{task} {tokens} {}",
                    sample.tokens
                );
            }
        }
    }
}

#[test]
fn published_sizes_are_kept() {
    let passkey = generated(GeneratedTask::PassKey, PromptLength::Published, 0)
        .sample(1)
        .unwrap();
    assert_eq!(
        passkey.document.matches("The grass is green.").count(),
        5220
    );
    let pairs = generated(GeneratedTask::KvRetrieval, PromptLength::Published, 0)
        .sample(1)
        .unwrap();
    assert_eq!(pairs.document.matches("\": \"").count(), 2500);
    let found = generated(GeneratedTask::MathFind, PromptLength::Published, 0)
        .sample(1)
        .unwrap();
    assert_eq!(found.document.matches(", ").count(), 59_999);
    assert_eq!(found.tokens, count(&found.prompt()).unwrap() + 3);
}

#[test]
fn prompts_have_the_published_form() {
    let length = PromptLength::Tokens(600);
    let sample = generated(GeneratedTask::PassKey, length, 0)
        .sample(0)
        .unwrap();
    let key = &sample.references[0];
    let prompt = sample.prompt();
    let head = format!(
        "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will quiz \
         you about the important information.\n\nThe pass key is {key}. Remember it. {key} is the pass key.\nThe \
         grass is green."
    );
    assert!(prompt.starts_with(&head), "{prompt}");
    let tail = "There and back again.\n\n\nWhat is the pass key?\n\nThe pass key is";
    assert!(prompt.ends_with(tail), "{prompt}");
    let sample = generated(GeneratedTask::KvRetrieval, length, 0)
        .sample(0)
        .unwrap();
    let prompt = sample.prompt();
    let tail = "\"}\n\n\nKey: \"";
    assert!(prompt.contains("below.\n\nJSON data:\n{\"") && prompt.contains(tail));
    assert!(prompt.ends_with("\"\nThe value associated with the specified key is: "));
    let sample = generated(GeneratedTask::MathFind, length, 0)
        .sample(6)
        .unwrap();
    let prompt = sample.prompt();
    assert!(prompt.starts_with("What is the median number in the following list?\n\n["));
    assert!(prompt.ends_with(
        "]\n\nYou should answer with only one number, no other words. The median number of the list is: "
    ));
}

#[test]
fn answers_occur_as_often_as_they_should() {
    let length = PromptLength::Tokens(2000);
    for (task, times) in [
        (GeneratedTask::PassKey, 2),
        (GeneratedTask::NumberString, 2),
        (GeneratedTask::KvRetrieval, 1),
    ] {
        let generated = generated(task, length, 9);
        let mut depths = Vec::new();
        for index in 0..60 {
            let sample = generated.sample(index).unwrap();
            let value = sample.references[0].as_str();
            assert_eq!(sample.document.matches(value).count(), times, "{task}");
            assert_eq!(score(task, &format!(" {value}."), &sample.references), 1.0);
            depths.push(sample.depth.unwrap());
        }
        depths.sort_by(f64::total_cmp);
        assert!(depths[0] < 0.05 && depths[59] > 0.95, "{task} {depths:?}");
        assert!(
            depths.windows(2).all(|pair| pair[1] - pair[0] < 0.1),
            "{task} {depths:?}"
        );
    }
}

#[test]
fn digits_of_sequences_come_in_pairs() {
    let generated = generated(GeneratedTask::NumberString, PromptLength::Tokens(500), 1);
    for index in 0..50 {
        let value = generated.sample(index).unwrap().references.remove(0);
        assert_eq!(value.len(), 10);
        let mut runs: Vec<(u8, usize)> = Vec::new();
        for digit in value.bytes() {
            match runs.last_mut() {
                Some((last, times)) if *last == digit => *times += 1,
                _ => runs.push((digit, 1)),
            }
        }
        // Five repetitions of five digits, of which some may have been equal.
        assert!(runs.len() <= 5, "{value}");
    }
}

#[test]
fn samples_depend_on_seed_and_index_alone() {
    let length = PromptLength::Tokens(1500);
    for task in GeneratedTask::ALL {
        let first = generated(task, length, 4);
        let mut backward: Vec<TaskSample> =
            (0..8).rev().map(|at| first.sample(at).unwrap()).collect();
        backward.reverse();
        for (index, sample) in backward.iter().enumerate() {
            assert_eq!(*sample, generated(task, length, 4).sample(index).unwrap());
            let other = generated(task, length, 5).sample(index).unwrap();
            assert_ne!(sample.prompt(), other.prompt(), "{task}");
        }
        assert!(
            backward
                .windows(2)
                .all(|pair| pair[0].prompt() != pair[1].prompt())
        );
    }
}

#[test]
fn names_are_read_as_they_are_written() {
    for task in GeneratedTask::ALL {
        assert_eq!(task.name().parse::<GeneratedTask>().unwrap(), task);
        assert_eq!(serde_json::to_string(&task).unwrap(), format!("\"{task}\""));
    }
    let error = "pass_key".parse::<GeneratedTask>().unwrap_err();
    assert!(
        error.to_string().contains("did you mean passkey?"),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_length_panics(tokens in 0..3000usize, seed: u64, index: usize, task in 0..4usize) {
        let task = GeneratedTask::ALL[task];
        let config = GeneratedConfig { task, length: PromptLength::Tokens(tokens), seed };
        if let Ok(generated) = Generated::new(config, &count) {
            match generated.sample(index) {
                Ok(sample) => prop_assert!(sample.tokens <= tokens),
                Err(error) => prop_assert!(matches!(error, TaskError::TooShort { .. }), "{error}"),
            }
        }
    }
}
