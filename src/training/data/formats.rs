//! The formats of published samples, recognised by the keys of the object; the list is at
//! [`SampleFile`](super::SampleFile). A document that is split off a text has a least length: what is
//! shorter is a greeting, or a question in two paragraphs.

use super::report::ProblemKind;
use super::split::{SHORTEST_DOCUMENT, split_at_markers, split_by_paragraphs};
use crate::tasks::TextSample;

mod record;

use record::{Field, Record};

/// The most characters of a parser's message that are kept: it may quote the input.
const LONGEST_MESSAGE: usize = 160;

/// Reads one object.
pub(super) fn parse(bytes: &[u8]) -> Result<TextSample, ProblemKind> {
    let text = std::str::from_utf8(bytes).map_err(|error| ProblemKind::NotUtf8 {
        valid: error.valid_up_to(),
    })?;
    let record: Record = serde_json::from_str(text).map_err(|error| ProblemKind::NotJson {
        message: message(&error),
    })?;
    let sample = if record.has_parts() {
        named(record)
    } else if record.messages.is_some() {
        chat(record)
    } else if record.instruction.is_some() && record.output.is_some() {
        instruction(record)
    } else {
        Err(ProblemKind::UnknownFormat { found: record.keys })
    }?;
    complete(sample)
}

/// The parts under keys of their own.
fn named(record: Record) -> Result<TextSample, ProblemKind> {
    let either = |one: Option<Field>, name, other: Option<Field>, other_name| match one {
        Some(field) => field.text(name),
        None => other.map_or(Ok(String::new()), |field| field.text(other_name)),
    };
    Ok(TextSample {
        document: either(record.document, "document", record.context, "context")?,
        question: either(record.question, "question", record.query, "query")?,
        answer: record
            .answer
            .map_or(Ok(String::new()), |field| field.first_text("answer"))?,
    })
}

/// A conversation: its last answered message holds document and question.
fn chat(record: Record) -> Result<TextSample, ProblemKind> {
    let messages = record.messages.unwrap_or_default();
    if messages.not_text {
        return Err(ProblemKind::NotText { field: "messages" });
    }
    let Some((user, answer)) = messages.answered else {
        return Err(match messages.unanswered {
            Some(_) => ProblemKind::NoAnswer,
            None => ProblemKind::NoQuestion,
        });
    };
    let (document, question) = split_by_paragraphs(&user)?;
    Ok(sample(document, question, answer))
}

/// An instruction with an output, and possibly an input.
fn instruction(record: Record) -> Result<TextSample, ProblemKind> {
    let text = |field: Option<Field>, name| field.map_or(Ok(String::new()), |f| f.text(name));
    let instruction = text(record.instruction, "instruction")?;
    let input = text(record.input, "input")?;
    let answer = text(record.output, "output")?;
    if let Some((document, question)) = split_at_markers(&instruction) {
        return Ok(sample(document, question, answer));
    }
    if !input.trim().is_empty() {
        if input.trim().chars().count() < SHORTEST_DOCUMENT {
            return Err(ProblemKind::NoDocument);
        }
        return Ok(sample(input.trim(), instruction.trim(), answer));
    }
    let (document, question) = split_by_paragraphs(&instruction)?;
    Ok(sample(document, question, answer))
}

fn sample(document: &str, question: &str, answer: String) -> TextSample {
    TextSample {
        document: document.into(),
        question: question.into(),
        answer,
    }
}

/// Refuses a sample that lacks a part.
fn complete(sample: TextSample) -> Result<TextSample, ProblemKind> {
    let missing = |text: &str| text.trim().is_empty();
    if missing(&sample.document) {
        Err(ProblemKind::NoDocument)
    } else if missing(&sample.question) {
        Err(ProblemKind::NoQuestion)
    } else if missing(&sample.answer) {
        Err(ProblemKind::NoAnswer)
    } else {
        Ok(sample)
    }
}

/// The parser's message, with a position that cannot be read as a line of the file.
fn message(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let message = text
        .strip_suffix(&format!(" at line {line} column {column}"))
        .unwrap_or(&text);
    let mut shown: String = message.chars().take(LONGEST_MESSAGE).collect();
    if shown.len() < message.len() {
        shown.push_str("..");
    }
    match line {
        0 => shown,
        1 => format!("{shown} at column {column}"),
        _ => format!("{shown} at column {column} of its line {line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(value: Value) -> Result<TextSample, ProblemKind> {
        parse(value.to_string().as_bytes())
    }

    fn long(words: usize) -> String {
        vec!["A sentence of the long document."; words / 6].join(" ")
    }

    #[test]
    fn parts_under_their_own_names() {
        let expected = sample("D", "Q", "A".into());
        for value in [
            json!({"document": "D", "question": "Q", "answer": "A", "length": 3}),
            json!({"context": "D", "query": "Q", "answer": ["A", "B"]}),
            json!({"context": "D", "question": "Q", "answer": [1, "A"], "extra": {"a": [null]}}),
        ] {
            assert_eq!(read(value.clone()), Ok(expected.clone()), "{value}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        use ProblemKind::*;
        let not_text = |field| NotText { field };
        for (value, expected) in [
            (json!({"question": "Q", "answer": "A"}), NoDocument),
            (
                json!({"document": " ", "question": "Q", "answer": "A"}),
                NoDocument,
            ),
            (json!({"document": "D", "answer": "A"}), NoQuestion),
            (
                json!({"document": "D", "question": null, "answer": "A"}),
                NoQuestion,
            ),
            (json!({"document": "D", "question": "Q"}), NoAnswer),
            (
                json!({"document": "D", "question": "Q", "answer": []}),
                NoAnswer,
            ),
            (
                json!({"document": "D", "question": "Q", "answer": "\n"}),
                NoAnswer,
            ),
            (
                json!({"document": "D", "question": "Q", "answer": 5}),
                not_text("answer"),
            ),
            (
                json!({"document": ["D"], "question": "Q", "answer": "A"}),
                not_text("document"),
            ),
            (
                json!({"context": {}, "question": "Q", "answer": "A"}),
                not_text("context"),
            ),
            (json!({"messages": []}), NoQuestion),
            (json!({"messages": "hello"}), not_text("messages")),
            (
                json!({"messages": [{"role": "user", "content": 1}]}),
                not_text("messages"),
            ),
            (
                json!({"messages": [{"role": "user", "content": "Q"}]}),
                NoAnswer,
            ),
            (
                json!({"messages": [{"role": "assistant", "content": "A"}]}),
                NoQuestion,
            ),
            (json!({"instruction": "Sing.", "output": "La."}), NoDocument),
            (
                json!({"instruction": "Sing.", "input": "A song", "output": "La."}),
                NoDocument,
            ),
            (
                json!({"answer": "A", "b": 1}),
                UnknownFormat {
                    found: vec!["answer".into(), "b".into()],
                },
            ),
        ] {
            assert_eq!(read(value.clone()), Err(expected), "{value}");
        }
        for text in [
            "",
            "{",
            "[]",
            "7",
            "\"a\"",
            "{\"document\": 1e999}",
            "{} {}",
        ] {
            assert!(
                matches!(parse(text.as_bytes()), Err(NotJson { .. })),
                "{text}"
            );
        }
        assert_eq!(parse(b"{\"a\xff"), Err(NotUtf8 { valid: 3 }));
    }

    #[test]
    fn messages_stay_short_whatever_they_quote() {
        let text = format!("\"{}\"", "x".repeat(10_000));
        let error = parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.len() < 300, "{error}");
        let keys: serde_json::Map<_, _> = (0..100).map(|i| ("k".repeat(i * 9), json!(i))).collect();
        let error = read(Value::Object(keys)).unwrap_err().to_string();
        assert!(error.ends_with(", ..") && error.len() < 600, "{error}");
    }

    #[test]
    fn long_align() {
        let document = long(200);
        let chat = json!({"messages": [
            {"role": "user", "content": format!("{document}\n\nWhat is this?\n")},
            {"role": "assistant", "content": "A document."},
        ], "length": 1234});
        assert_eq!(
            read(chat),
            Ok(sample(&document, "What is this?", "A document.".into()))
        );
    }

    #[test]
    fn the_last_answered_message_counts() {
        let document = long(100);
        let chat = json!({"messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hello!"},
            {"content": [{"type": "text", "text": document}, {"type": "image_url", "image_url": {}},
                         {"type": "text", "text": "Well?"}], "role": "user", "name": null},
            {"role": "assistant", "content": "Well."},
            {"role": "user", "content": "Thanks"},
        ]});
        assert_eq!(read(chat), Ok(sample(&document, "Well?", "Well.".into())));
    }

    #[test]
    fn long_alpaca() {
        let text = long(50);
        for (noun, begins) in [
            ("paper", "The paper begins. \n "),
            ("material", ""),
            ("first Paper", ""),
        ] {
            let instruction = format!(
                "Below is a {noun}. Memorize the {noun} and answer my question after the {noun}.\n \
                 {begins}{text}\n\nNow it goes on.\n {} \n Now the {noun} ends. \n What is shown?",
                "More text."
            );
            let found = read(json!({
                "instruction": instruction, "output": "That.", "input": "", "file": "1.txt",
            }))
            .unwrap();
            assert_eq!(found.question, "What is shown?");
            assert!(found.document.ends_with("More text."), "{found:?}");
            assert_eq!(
                found.document.starts_with("A sentence"),
                !begins.is_empty(),
                "{found:?}"
            );
        }
        let found = read(json!({"instruction": "Sum up.", "input": text, "output": "Short."}));
        assert_eq!(found, Ok(sample(&text, "Sum up.", "Short.".into())));
        let found = read(json!({
            "instruction": "The book begins.\n Text.\nNow the book ends.", "output": "A",
        }));
        assert_eq!(found, Err(ProblemKind::NoQuestion));
    }
}
