//! The value of a key in a JSON object of UUIDs.

use crate::tasks::draft::{Composed, Draft};
use crate::tasks::needle::uuid;
use crate::tasks::random::{Purpose, Seeds};

/// Depths of the entry that is asked for.
const PLACES: usize = 500;

/// The step from the depth of one sample to that of the next, about 0.6 of them.
const STEP: usize = 309;

const INSTRUCTION: &str =
    "Extract the value corresponding to the specified key in the JSON object below.\n\n";

/// The sample `index`.
pub(super) fn draft(seeds: Seeds, index: usize) -> Draft<'static> {
    let mut random = seeds.stream(index, Purpose::Words);
    let (key, value) = (uuid(&mut random), uuid(&mut random));
    let place = index % PLACES * STEP % PLACES;
    let (question, references) = (format!("Key: \"{key}\""), vec![value.clone()]);
    let compose = move |entries: usize| {
        let mut random = seeds.stream(index, Purpose::Distractors);
        let mut other = || {
            let mut drawn = uuid(&mut random);
            while drawn == key || drawn == value {
                drawn = uuid(&mut random);
            }
            drawn
        };
        let others = entries.saturating_sub(1);
        let mut lines: Vec<String> = (0..others).map(|_| entry(&other(), &other())).collect();
        let place = (entries * place / PLACES).min(others);
        let asked = entry(&key, &value);
        let head: usize = lines.iter().take(place).map(|line| line.len() + 2).sum();
        let start = INSTRUCTION.len() + "JSON data:\n{".len() + head;
        let needle = start..start + asked.len();
        lines.insert(place, asked);
        let text = format!("JSON data:\n{{{}}}", lines.join(", "));
        Composed {
            needle: Some(needle),
            ..Composed::new(INSTRUCTION, &text)
        }
    };
    Draft {
        separator: "\n\n\n",
        question,
        answer_prefix: "\nThe value associated with the specified key is: ".into(),
        references,
        units: 2..=usize::MAX,
        compose: Box::new(compose),
    }
}

fn entry(key: &str, value: &str) -> String {
    format!("\"{key}\": \"{value}\"")
}
