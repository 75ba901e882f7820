//! Sentences with a key and a value that do not belong to the text around them.

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use super::words::{Needle, Value, fill, key, one_of};

/// Least and most keys of a document of which one is asked for, and values of one key.
const KEYS: (usize, usize) = (4, 12);
const VALUES: (usize, usize) = (2, 4);

/// Tokens of a document for each key.
const TOKENS_PER_KEY: usize = 128;

/// A sentence with a value, and the questions and answers about it.
#[derive(Clone, Copy)]
struct Wording {
    /// The inserted sentence.
    sentence: &'static str,
    /// Questions for one value.
    questions: &'static [&'static str],
    /// The answer to them.
    answer: &'static str,
    /// The question for several values.
    many: &'static str,
    /// The answer to it.
    many_answer: &'static str,
    value: Value,
}

/// The wording of RULER (<https://arxiv.org/abs/2404.06654>).
const MAGIC: Wording = Wording {
    sentence: "One of the special magic numbers for {key} is: {value}.",
    questions: &["What is the special magic number for {key} mentioned in the text?"],
    answer: "The special magic number for {key} mentioned in the text is {value}.",
    many: "What are all the special magic numbers for {key} mentioned in the text?",
    many_answer: "The special magic numbers for {key} mentioned in the text are {values}.",
    value: Value::Number,
};

/// Others, so that a head does not learn to keep a single phrase.
const WORDINGS: &[Wording] = &[
    Wording {
        sentence: "The access code of the {key} locker is {value}.",
        questions: &[
            "Which access code opens the {key} locker?",
            "What do I have to enter at the {key} locker?",
        ],
        answer: "The access code of the {key} locker is {value}.",
        many: "Which access codes open the {key} locker?",
        many_answer: "The {key} locker opens with the access codes {values}.",
        value: Value::Code,
    },
    Wording {
        sentence: "Remember that {value} is a password of the {key} account.",
        questions: &[
            "What is the password of the {key} account?",
            "With which password can one log in to the {key} account?",
        ],
        answer: "The password of the {key} account is {value}.",
        many: "What are all the passwords of the {key} account?",
        many_answer: "The passwords of the {key} account are {values}.",
        value: Value::Password,
    },
    Wording {
        sentence: "Everything about the {key} project is kept in room {value}.",
        questions: &[
            "In which room is everything about the {key} project kept?",
            "Where do I find the papers of the {key} project?",
        ],
        answer: "The {key} project is kept in room {value}.",
        many: "In which rooms are the papers of the {key} project kept?",
        many_answer: "The {key} project is kept in the rooms {values}.",
        value: Value::Room,
    },
    Wording {
        sentence: "One wall of the {key} hall was painted {value}.",
        questions: &[
            "Which colour does a wall of the {key} hall have?",
            "What colour was used in the {key} hall?",
        ],
        answer: "A wall of the {key} hall was painted {value}.",
        many: "In which colours were the walls of the {key} hall painted?",
        many_answer: "The walls of the {key} hall were painted {values}.",
        value: Value::Colour,
    },
    Wording {
        sentence: "A parcel with the label {key} was sent to {value}.",
        questions: &[
            "To which city did the parcel with the label {key} go?",
            "Where was the {key} parcel sent?",
        ],
        answer: "The parcel with the label {key} was sent to {value}.",
        many: "To which cities did parcels with the label {key} go?",
        many_answer: "Parcels with the label {key} were sent to {values}.",
        value: Value::City,
    },
    Wording {
        sentence: "Note for the calendar: the {key} committee meets on {value}.",
        questions: &[
            "When does the {key} committee meet?",
            "On which date is the meeting of the {key} committee?",
        ],
        answer: "The {key} committee meets on {value}.",
        many: "On which dates does the {key} committee meet?",
        many_answer: "The {key} committee meets on {values}.",
        value: Value::Date,
    },
    Wording {
        sentence: "At exactly {value} the {key} alarm went off.",
        questions: &[
            "At what time did the {key} alarm go off?",
            "When was the {key} alarm heard?",
        ],
        answer: "The {key} alarm went off at {value}.",
        many: "At which times did the {key} alarm go off?",
        many_answer: "The {key} alarm went off at {values}.",
        value: Value::Time,
    },
    Wording {
        sentence: "(Internal: record {value} belongs to the {key} file.)",
        questions: &[
            "Which record belongs to the {key} file?",
            "What is the identifier of the record in the {key} file?",
        ],
        answer: "The record {value} belongs to the {key} file.",
        many: "Which records belong to the {key} file?",
        many_answer: "The records {values} belong to the {key} file.",
        value: Value::Uuid,
    },
    Wording {
        sentence: "Behind the code name {key} hides {value}.",
        questions: &[
            "Who hides behind the code name {key}?",
            "What is the real name of {key}?",
        ],
        answer: "Behind the code name {key} hides {value}.",
        many: "Who are all those that hide behind the code name {key}?",
        many_answer: "Behind the code name {key} hide {values}.",
        value: Value::Person,
    },
    Wording {
        sentence: "For questions about the {key} prize, dial {value}.",
        questions: &[
            "Which number should one dial about the {key} prize?",
            "How can one call about the {key} prize?",
        ],
        answer: "For the {key} prize, dial {value}.",
        many: "Which numbers can one dial about the {key} prize?",
        many_answer: "For the {key} prize, dial {values}.",
        value: Value::Number,
    },
    Wording {
        sentence: "The {key} engine carries the serial number {value}.",
        questions: &[
            "Which serial number does the {key} engine carry?",
            "How is the {key} engine numbered?",
        ],
        answer: "The {key} engine carries the serial number {value}.",
        many: "Which serial numbers does the {key} engine carry?",
        many_answer: "The {key} engine carries the serial numbers {values}.",
        value: Value::Code,
    },
];

/// RULER's wording for a third of the samples.
fn wording(random: &mut Xoshiro256PlusPlus) -> Wording {
    match random.random_range(0..3u32) {
        0 => MAGIC,
        _ => one_of(WORDINGS, random),
    }
}

/// One sentence.
pub(super) fn single(random: &mut Xoshiro256PlusPlus) -> Needle {
    keyed(1, random)
}

/// Several sentences with different keys, as many as a document of `tokens` tokens has room for.
pub(super) fn multi_key(tokens: usize, random: &mut Xoshiro256PlusPlus) -> Needle {
    let most = (tokens / TOKENS_PER_KEY).clamp(KEYS.0, KEYS.1);
    keyed(random.random_range(KEYS.0..=most), random)
}

/// Several values of one key.
pub(super) fn multi_value(random: &mut Xoshiro256PlusPlus) -> Needle {
    let wording = wording(random);
    let key = key(random.random(), random);
    let count = random.random_range(VALUES.0..=VALUES.1);
    let values = distinct(count, random, |random| wording.value.draw(random));
    let sentences = values
        .iter()
        .map(|value| fill_pair(wording.sentence, &key, value));
    let all = match values.split_last() {
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    };
    Needle {
        sentences: sentences.collect(),
        question: fill_pair(wording.many, &key, ""),
        answer: fill(wording.many_answer, &[("key", &key), ("values", &all)]),
        unique: values,
    }
}

/// Sentences with different keys, of which the first is asked for.
fn keyed(count: usize, random: &mut Xoshiro256PlusPlus) -> Needle {
    let wording = wording(random);
    let long = random.random();
    let keys = distinct(count, random, |random| key(long, random));
    let values = distinct(count, random, |random| wording.value.draw(random));
    let pairs = keys.iter().zip(&values);
    let sentences = pairs.map(|(key, value)| fill_pair(wording.sentence, key, value));
    Needle {
        sentences: sentences.collect(),
        question: fill_pair(one_of(wording.questions, random), &keys[0], ""),
        answer: fill_pair(wording.answer, &keys[0], &values[0]),
        unique: values,
    }
}

/// Texts of which none contains another.
fn distinct(
    count: usize,
    random: &mut Xoshiro256PlusPlus,
    mut draw: impl FnMut(&mut Xoshiro256PlusPlus) -> String,
) -> Vec<String> {
    let mut found: Vec<String> = Vec::with_capacity(count);
    // Ends, because every list is far longer than any count.
    while found.len() < count {
        let text = draw(random);
        if !found
            .iter()
            .any(|other| other.contains(&text) || text.contains(other.as_str()))
        {
            found.push(text);
        }
    }
    found
}

fn fill_pair(template: &str, key: &str, value: &str) -> String {
    fill(template, &[("key", key), ("value", value)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wording_says_what_it_asks_for() {
        for wording in WORDINGS.iter().chain([&MAGIC]) {
            for text in [wording.sentence, wording.answer] {
                assert!(text.contains("{key}") && text.contains("{value}"), "{text}");
            }
            assert!(
                wording.many_answer.contains("{values}") && wording.many_answer.contains("{key}")
            );
            for question in wording.questions.iter().chain([&wording.many]) {
                assert!(
                    question.contains("{key}") && !question.contains("{value"),
                    "{question}"
                );
            }
        }
    }
}
