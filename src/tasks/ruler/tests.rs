use super::*;
use crate::tasks::testing::{count, prose};
use crate::tasks::{CountError, TaskSample, words};
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::LazyLock;

static TEXT: LazyLock<Haystack> = LazyLock::new(|| Haystack::new(&prose(200)).unwrap());

/// Articles of three short paragraphs, each with a question.
static SQUAD: LazyLock<QuestionSet> = LazyLock::new(|| {
    let mut articles = Vec::new();
    for article in 0..40 {
        let paragraphs = (0..3).map(|at| {
            let name = format!("P{article}x{at}");
            let answers = [serde_json::json!({"text": format!("A{name}"), "answer_start": 0})];
            serde_json::json!({
                "context": format!("The {name} is A{name}. It is a short paragraph among others."),
                "qas": [{"question": format!("What is {name}?"), "is_impossible": false, "answers": answers}],
            })
        });
        let paragraphs: Vec<_> = paragraphs.collect();
        articles.push(serde_json::json!({"title": "T", "paragraphs": paragraphs}));
    }
    QuestionSet::squad(&serde_json::json!({"data": articles}).to_string()).unwrap()
});

/// Questions with ten short paragraphs each.
static HOTPOTQA: LazyLock<QuestionSet> = LazyLock::new(|| {
    let questions = (0..30).map(|question| {
        let context = (0..10).map(|at| {
            let sentences = [
                "This is a sentence. ".into(),
                format!("It is A{question}x{at}."),
            ];
            serde_json::json!([format!("T{question}x{at}"), sentences])
        });
        serde_json::json!({
            "question": format!("Which is T{question}x3?"),
            "answer": format!("A{question}x3"),
            "context": context.collect::<Vec<_>>(),
        })
    });
    let questions: Vec<_> = questions.collect();
    QuestionSet::hotpotqa(&serde_json::json!(questions).to_string()).unwrap()
});

fn sources() -> Sources<'static> {
    Sources {
        text: Some(&TEXT),
        squad: Some(&SQUAD),
        hotpotqa: Some(&HOTPOTQA),
    }
}

fn ruler(task: RulerTask, tokens: usize, seed: u64) -> Ruler<'static> {
    let config = RulerConfig { task, tokens, seed };
    Ruler::new(config, sources(), &count).unwrap_or_else(|error| panic!("{error}"))
}

fn samples(task: RulerTask, tokens: usize, seed: u64, number: usize) -> Vec<TaskSample> {
    let ruler = ruler(task, tokens, seed);
    (0..number)
        .map(|index| ruler.sample(index).unwrap())
        .collect()
}

/// The document behind the last instruction: without the worked example.
fn own_part<'a>(sample: &'a TaskSample, instruction: &str) -> &'a str {
    sample.document.rsplit(instruction).next().unwrap()
}

#[test]
fn prompts_use_their_tokens() {
    for task in RulerTask::ALL {
        for tokens in [1000, 2000, 8000] {
            for sample in samples(task, tokens, 3, 10) {
                let counted = count(&sample.prompt()).unwrap() + task.tokens_to_generate();
                assert_eq!(counted, sample.tokens, "{task}");
                assert!(sample.tokens <= tokens, "{task} {tokens} {}", sample.tokens);
                // A unit has up to 40 tokens.
                let least = tokens - (tokens / 50).max(40);
                assert!(sample.tokens >= least, "{task} {tokens} {}", sample.tokens);
                assert_eq!(sample.task, task.name());
                assert_eq!(sample.tokens_to_generate, task.tokens_to_generate());
            }
        }
    }
}

#[test]
fn few_documents_are_counted_for_a_sample() {
    let calls = Cell::new(0);
    let counted = |text: &str| {
        calls.set(calls.get() + 1);
        count(text)
    };
    for task in RulerTask::ALL {
        let config = RulerConfig {
            task,
            tokens: 30_000,
            seed: 1,
        };
        let ruler = Ruler::new(config, sources(), &counted).unwrap();
        assert!(calls.get() <= 20, "{task}: {}", calls.get());
        calls.set(0);
        for index in 0..10 {
            ruler.sample(index).unwrap();
        }
        // The question and a document or two.
        let called = calls.replace(0);
        assert!(called <= 40, "{task}: {called}");
    }
}

#[test]
fn samples_depend_on_seed_and_index_alone() {
    for task in RulerTask::ALL {
        let forward = samples(task, 2000, 3, 5);
        let again = ruler(task, 2000, 3);
        let other = ruler(task, 2000, 4);
        for (index, sample) in forward.iter().enumerate().rev() {
            assert_eq!(*sample, again.sample(index).unwrap(), "{task}");
            assert_ne!(
                sample.document,
                other.sample(index).unwrap().document,
                "{task}"
            );
        }
        for pair in forward.windows(2) {
            assert_ne!(pair[0].document, pair[1].document, "{task}");
            assert_ne!(pair[0].references, pair[1].references, "{task}");
        }
    }
}

#[test]
fn longer_prompts_ask_for_the_same() {
    for task in RulerTask::ALL {
        // The frequencies of cwe change at 4096 tokens, its words do not.
        let (short, long) = (samples(task, 2000, 8, 3), samples(task, 6000, 8, 3));
        for (short, long) in short.iter().zip(long) {
            assert_eq!(short.references, long.references, "{task}");
            assert_eq!(short.question, long.question, "{task}");
        }
    }
}

/// Keys and values of the needles of a document.
fn needles(document: &str) -> Vec<(&str, &str)> {
    let parts = document.split("One of the special magic ").skip(1);
    let needles = parts.map(|part| {
        let (_, after) = part.split_once(" for ").unwrap();
        let (key, after) = after.split_once(" is: ").unwrap();
        (key, after.split_once('.').unwrap().0)
    });
    needles.collect()
}

#[test]
fn needles_have_a_single_answer() {
    for (task, keys, values) in [
        (RulerTask::NiahSingle1, 1, 1),
        (RulerTask::NiahSingle2, 1, 1),
        (RulerTask::NiahSingle3, 1, 1),
        (RulerTask::NiahMultikey1, 4, 1),
        (RulerTask::NiahMultikey2, usize::MAX, 1),
        (RulerTask::NiahMultikey3, usize::MAX, 1),
        (RulerTask::NiahMultivalue, 1, 4),
        (RulerTask::NiahMultiquery, 4, 1),
    ] {
        for sample in samples(task, 3000, 11, 30) {
            let found = needles(&sample.document);
            if keys < usize::MAX {
                assert_eq!(found.len(), keys * values, "{task}");
            } else {
                assert!(found.len() > 50, "{task}");
            }
            for reference in &sample.references {
                let occurs = sample.document.matches(reference.as_str()).count();
                assert_eq!(occurs, 1, "{task} {reference}");
            }
            let asked = found
                .iter()
                .filter(|(key, _)| sample.question.contains(key));
            let mut asked: Vec<&str> = asked.map(|(_, value)| *value).collect();
            let mut references = sample.references.clone();
            asked.sort_unstable();
            references.sort_unstable();
            assert_eq!(asked, references, "{task}");
            assert_eq!(sample.depth.is_some(), references.len() == 1, "{task}");
        }
    }
}

#[test]
fn values_have_their_form() {
    for sample in samples(RulerTask::NiahMultivalue, 1000, 1, 20) {
        assert_eq!(sample.references.len(), 4);
        let number =
            |value: &String| value.len() == 7 && value.parse::<u32>().unwrap() >= 1_000_000;
        assert!(sample.references.iter().all(number));
    }
    for sample in samples(RulerTask::NiahMultikey3, 1000, 1, 20) {
        assert_eq!(sample.references[0].len(), 36);
    }
}

#[test]
fn needles_are_spread_over_the_document() {
    for task in [
        RulerTask::NiahSingle1,
        RulerTask::NiahSingle2,
        RulerTask::NiahMultikey2,
    ] {
        let samples = samples(task, 3000, 2, 100);
        let mut depths: Vec<f64> = samples.iter().map(|sample| sample.depth.unwrap()).collect();
        depths.sort_by(f64::total_cmp);
        assert!(depths[0] < 0.1 && depths[99] > 0.9, "{task} {depths:?}");
        assert!((0.35..0.65).contains(&depths[50]), "{task} {depths:?}");
    }
}

#[test]
fn prompts_have_the_published_form() {
    let sample = samples(RulerTask::NiahSingle1, 1000, 0, 1).remove(0);
    let (key, value) = needles(&sample.document)[0];
    let prompt = sample.prompt();
    let needle = format!("One of the special magic numbers for {key} is: {value}.");
    let noise = needles::NOISE;
    let head = "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz \
                you about the number afterwards.\nThe grass";
    let tail = format!(
        "There and back again.\nWhat is the special magic number for {key} mentioned in the provided text? The \
         special magic number for {key} mentioned in the provided text is"
    );
    assert!(
        prompt.starts_with(head) && prompt.ends_with(&tail),
        "{prompt}"
    );
    assert!(
        prompt.contains(&format!("{noise}\n{needle}\n{noise}\n")),
        "{prompt}"
    );

    let prompt = samples(RulerTask::Vt, 1200, 0, 1).remove(0).prompt();
    let mut parts = prompt.split("Memorize and track the chain(s)");
    let (_, example, _) = (parts.next(), parts.next().unwrap(), parts.next().unwrap());
    let answer = example.split("they are:  ").nth(1).unwrap();
    assert!(
        answer.ends_with("\n\n") && answer.trim().split(' ').count() == 5,
        "{answer:?}"
    );
    assert!(count(example).unwrap() < 510);

    let prompt = samples(RulerTask::Cwe, 1500, 0, 1).remove(0).prompt();
    assert_eq!(
        prompt.matches("Below is a numbered list of words.").count(),
        2
    );
    let (example, list) = prompt.split_once("in the list are: 1. ").unwrap();
    assert!(example.contains(" 40. ") && !example.contains(" 41. "));
    assert!(list.contains("\nBelow is a numbered list") && list.contains(" 60. "));

    let prompt = samples(RulerTask::Qa2, 1000, 0, 1).remove(0).prompt();
    assert!(
        prompt.contains("given documents.\n\nDocument 1:\nT"),
        "{prompt}"
    );
    let tail = "other words.\n\nQuestion: Which is T0x3? Answer:";
    assert!(prompt.ends_with(tail), "{prompt}");
}

/// The variables that have a value, by executing the assignments of a document.
fn interpret(document: &str, value: &str) -> Vec<String> {
    let mut values: HashMap<&str, &str> = HashMap::new();
    let mut found = Vec::new();
    for line in document
        .lines()
        .filter_map(|line| line.strip_prefix("VAR "))
    {
        let (variable, right) = line.trim_end().split_once(" = ").unwrap();
        let assigned = match right.strip_prefix("VAR ") {
            Some(other) => values[other],
            None => right,
        };
        assert!(values.insert(variable, assigned).is_none(), "{variable}");
        if assigned == value {
            found.push(variable.to_owned());
        }
    }
    found
}

#[test]
fn chains_lead_to_the_references() {
    for tokens in [1000, 5000] {
        for sample in samples(RulerTask::Vt, tokens, 5, 50) {
            let own = own_part(&sample, "Memorize and track");
            let value = sample
                .question
                .split_ascii_whitespace()
                .rev()
                .nth(4)
                .unwrap();
            assert_eq!(interpret(own, value), sample.references, "{own}");
            assert_eq!(sample.references.len(), 5);
            assert!(
                sample
                    .answer_prefix
                    .contains(&format!("5 variables are assigned the value {value}"))
            );
            // Assigned once; read once, but for the last.
            let occurs = |variable: &String| sample.document.matches(variable.as_str()).count();
            let occurs: Vec<usize> = sample.references.iter().map(occurs).collect();
            assert_eq!(occurs, [2, 2, 2, 2, 1]);
        }
    }
}

/// The most frequent of the words, most frequent first, each with how often it occurs.
fn frequencies<'a>(words: impl Iterator<Item = &'a str>) -> Vec<(usize, &'a str)> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for word in words {
        *counts.entry(word).or_default() += 1;
    }
    let mut counts: Vec<_> = counts
        .into_iter()
        .map(|(word, times)| (times, word))
        .collect();
    counts.sort_unstable_by(|one, other| other.cmp(one));
    counts
}

#[test]
fn common_words_are_the_most_frequent() {
    for (tokens, common, uncommon) in [(1000, 6, 1), (8000, 30, 3), (60_000, 30, 3)] {
        let list = ruler(RulerTask::Cwe, tokens, 2).list;
        assert_eq!(list == WordList::Compound, tokens > 50_000);
        for sample in samples(RulerTask::Cwe, tokens, 2, 5) {
            let own = own_part(&sample, "Below is a numbered list of words.");
            let own = own.split_once('\n').unwrap().1;
            let words = own.split(' ').skip(1).step_by(2);
            let numbers = own.split(' ').step_by(2);
            assert!(
                numbers
                    .zip(1..)
                    .all(|(found, number)| found == format!("{number}."))
            );
            let counted = frequencies(words);
            let (top, others) = counted.split_at(10);
            assert!(top.iter().all(|(times, _)| *times == common), "{top:?}");
            assert!(
                others.iter().all(|(times, _)| *times == uncommon),
                "{others:?}"
            );
            let mut top: Vec<&str> = top.iter().map(|(_, word)| *word).collect();
            let mut references = sample.references.clone();
            top.sort_unstable();
            references.sort_unstable();
            assert_eq!(top, references);
            for (_, other) in others {
                assert!(
                    !references
                        .iter()
                        .any(|common| other.contains(common.as_str()))
                );
            }
        }
    }
}

#[test]
fn frequent_words_are_the_most_frequent() {
    for tokens in [400, 1000, 8000, 60_000] {
        for sample in samples(RulerTask::Fwe, tokens, 2, 5) {
            let own = own_part(&sample, "coded words. ");
            let counted = frequencies(own.split(' '));
            assert_eq!(counted[0].1, "...");
            let top: Vec<&str> = counted[1..4].iter().map(|(_, word)| *word).collect();
            assert_eq!(top, sample.references, "{counted:?}");
            assert!(counted[3].0 > counted[4].0, "{counted:?}");
            assert!(counted[1..].iter().all(|(_, word)| word.len() == 6));
        }
    }
}

#[test]
fn questions_have_their_paragraphs() {
    for task in [RulerTask::Qa1, RulerTask::Qa2] {
        // The last is longer than the whole set.
        for tokens in [1000, 2000, 20_000] {
            let ruler = ruler(task, tokens, 6);
            assert_eq!(
                ruler.samples(),
                Some(if task == RulerTask::Qa1 { 120 } else { 30 })
            );
            for index in 0..30 {
                let sample = ruler.sample(index).unwrap();
                let answer = &sample.references[0];
                let occurs = sample.document.matches(&format!("is {answer}.")).count();
                assert!(
                    occurs == 1 || tokens == 20_000 && occurs > 1,
                    "{task} {tokens} {occurs}"
                );
                let paragraphs = sample.document.matches("Document ").count();
                assert!(
                    sample
                        .document
                        .contains(&format!("\n\nDocument {paragraphs}:\n"))
                );
            }
        }
    }
    let error = ruler(RulerTask::Qa2, 1000, 6).sample(30).unwrap_err();
    assert_eq!(
        error.to_string(),
        "qa_2: expected the number of a sample below 30, found 30"
    );
}

#[test]
fn paragraphs_of_the_same_article_come_first() {
    let config = RulerConfig {
        task: RulerTask::Qa1,
        tokens: 160,
        seed: 0,
    };
    let sample = Ruler::new(config, sources(), &count)
        .unwrap()
        .sample(4)
        .unwrap();
    assert!(
        sample.document.contains("The P1x1 is AP1x1."),
        "{}",
        sample.document
    );
    assert!(sample.document.contains("The P1x0 is") || sample.document.contains("The P1x2 is"));
}

#[test]
fn what_is_missing_is_named() {
    for task in RulerTask::ALL {
        let config = RulerConfig {
            task,
            tokens: 2000,
            seed: 0,
        };
        let made = Ruler::new(config, Sources::default(), &count);
        match task.needs() {
            Needs::Nothing => assert!(made.is_ok(), "{task}"),
            _ => assert!(made.err().unwrap().to_string().contains("give"), "{task}"),
        }
    }
}

#[test]
fn the_least_length_works() {
    for task in RulerTask::ALL {
        let made = |tokens| {
            let config = RulerConfig {
                task,
                tokens,
                seed: 0,
            };
            Ruler::new(config, sources(), &count)?.sample(0)
        };
        let Err(TaskError::TooShort { needed, .. }) = made(10) else {
            panic!("{task}");
        };
        assert!(needed < 1000, "{task} {needed}");
        let sample = made(needed).unwrap_or_else(|error| panic!("{error}"));
        assert!(sample.tokens <= needed && score(task, "", &sample.references) == 0.0);
        let Err(TaskError::TooShort { needed: again, .. }) = made(needed - 1) else {
            panic!("{task} {needed}");
        };
        assert_eq!(again, needed, "{task}");
    }
}

#[test]
fn a_text_that_holds_every_key_is_refused() {
    let keys: Vec<String> = words::keys().collect();
    let text = Haystack::new(&keys.join(" ")).unwrap();
    let sources = Sources {
        text: Some(&text),
        ..Sources::default()
    };
    let config = RulerConfig {
        task: RulerTask::NiahSingle2,
        tokens: 2000,
        seed: 0,
    };
    let error = Ruler::new(config, sources, &count).err().unwrap();
    assert!(
        matches!(error, TaskError::NotUnique { index: 0, .. }),
        "{error}"
    );
}

#[test]
fn errors_of_counting_are_passed_on() {
    let failing = |_: &str| Err::<usize, CountError>("no tokenizer".into());
    let config = RulerConfig {
        task: RulerTask::NiahSingle2,
        tokens: 2000,
        seed: 0,
    };
    let error = Ruler::new(config, sources(), &failing).err().unwrap();
    assert!(matches!(error, TaskError::Count(_)), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_length_panics(tokens in 0..3000usize, seed: u64, index in 0..200usize, task in 0..13usize) {
        let task = RulerTask::ALL[task];
        let config = RulerConfig { task, tokens, seed };
        let made = Ruler::new(config, sources(), &count).and_then(|ruler| ruler.sample(index));
        match made {
            Ok(sample) => prop_assert!(sample.tokens <= tokens),
            Err(TaskError::TooShort { needed, .. }) => prop_assert!(needed > tokens && needed < 1000),
            Err(TaskError::NoSuchSample { .. }) => prop_assert!(index >= 30),
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn no_text_panics(text in "[a-z. \n!?\u{3002}\u{e9}\u{4f60}0-9]{1,400}", tokens in 200..1500usize) {
        if let Ok(text) = Haystack::new(&text) {
            let sources = Sources { text: Some(&text), ..Sources::default() };
            for task in [RulerTask::NiahSingle2, RulerTask::NiahMultivalue] {
                let config = RulerConfig { task, tokens, seed: 0 };
                let made = Ruler::new(config, sources, &count).and_then(|ruler| ruler.sample(1));
                match made {
                    Ok(sample) => {
                        let once = |value: &String| sample.document.matches(value.as_str()).count() == 1;
                        prop_assert!(sample.tokens <= tokens && sample.references.iter().all(once));
                    }
                    Err(error) => prop_assert!(matches!(error, TaskError::TooShort { .. }), "{error}"),
                }
            }
        }
    }
}
