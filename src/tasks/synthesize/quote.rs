//! Sentences of the text itself, asked for by their first words.

use std::ops::RangeInclusive;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use super::document::{Source, Target};
use super::words::{fill, one_of};
use crate::tasks::error::TaskError;
use crate::tasks::sample::TextSample;

/// Words of a sentence that is asked for.
const WORDS: RangeInclusive<usize> = 12..=40;

/// Words of it in the question.
const GIVEN: RangeInclusive<usize> = 6..=8;

/// Sentences tried in a document.
const TRIES: usize = 64;

const QUESTIONS: &[&str] = &[
    "Complete the sentence that begins with \"{given}\".",
    "How does the sentence go on that begins with \"{given}\"? Give the whole sentence.",
    "Quote the sentence of the text that starts with the words \"{given}\".",
    "Which sentence in the text opens with \"{given}\"? Repeat it word for word.",
];

/// A document of the text alone; none where no sentence of it can be asked for.
pub(super) fn sample(
    source: &Source<'_>,
    target: &Target,
    random: &mut Xoshiro256PlusPlus,
) -> Result<Option<TextSample>, TaskError> {
    let start = source.start(target, random);
    let Some(document) = source.insert(start, target, &[], &[])? else {
        return Ok(None);
    };
    let starts = source.starts_in(document.range.clone());
    if starts.len() < 2 {
        return Ok(None);
    }
    for _ in 0..TRIES {
        // Not the last, which may be cut.
        let index = random.random_range(0..starts.len() - 1);
        let sentence = source.text()[starts[index]..starts[index + 1]].trim_end();
        let Some(given) = given(sentence, random) else {
            continue;
        };
        if document.text.matches(sentence).count() == 1 && document.text.matches(given).count() == 1
        {
            // The question is one line, wherever the text breaks its lines.
            let words: Vec<&str> = given.split_whitespace().collect();
            return Ok(Some(TextSample {
                question: fill(one_of(QUESTIONS, random), &[("given", &words.join(" "))]),
                answer: sentence.into(),
                document: document.text,
            }));
        }
    }
    Ok(None)
}

/// The first words of a sentence, if it can be asked for.
fn given<'a>(sentence: &'a str, random: &mut Xoshiro256PlusPlus) -> Option<&'a str> {
    let words = sentence.split_whitespace().count();
    let whole = sentence.starts_with(char::is_uppercase) && sentence.ends_with(['.', '!', '?']);
    if !whole || !WORDS.contains(&words) {
        return None;
    }
    let given = random.random_range(GIVEN);
    let last = sentence.split_whitespace().nth(given - 1)?;
    let end = last.as_ptr() as usize - sentence.as_ptr() as usize + last.len();
    let given = sentence[..end].trim_end_matches([',', ';', ':']);
    (!given.contains('"')).then_some(given)
}
