//! Needles in a haystack: sentences with a key and a value, in a text or among others of their kind.

use std::collections::HashSet;
use std::ops::Range;

use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::{SliceRandom, index};

use super::task::RulerTask;
use crate::tasks::draft::{Composed, Draft};
use crate::tasks::error::TaskError;
use crate::tasks::haystack::Haystack;
use crate::tasks::needle::{Fresh, Kind, Wording, insert, needle};
use crate::tasks::random::{Purpose, Seeds};
use crate::text::sentences;

/// The repeated text.
pub(super) const NOISE: &str =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

/// The depths in a text, evenly spaced from start to end, of which the needles get different ones.
const DEPTHS: usize = 40;

/// The fewest words of a text.
const FEWEST_WORDS: usize = 50;

/// What surrounds the needles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Surroundings {
    Noise,
    Text,
    Needles,
}

/// The parameters of a task, as published.
struct Setup {
    surroundings: Surroundings,
    key: Kind,
    value: Kind,
    keys: usize,
    values: usize,
    queries: usize,
}

impl Setup {
    fn of(task: RulerTask) -> Self {
        let base = Self {
            surroundings: Surroundings::Text,
            key: Kind::Words,
            value: Kind::Numbers,
            keys: 1,
            values: 1,
            queries: 1,
        };
        let surroundings = match task {
            RulerTask::NiahSingle1 => Surroundings::Noise,
            RulerTask::NiahMultikey2 | RulerTask::NiahMultikey3 => Surroundings::Needles,
            _ => Surroundings::Text,
        };
        let base = Self {
            surroundings,
            ..base
        };
        match task {
            RulerTask::NiahSingle3 => Self {
                value: Kind::Uuids,
                ..base
            },
            RulerTask::NiahMultikey1 => Self { keys: 4, ..base },
            RulerTask::NiahMultikey3 => Self {
                key: Kind::Uuids,
                value: Kind::Uuids,
                ..base
            },
            RulerTask::NiahMultivalue => Self { values: 4, ..base },
            RulerTask::NiahMultiquery => Self {
                keys: 4,
                queries: 4,
                ..base
            },
            _ => base,
        }
    }
}

/// A key and its values.
struct Entry {
    key: String,
    values: Vec<String>,
}

/// The sample `index` of a needle task.
pub(super) fn draft<'a>(
    task: RulerTask,
    text: Option<&'a Haystack>,
    seeds: Seeds,
    index: usize,
) -> Result<Draft<'a>, TaskError> {
    let setup = Setup::of(task);
    let mut random = seeds.stream(index, Purpose::Words);
    let mut fresh = Fresh {
        text,
        seen: HashSet::new(),
    };
    let entries = (0..setup.keys).map(|_| entry(&setup, &mut fresh, &mut random));
    let entries: Option<Vec<Entry>> = entries.collect();
    let entries = entries.ok_or(TaskError::NotUnique {
        task: task.name(),
        index,
    })?;
    let asked = index::sample(&mut random, setup.keys, setup.queries.min(setup.keys));
    let asked: Vec<&Entry> = asked.iter().filter_map(|at| entries.get(at)).collect();
    let keys: Vec<String> = asked.iter().map(|entry| entry.key.clone()).collect();
    let references: Vec<String> = asked
        .iter()
        .flat_map(|entry| entry.values.clone())
        .collect();
    let wording = match keys.as_slice() {
        [key] if references.len() == 1 => Wording::single(key, setup.value),
        keys => Wording::several(keys, setup.value),
    };
    let mut needles: Vec<String> = entries
        .iter()
        .flat_map(|Entry { key, values }| {
            values.iter().map(|value| needle(key, value, setup.value))
        })
        .collect();
    needles.shuffle(&mut random);
    let single = match (keys.as_slice(), references.as_slice()) {
        ([key], [value]) => {
            let asked = needle(key, value, setup.value);
            needles.iter().position(|needle| *needle == asked)
        }
        _ => None,
    };
    let fewest = match setup.surroundings {
        Surroundings::Text => FEWEST_WORDS,
        _ => needles.len(),
    };
    let context = Context {
        setup,
        instruction: wording.instruction,
        needles,
        single,
        text,
        seen: fresh.seen,
        seeds,
        index,
    };
    Ok(Draft {
        separator: "\n",
        question: wording.question,
        answer_prefix: wording.answer_prefix,
        references,
        units: fewest..=usize::MAX,
        compose: Box::new(move |units| context.compose(units)),
    })
}

fn entry(setup: &Setup, fresh: &mut Fresh<'_>, random: &mut Xoshiro256PlusPlus) -> Option<Entry> {
    let key = fresh.draw(setup.key, random)?;
    let values = (0..setup.values).map(|_| fresh.draw(setup.value, random));
    Some(Entry {
        key,
        values: values.collect::<Option<_>>()?,
    })
}

/// What the document of a needle task is made of.
struct Context<'a> {
    setup: Setup,
    instruction: String,
    needles: Vec<String>,
    /// The needle asked for, if it is one.
    single: Option<usize>,
    text: Option<&'a Haystack>,
    /// Keys and values of the needles.
    seen: HashSet<String>,
    seeds: Seeds,
    index: usize,
}

impl Context<'_> {
    fn compose(&self, units: usize) -> Composed {
        let mut order = self.seeds.stream(self.index, Purpose::Order);
        let (text, places) = match (self.setup.surroundings, self.text) {
            (Surroundings::Text, Some(haystack)) => {
                let text = haystack.part(0, units);
                let places = places_in_text(&text, self.needles.len(), &mut order);
                insert(&text, &self.needles, &places, " ")
            }
            (Surroundings::Needles, _) => self.among(&self.distractors(units), &mut order),
            _ => self.among(&vec![NOISE; units], &mut order),
        };
        let start = self.instruction.len();
        let needle = self.single.and_then(|single| places.get(single));
        let needle = needle.map(|place| start + place.start..start + place.end);
        Composed {
            needle,
            ..Composed::new(&self.instruction, &text)
        }
    }

    /// Lines with keys and values of their own.
    fn distractors(&self, lines: usize) -> Vec<String> {
        let mut random = self.seeds.stream(self.index, Purpose::Distractors);
        let mut other = |kind: Kind| {
            let mut drawn = kind.draw(&mut random);
            while self.seen.contains(&drawn) {
                drawn = kind.draw(&mut random);
            }
            drawn
        };
        let Setup { key, value, .. } = self.setup;
        (0..lines)
            .map(|_| needle(&other(key), &other(value), value))
            .collect()
    }

    /// The needles before lines drawn at random.
    fn among<T: AsRef<str>>(
        &self,
        lines: &[T],
        random: &mut Xoshiro256PlusPlus,
    ) -> (String, Vec<Range<usize>>) {
        let lines: Vec<&str> = lines.iter().map(AsRef::as_ref).collect();
        let mut places =
            index::sample(random, lines.len(), self.needles.len().min(lines.len())).into_vec();
        places.sort_unstable();
        let starts: Vec<usize> = lines
            .iter()
            .scan(0, |start, line| {
                let this = *start;
                *start += line.len() + 1;
                Some(this)
            })
            .collect();
        let places: Vec<usize> = places.into_iter().map(|place| starts[place]).collect();
        insert(&lines.join("\n"), &self.needles, &places, "\n")
    }
}

/// Starts of sentences at different depths, ascending.
fn places_in_text(text: &str, needles: usize, random: &mut Xoshiro256PlusPlus) -> Vec<usize> {
    let starts = sentences::starts(text);
    let mut depths = index::sample(random, DEPTHS, needles.min(DEPTHS)).into_vec();
    depths.sort_unstable();
    depths
        .into_iter()
        // The depth in percent is rounded before it is used, as published.
        .map(|depth| (depth * 200 + DEPTHS - 1) / (2 * (DEPTHS - 1)))
        .map(|percent| starts.len() * percent / 100)
        .map(|sentence| starts.get(sentence).copied().unwrap_or(text.len()))
        .collect()
}
