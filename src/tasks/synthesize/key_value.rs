//! Documents of keys and values only.

use std::collections::HashSet;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use super::document::{Source, Target};
use super::words::{Value, fill, key, one_of};
use crate::tasks::error::TaskError;
use crate::tasks::sample::TextSample;

/// Lines in which the tokens of a line are measured.
const MEASURED: usize = 16;

/// Lines above which keys need a number to differ.
const NUMBERED: usize = 2000;

/// Corrections of the number of lines.
const ROUNDS: usize = 6;

const LINES: &[&str] = &[
    "{key}: {value}",
    "{key} = {value}",
    "\"{key}\": \"{value}\",",
    "{key} -> {value}",
    "- {key}: {value}",
];

const VALUES: &[Value] = &[Value::Uuid, Value::Uuid, Value::Number, Value::Code];

const QUESTIONS: &[&str] = &[
    "What is the value of {key}?",
    "Which value is listed for the key {key}?",
    "Look up {key} in the list. What value does it have?",
    "The list has an entry for {key}. What does it say?",
];

const ANSWERS: &[&str] = &[
    "The value of {key} is {value}.",
    "{value}",
    "{key}: {value}",
];

/// A document of as many lines as fit.
pub(super) fn sample(
    source: &Source<'_>,
    target: &Target,
    random: &mut Xoshiro256PlusPlus,
) -> Result<Option<TextSample>, TaskError> {
    let (line, kind) = (one_of(LINES, random), one_of(VALUES, random));
    let mut measured = List::default();
    measured.grow(MEASURED, false, line, kind, random);
    let per_line = source.tokens(&measured.text(MEASURED))? as f64 / MEASURED as f64;
    let mut lines = ((target.tokens as f64 / per_line.max(1.0)) as usize).max(2);
    let numbered = lines > NUMBERED;
    let mut list = List::default();
    let mut best: Option<(usize, String)> = None;
    for _ in 0..ROUNDS {
        list.grow(lines, numbered, line, kind, random);
        let text = list.text(lines);
        let tokens = source.tokens(&text)?;
        if tokens <= target.most && best.as_ref().is_none_or(|(most, _)| lines > *most) {
            best = Some((lines, text));
        }
        if (target.least..=target.most).contains(&tokens) || lines == 0 {
            break;
        }
        let better = (lines as f64 * target.tokens as f64 / tokens.max(1) as f64) as usize;
        lines = match better == lines {
            true if tokens > target.most => lines - 1,
            _ => better,
        };
    }
    let Some((lines, document)) = best.filter(|(lines, _)| *lines > 1) else {
        return Ok(None);
    };
    let (key, value) = &list.entries[random.random_range(0..lines)];
    if document.matches(value.as_str()).count() != 1 {
        return Ok(None);
    }
    let slots: [(&str, &str); 2] = [("key", key), ("value", value)];
    Ok(Some(TextSample {
        question: fill(one_of(QUESTIONS, random), &slots),
        answer: fill(one_of(ANSWERS, random), &slots),
        document,
    }))
}

/// Entries with different keys.
#[derive(Default)]
struct List {
    entries: Vec<(String, String)>,
    lines: Vec<String>,
    keys: HashSet<String>,
}

impl List {
    fn grow(
        &mut self,
        lines: usize,
        numbered: bool,
        line: &str,
        kind: Value,
        random: &mut Xoshiro256PlusPlus,
    ) {
        while self.entries.len() < lines {
            let mut key = key(true, random);
            // There are enough numbers for any document; a key that exists gets another one.
            if numbered || self.keys.contains(&key) {
                key = format!("{key}-{}", random.random_range(10..1_000_000u32));
            }
            if self.keys.insert(key.clone()) {
                let value = kind.draw(random);
                self.lines
                    .push(fill(line, &[("key", &key), ("value", &value)]));
                self.entries.push((key, value));
            }
        }
    }

    fn text(&self, lines: usize) -> String {
        self.lines[..lines].join("\n")
    }
}
