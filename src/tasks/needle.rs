//! Needles: sentences with a key and a value, as RULER words them.

use std::collections::HashSet;
use std::ops::Range;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt};

use super::haystack::Haystack;
use super::words;

/// Draws of a key or a value that the text contains already.
const ATTEMPTS: usize = 64;

/// A key or a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An adjective and a noun.
    Words,
    /// Seven digits.
    Numbers,
    /// A UUID of version 4.
    Uuids,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Words => "words",
            Self::Numbers => "numbers",
            Self::Uuids => "uuids",
        }
    }

    pub(super) fn draw(self, random: &mut Xoshiro256PlusPlus) -> String {
        match self {
            Self::Words => words::key(random),
            Self::Numbers => random.random_range(1_000_000..=9_999_999u32).to_string(),
            Self::Uuids => uuid(random),
        }
    }
}

/// A random UUID of version 4.
pub(super) fn uuid(random: &mut Xoshiro256PlusPlus) -> String {
    let (high, low) = (random.next_u64(), random.next_u64());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:x}{:03x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        8 + (low >> 62),
        low >> 48 & 0xfff,
        low & 0xffff_ffff_ffff
    )
}

/// The needle of a key and a value.
pub(super) fn needle(key: &str, value: &str, kind: Kind) -> String {
    format!(
        "One of the special magic {} for {key} is: {value}.",
        kind.name()
    )
}

/// The texts around the document.
pub(super) struct Wording {
    pub(super) instruction: String,
    pub(super) question: String,
    pub(super) answer_prefix: String,
}

impl Wording {
    /// The wording for one value.
    pub(super) fn single(key: &str, kind: Kind) -> Self {
        let value = kind.name().trim_end_matches('s');
        Self {
            instruction: format!(
                "A special magic {value} is hidden within the following text. Make sure to memorize it. I will \
                 quiz you about the {value} afterwards.\n"
            ),
            question: format!(
                "What is the special magic {value} for {key} mentioned in the provided text?"
            ),
            answer_prefix: format!(
                " The special magic {value} for {key} mentioned in the provided text is"
            ),
        }
    }

    /// The wording for several values.
    pub(super) fn several(keys: &[String], kind: Kind) -> Self {
        let values = kind.name();
        let keys = match keys {
            [] => String::new(),
            [key] => key.clone(),
            [others @ .., last] => format!("{}, and {last}", others.join(", ")),
        };
        Self {
            instruction: format!(
                "Some special magic {values} are hidden within the following text. Make sure to memorize it. I \
                 will quiz you about the {values} afterwards.\n"
            ),
            question: format!(
                "What are all the special magic {values} for {keys} mentioned in the provided text?"
            ),
            answer_prefix: format!(
                " The special magic {values} for {keys} mentioned in the provided text are"
            ),
        }
    }
}

/// Draws keys and values that differ and that the text does not contain.
pub(super) struct Fresh<'a> {
    pub(super) text: Option<&'a Haystack>,
    pub(super) seen: HashSet<String>,
}

impl Fresh<'_> {
    /// None where the text contains everything drawn.
    pub(super) fn draw(&mut self, kind: Kind, random: &mut Xoshiro256PlusPlus) -> Option<String> {
        let known = |drawn: &String| self.text.is_some_and(|text| text.contains(drawn));
        let drawn = (0..ATTEMPTS)
            .map(|_| kind.draw(random))
            .find(|drawn| !self.seen.contains(drawn) && !known(drawn))?;
        self.seen.insert(drawn.clone());
        Some(drawn)
    }
}

/// `text` with a needle before each place, and the places of the needles in it. Places are ascending,
/// and each is the start of a sentence or line, or the end of the text.
pub(super) fn insert(
    text: &str,
    needles: &[String],
    places: &[usize],
    between: &str,
) -> (String, Vec<Range<usize>>) {
    let mut joined = String::with_capacity(text.len() + needles.len() * 128);
    let mut ranges = Vec::with_capacity(needles.len());
    let mut done = 0;
    for (needle, &place) in needles.iter().zip(places) {
        joined.push_str(&text[done..place]);
        done = place;
        if !joined.is_empty() && !joined.ends_with(between) {
            joined.push_str(between);
        }
        ranges.push(joined.len()..joined.len() + needle.len());
        joined.push_str(needle);
        if place < text.len() {
            joined.push_str(between);
        }
    }
    joined.push_str(&text[done..]);
    (joined, ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::random::{Purpose, Seeds};

    #[test]
    fn needles_stand_between_sentences() {
        let needles = ["N1.".to_string(), "N2.".into(), "N3.".into()];
        let (text, ranges) = insert("A a. B. C.", &needles, &[0, 5, 10], " ");
        assert_eq!(text, "N1. A a. N2. B. C. N3.");
        let found: Vec<&str> = ranges.into_iter().map(|range| &text[range]).collect();
        assert_eq!(found, ["N1.", "N2.", "N3."]);
        let (text, _) = insert("A.", &needles, &[2, 2, 2], "\n");
        assert_eq!(text, "A.\nN1.\nN2.\nN3.");
        let (text, _) = insert("A. B.", &needles[..2], &[3, 3], " ");
        assert_eq!(text, "A. N1. N2. B.");
    }

    #[test]
    fn uuids_have_their_version() {
        let seeds = Seeds::new("test", 0);
        let mut random = seeds.stream(0, Purpose::Words);
        for _ in 0..100 {
            let uuid = uuid(&mut random);
            let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12]);
            assert_eq!(&uuid[14..15], "4");
            assert!("89ab".contains(&uuid[19..20]), "{uuid}");
        }
    }

    #[test]
    fn wordings_are_those_published() {
        let single = Wording::single("odd-owl", Kind::Uuids);
        assert_eq!(
            single.instruction,
            "A special magic uuid is hidden within the following text. Make sure to memorize it. I will quiz \
             you about the uuid afterwards.\n"
        );
        let keys = ["a".into(), "b".into(), "c".into()];
        let several = Wording::several(&keys, Kind::Numbers);
        assert_eq!(
            several.question,
            "What are all the special magic numbers for a, b, and c mentioned in the provided text?"
        );
        assert_eq!(
            several.answer_prefix,
            " The special magic numbers for a, b, and c mentioned in the provided text are"
        );
        let two = ["a".into(), "b".into()];
        assert!(
            Wording::several(&two, Kind::Numbers)
                .question
                .contains("for a, and b mentioned")
        );
    }
}
