//! Digits in a repeated text.

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use crate::tasks::draft::{Composed, Draft};
use crate::tasks::random::{Purpose, Seeds};

const NOISE: &str =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n";

/// The places of the line, from before the first repetition to after the last.
const PLACES: usize = 59;

/// The step from the place of one sample to that of the next: about 0.6 of them, so that the first few
/// samples are far apart.
const STEP: usize = 37;

/// Digits of a key, and of a sequence before some are repeated.
const DIGITS: usize = 5;

/// The texts of a task.
struct Wording {
    instruction: &'static str,
    /// What the digits are called.
    name: &'static str,
}

/// The sample `index` of `passkey`.
pub(super) fn passkey(seeds: Seeds, index: usize) -> Draft<'static> {
    let wording = Wording {
        instruction: "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I \
            will quiz you about the important information.\n\n",
        name: "pass key",
    };
    let key = digits(&mut seeds.stream(index, Purpose::Words));
    draft(wording, key.into_iter().collect(), index)
}

/// The sample `index` of `number_string`.
pub(super) fn number_string(seeds: Seeds, index: usize) -> Draft<'static> {
    let wording = Wording {
        instruction: "There is an important info hidden inside a lot of irrelevant text. Find it. I will quiz you \
            about the important information there.\n\n",
        name: "sequence of digits",
    };
    let mut random = seeds.stream(index, Purpose::Words);
    let mut sequence = digits(&mut random);
    for _ in 0..DIGITS {
        let place = random.random_range(0..sequence.len());
        sequence.insert(place, sequence[place]);
    }
    draft(wording, sequence.into_iter().collect(), index)
}

fn digits(random: &mut Xoshiro256PlusPlus) -> Vec<char> {
    (0..DIGITS)
        .map(|_| char::from(random.random_range(b'0'..=b'9')))
        .collect()
}

fn draft(wording: Wording, value: String, index: usize) -> Draft<'static> {
    let Wording { instruction, name } = wording;
    let line = format!("The {name} is {value}. Remember it. {value} is the {name}.\n");
    let place = index % PLACES * STEP % PLACES;
    let compose = move |repetitions: usize| {
        let before = repetitions * place / (PLACES - 1);
        let head = NOISE.repeat(before);
        let text = format!("{head}{line}{}", NOISE.repeat(repetitions - before));
        let start = instruction.len() + head.len();
        Composed {
            needle: Some(start..start + line.len() - 1),
            // The last line end is part of the separator.
            ..Composed::new(instruction, text.trim_end())
        }
    };
    Draft {
        separator: "\n\n\n",
        question: format!("What is the {name}?"),
        answer_prefix: format!("\n\nThe {name} is"),
        references: vec![value],
        units: 1..=usize::MAX,
        compose: Box::new(compose),
    }
}
