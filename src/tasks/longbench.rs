//! LongBench v2 ([Bai et al., 2024](https://arxiv.org/abs/2412.15204)): 503 questions about long texts with
//! four choices each, with the wording and scoring of [THUDM/LongBench](https://github.com/THUDM/LongBench).
//!
//! The file has one JSON array of objects (`data.json`), or one JSON object a line. Fields that are not
//! named in [`LongBenchSample`] and the prompt are ignored.
//!
//! The wording is that of a question without examples and without reasoning (`0shot.txt`). Document,
//! separator and question in one text are the published prompt. There is no answer prefix. Samples with the
//! same text have the same document.
//!
//! [`TaskSample::tokens`] is 0, because the tokens are unknown until they are counted, and
//! [`TaskSample::depth`] is never given.
//!
//! # Differences from the published benchmark
//!
//! * No prompt is cut. The published program cuts the middle of a prompt that is too long for a model.
//! * An empty answer has the score 0. The published program leaves its sample out of the mean.
//! * `$Q$` and `$C_A$` to `$C_D$` stay as they are in a text. The published program takes them for places of
//!   its prompt.
//! * The published program samples answers at a temperature of 0.1; here that is up to the caller.

use std::fmt;
use std::io::BufRead;

use serde::{Deserialize, Serialize};

use super::infinitebench::error::shown;
use super::infinitebench::fields::Value;
use super::infinitebench::records::{Record, Records};
use super::infinitebench::white::trim;
use super::sample::TaskSample;

pub use super::infinitebench::{Place, PublishedError};

/// The task of each sample.
pub const NAME: &str = "longbench_v2";

/// The most tokens of an answer.
pub const TOKENS_TO_GENERATE: usize = 128;

/// How difficult a question is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Difficulty {
    /// Easy.
    Easy,
    /// Hard.
    Hard,
}

/// How long a text is, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LengthClass {
    /// Fewer than 32,000.
    Short,
    /// From 32,000 to 128,000.
    Medium,
    /// More.
    Long,
}

/// A question, with what tables of the benchmark are made by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LongBenchSample {
    /// The question. Its reference is the letter of the right choice.
    pub sample: TaskSample,
    /// The published identifier (`_id`).
    pub id: String,
    /// Such as `Single-Document QA`.
    pub domain: String,
    /// Such as `Financial`.
    pub sub_domain: String,
    /// How difficult the question is.
    pub difficulty: Difficulty,
    /// How long the text is.
    pub length: LengthClass,
}

impl Difficulty {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Easy, Self::Hard];

    /// Its published name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Easy => "easy",
            Self::Hard => "hard",
        }
    }
}

impl LengthClass {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Short, Self::Medium, Self::Long];

    /// Its published name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Medium => "medium",
            Self::Long => "long",
        }
    }
}

impl fmt::Display for Difficulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for LengthClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Reads the samples of a file, one at a time: one JSON array of objects, or one JSON object a line. A
/// sample may have 64 MiB.
///
/// # Errors
///
/// The last item is an error where a sample is refused; nothing after it is read.
pub fn read<R: BufRead>(
    reader: R,
) -> impl Iterator<Item = Result<LongBenchSample, PublishedError>> {
    Records::new(reader).samples(sample)
}

/// The letter of the choice that an answer names: after `The correct answer is`, in parentheses, or where
/// no letter is so, without them. Asterisks are left out.
pub fn chosen(answer: &str) -> Option<char> {
    let answer = answer.replace('*', "");
    let letters = |opening: &'static str| {
        let after = answer
            .match_indices(opening)
            .map(|(at, _)| &answer[at + opening.len()..]);
        after.filter_map(|after| {
            let mut after = after.chars();
            let letter = after.next().filter(|letter| ('A'..='D').contains(letter))?;
            Some((letter, after.next()))
        })
    };
    let closed = letters("The correct answer is (").find(|(_, next)| *next == Some(')'));
    let open = || letters("The correct answer is ").next();
    closed.or_else(open).map(|(letter, _)| letter)
}

/// The score of an answer, 0 or 1: whether it names the reference. Without references, it is 0. The score of
/// the benchmark is the mean over its samples.
pub fn score(answer: &str, references: &[String]) -> f64 {
    let letter = chosen(answer).map(String::from);
    f64::from(u8::from(
        letter.is_some() && letter.as_ref() == references.first(),
    ))
}

/// The fields that are read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields {
    #[serde(rename = "_id")]
    id: Value,
    domain: Value,
    sub_domain: Value,
    difficulty: Value,
    length: Value,
    question: Value,
    #[serde(rename = "choice_A")]
    a: Value,
    #[serde(rename = "choice_B")]
    b: Value,
    #[serde(rename = "choice_C")]
    c: Value,
    #[serde(rename = "choice_D")]
    d: Value,
    answer: Value,
    context: Value,
}

fn sample(record: Record) -> Result<LongBenchSample, PublishedError> {
    let place = record.place;
    let fields: Fields = record.fields()?;
    let question = fields.question.filled(place, "question")?;
    let (a, b) = (
        fields.a.text(place, "choice_A")?,
        fields.b.text(place, "choice_B")?,
    );
    let (c, d) = (
        fields.c.text(place, "choice_C")?,
        fields.d.text(place, "choice_D")?,
    );
    let question = format!(
        "What is the correct answer to this question: {}\nChoices:\n(A) {}\n(B) {}\n(C) {}\n(D) {}\n\nFormat your \
         response as follows: \"The correct answer is (insert answer here)\".",
        trim(&question),
        trim(&a),
        trim(&b),
        trim(&c),
        trim(&d),
    );
    let context = fields.context.filled(place, "context")?;
    let answer = one_of(place, "answer", fields.answer, "A, B, C or D", |answer| {
        ["A", "B", "C", "D"]
            .contains(&answer)
            .then(|| answer.to_owned())
    })?;
    let sample = TaskSample {
        task: NAME.into(),
        index: place.sample,
        document: format!(
            "Please read the following text and answer the question below.\n\n<text>\n{}\n</text>",
            trim(&context)
        ),
        separator: "\n\n".into(),
        question,
        answer_prefix: String::new(),
        references: vec![answer],
        tokens: 0,
        tokens_to_generate: TOKENS_TO_GENERATE,
        depth: None,
    };
    let difficulty = one_of(
        place,
        "difficulty",
        fields.difficulty,
        "easy or hard",
        |name| {
            Difficulty::ALL
                .into_iter()
                .find(|known| known.name() == name)
        },
    )?;
    let length = one_of(
        place,
        "length",
        fields.length,
        "short, medium or long",
        |name| {
            LengthClass::ALL
                .into_iter()
                .find(|known| known.name() == name)
        },
    )?;
    Ok(LongBenchSample {
        sample,
        id: fields.id.text(place, "_id")?,
        domain: fields.domain.text(place, "domain")?,
        sub_domain: fields.sub_domain.text(place, "sub_domain")?,
        difficulty,
        length,
    })
}

/// A text that is one of a few.
fn one_of<T>(
    place: Place,
    field: &'static str,
    value: Value,
    expected: &'static str,
    known: impl Fn(&str) -> Option<T>,
) -> Result<T, PublishedError> {
    let text = value.text(place, field)?;
    known(&text).ok_or_else(|| PublishedError::field(place, field, expected, shown(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"_id": "66f2", "domain": "Long-dialogue History Understanding", "sub_domain": "Agent history QA", "difficulty": "hard", "length": "medium", "question": " Who won? ", "choice_A": "player_0", "choice_B": "player_1\n", "choice_C": "player_2", "choice_D": "player_3", "answer": "C", "context": "\nRound 1.\nRound 2.\n", "other": [1]}"#;

    fn scored(answer: &str) -> f64 {
        score(answer, &["C".into()])
    }

    #[test]
    fn prompts_have_the_published_form() {
        let found: Vec<LongBenchSample> = read(LINE.as_bytes()).map(Result::unwrap).collect();
        let [found] = found.as_slice() else {
            panic!("{found:?}");
        };
        let prompt = "Please read the following text and answer the question below.\n\n<text>\nRound 1.\nRound \
            2.\n</text>\n\nWhat is the correct answer to this question: Who won?\nChoices:\n(A) player_0\n(B) \
            player_1\n(C) player_2\n(D) player_3\n\nFormat your response as follows: \"The correct answer is (insert \
            answer here)\".";
        assert_eq!(found.sample.prompt(), prompt);
        assert!(found.sample.document.ends_with("Round 2.\n</text>"));
        assert_eq!(found.sample.references, ["C"]);
        assert_eq!(found.sample.task, "longbench_v2");
        assert_eq!(
            (found.sample.tokens, found.sample.tokens_to_generate),
            (0, 128)
        );
        assert_eq!(
            (found.difficulty, found.length),
            (Difficulty::Hard, LengthClass::Medium)
        );
        assert_eq!(found.domain, "Long-dialogue History Understanding");
        assert_eq!(
            (found.id.as_str(), found.sub_domain.as_str()),
            ("66f2", "Agent history QA")
        );
        let json = serde_json::to_value(found).unwrap();
        assert_eq!(
            (&json["difficulty"], &json["length"]),
            (&"hard".into(), &"medium".into())
        );
    }

    #[test]
    fn equal_contexts_have_equal_documents() {
        let other = LINE
            .replace("Who won?", "Who lost?")
            .replace("\"C\"", "\"A\"");
        let pretty = LINE.replace(", \"", ",\n    \"");
        for file in [
            format!("{LINE}\n{other}\n"),
            format!("[\n{pretty},\n{other}\n]"),
        ] {
            let samples: Vec<LongBenchSample> = read(file.as_bytes()).map(Result::unwrap).collect();
            assert_eq!(samples.len(), 2);
            assert_eq!(samples[0].sample.document, samples[1].sample.document);
            assert_ne!(samples[0].sample.question, samples[1].sample.question);
            assert_eq!(
                (
                    samples[1].sample.index,
                    samples[1].sample.references[0].as_str()
                ),
                (1, "A")
            );
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        for (from, to, expected) in [
            (
                "\"hard\"",
                "\"harder\"",
                r#"field "difficulty": expected easy or hard, found "harder""#,
            ),
            (
                "\"medium\"",
                "null",
                r#"field "length": expected text, found null"#,
            ),
            (
                "\"medium\"",
                "\"\"",
                r#"field "length": expected short, medium or long, found """#,
            ),
            (
                "\"answer\": \"C\"",
                "\"answer\": \"E\"",
                r#"field "answer": expected A, B, C or D, found "E""#,
            ),
            (
                "\"answer\": \"C\"",
                "\"answer\": [\"C\"]",
                r#"field "answer": expected text, found a list"#,
            ),
            (
                "choice_D",
                "choice_E",
                r#"field "choice_D": expected text, found no such field"#,
            ),
            (
                "\"66f2\"",
                "7",
                r#"field "_id": expected text, found the number 7"#,
            ),
            (
                " Who won? ",
                " ",
                r#"field "question": expected text that is not only white space, found " ""#,
            ),
        ] {
            let broken = LINE.replace(from, to);
            for (file, place) in [
                (format!("{LINE}\n{broken}"), "line 2, sample 1, "),
                (format!("[{LINE}, {broken}]"), "line 1, sample 1, "),
            ] {
                let mut samples = read(file.as_bytes());
                assert!(samples.next().unwrap().is_ok());
                let error = samples.next().unwrap().unwrap_err().to_string();
                assert_eq!(error, format!("{place}{expected}"));
                assert!(samples.next().is_none());
            }
        }
        for end in 1..LINE.len() {
            let mut samples = read(&LINE.as_bytes()[..end]);
            assert!(samples.next().unwrap().is_err(), "{end}");
        }
    }

    #[test]
    fn answers_are_found_as_published() {
        for (answer, expected) in [
            ("The correct answer is (C).", 1.0),
            ("The correct answer is C", 1.0),
            ("**The correct answer is (C)**", 1.0),
            ("The correct answer is **C**", 1.0),
            ("The correct answer is (B)", 0.0),
            // Parentheses come first, wherever they are.
            (
                "The correct answer is B. No: The correct answer is (C)",
                1.0,
            ),
            ("The correct answer is (B. The correct answer is C", 1.0),
            ("The correct answer is (E). The correct answer is (C)", 1.0),
            ("The correct answer is Charles", 1.0),
            ("the correct answer is (C)", 0.0),
            ("The correct answer is: (C)", 0.0),
            ("(C)", 0.0),
            ("The correct answer is ", 0.0),
            ("", 0.0),
        ] {
            assert_eq!(scored(answer), expected, "{answer}");
        }
        assert_eq!(chosen("The correct answer is (D)"), Some('D'));
        assert_eq!(chosen("C"), None);
        assert_eq!(score("", &[]), 0.0);
        assert_eq!(score("The correct answer is (C)", &[]), 0.0);
    }
}
