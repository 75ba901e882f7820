//! Variable tracking: assignments in a repeated text, of which each takes the value of the one before.

use std::collections::HashSet;

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::index;

use super::needles::NOISE;
use crate::tasks::draft::{Composed, Draft};
use crate::tasks::random::{Purpose, Seeds};

/// Assignments that take the value of another variable.
const HOPS: usize = 4;

/// Letters of a variable, in the task and in the worked example.
const LETTERS: usize = 5;
const EXAMPLE_LETTERS: usize = 3;

/// The length of the worked example in tokens, at most.
pub(super) const EXAMPLE_TOKENS: usize = 500;

/// The fewest repetitions of the text: one for each assignment.
pub(super) const FEWEST: usize = HOPS + 1;

/// The first value that is not drawn.
const VALUES_END: u32 = 99_999;
const VALUES_START: u32 = 10_000;

const INSTRUCTION: &str =
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n";

/// Variables that all have one value.
struct Chain {
    value: String,
    variables: Vec<String>,
}

impl Chain {
    fn draw(letters: usize, random: &mut Xoshiro256PlusPlus) -> Self {
        let value = random.random_range(VALUES_START..VALUES_END).to_string();
        let mut variables: Vec<String> = Vec::with_capacity(HOPS + 1);
        while variables.len() <= HOPS {
            let mut letter = |_| char::from(random.random_range(b'A'..=b'Z'));
            let variable: String = (0..letters).map(&mut letter).collect();
            if !variables.contains(&variable) {
                variables.push(variable);
            }
        }
        Self { value, variables }
    }

    /// The assignments. The space at the end of all but the first is that of the benchmark.
    fn lines(&self) -> Vec<String> {
        let first = self.variables.first();
        let first = first.map(|variable| format!("VAR {variable} = {}", self.value));
        let pairs = self.variables.windows(2);
        let others = pairs.filter_map(|pair| match pair {
            [from, to] => Some(format!("VAR {to} = VAR {from} ")),
            _ => None,
        });
        first.into_iter().chain(others).collect()
    }

    /// The instruction, and the text repeated `noises` times with the assignments before repetitions
    /// drawn at random, in their order.
    fn document(&self, noises: usize, random: &mut Xoshiro256PlusPlus) -> String {
        let lines = self.lines();
        let places = index::sample(random, noises, lines.len().min(noises)).into_vec();
        let places: HashSet<usize> = places.into_iter().collect();
        let mut lines = lines.into_iter();
        let mut document = String::with_capacity((noises + HOPS + 1) * (NOISE.len() + 1));
        for at in 0..noises {
            if places.contains(&at)
                && let Some(line) = lines.next()
            {
                document.push_str(&line);
                document.push('\n');
            }
            document.push_str(NOISE);
            if at + 1 < noises {
                document.push('\n');
            }
        }
        format!("{INSTRUCTION}{document}")
    }

    fn question(&self) -> String {
        format!(
            "Question: Find all variables that are assigned the value {} in the text above.",
            self.value
        )
    }

    fn answer_prefix(&self) -> String {
        format!(
            " Answer: According to the chain(s) of variable assignment in the text above, {} variables are \
             assigned the value {}, they are: ",
            HOPS + 1,
            self.value
        )
    }
}

/// A worked example with its answer.
fn example(noises: usize, random: &mut Xoshiro256PlusPlus) -> (String, Chain) {
    let chain = Chain::draw(EXAMPLE_LETTERS, random);
    let text = format!(
        "{}\n{}{}",
        chain.document(noises, random),
        chain.question(),
        chain.answer_prefix()
    );
    (text, chain)
}

/// The example alone, to find how often it repeats the text.
pub(super) fn example_draft(seeds: Seeds) -> Draft<'static> {
    Draft {
        separator: "",
        question: String::new(),
        answer_prefix: String::new(),
        references: Vec::new(),
        units: FEWEST..=usize::MAX,
        compose: Box::new(move |noises| {
            let mut random = seeds.stream(0, Purpose::Example);
            Composed::new("", &example(noises, &mut random).0)
        }),
    }
}

/// The sample `index`. The worked example repeats the text `example_noises` times.
pub(super) fn draft(seeds: Seeds, index: usize, example_noises: usize) -> Draft<'static> {
    let (example, shown) = example(
        example_noises.max(FEWEST),
        &mut seeds.stream(index, Purpose::Example),
    );
    let mut random = seeds.stream(index, Purpose::Words);
    let mut chain = Chain::draw(LETTERS, &mut random);
    while chain.value == shown.value {
        chain = Chain::draw(LETTERS, &mut random);
    }
    let head = format!("{example} {}\n\n", shown.variables.join(" "));
    Draft {
        separator: "\n",
        question: chain.question(),
        answer_prefix: chain.answer_prefix(),
        references: chain.variables.clone(),
        units: FEWEST..=usize::MAX,
        compose: Box::new(move |noises| {
            let mut random = seeds.stream(index, Purpose::Order);
            Composed::new(&head, &chain.document(noises, &mut random))
        }),
    }
}
